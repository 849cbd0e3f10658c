"""docs/results/lm.md from docs/results/lm.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.lm.report import number


def page(content: dict[str, Any]) -> str:
    """The Markdown page; parts that have not been run are left out."""
    about, results = content["about"], content["results"]
    lines = [
        "# Routing among whole models",
        "",
        "Made by `python -m evidence.lm` from the recorded data that come with roster.",
        f"{about['date']}, {about['machine']}, {about['versions']}.",
        "",
    ]
    for name, render in _RENDER.items():
        if name in results:
            lines += [*render(results[name]), ""]
    return "\n".join(lines)


def _routers(title: str) -> Callable[[dict[str, Any]], list[str]]:
    def render(report: dict[str, Any]) -> list[str]:
        lines = [f"## {title}", "", *(line for sentence in report["verdict"] for line in (sentence, ""))]
        lines += [f"Data: {note}." for note in report["notes"]]
        for section in report["sections"]:
            lines += ["", *_section(section, report["currency"])]
        if report["added"]:
            lines += ["", "### Models added from k probes", ""]
            lines += ["| router | model | k | AUROC | Brier | quality | without it | fully trained |"]
            lines += ["|---|---|---|---|---|---|---|---|"]
            for row in report["added"]:
                keys = ("auroc", "brier", "quality", "quality_without", "quality_retrained")
                cells = " | ".join(number(row[key]) for key in keys)
                lines.append(f"| {row['router']} | {row['model']} | {row['probes']} | {cells} |")
        return lines

    return render


def _section(section: dict[str, Any], currency: str) -> list[str]:
    lines = [
        f"### {section['title'][0].upper()}{section['title'][1:]}",
        "",
        f"{section['train_prompts']} prompts to learn from, {section['test_prompts']} to be judged on, "
        f"{section['models']} models. Quality at the cost of random, {section['cost_of_random']:.3g} {currency} per "
        f"call. Cost: what it takes to reach the best single model ({section['single']}, "
        f"{section['single_quality']:.4f}), relative to it. Router cost: of a decision, relative to a call.",
        "",
        *_EARLIER * ("best" not in section["rows"][0]),
        "| router | quality | best on the test | over the look-up | AIQ | cost "
        "| ECE | Brier | AUROC | ms | router cost |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in section["rows"]:
        kind = "" if row["kind"] == "router" else f" ({row['kind']})"
        price = "–" if row["router_cost"] is None else f"{100 * row['router_cost']:.2g} %"
        cells = [
            f"{row['router']}{kind}",
            _figure(row["quality"]),
            number(row["best"]["value"]) if "best" in row else "–",
            _figure(row["over_lookup"], "+"),
            _figure(row["aiq"]),
            _figure(row["cost"]),
            *(number(row[key]) for key in ("ece", "brier", "auroc")),
            number(row["decision_ms"], 2),
            price,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


_EARLIER = (
    "These figures are of an earlier report: it chose settings on the test, left out resamples that do not reach the "
    "single model's quality, judged every router by an interval of its own, and called the hull through the cheapest "
    "model, a random one and the dearest `lm-random`.",
    "",
)
"""What a reader must know of results that were stored before `Row.best` was."""


def _figure(figure: dict[str, Any], sign: str = "") -> str:
    value, low, high = (number(figure[name], 4, sign) for name in ("value", "low", "high"))
    return "–" if figure["value"] is None else f"{value} [{low}, {high}]"


def _cascade(title: str) -> Callable[[dict[str, Any]], list[str]]:
    def render(result: dict[str, Any]) -> list[str]:
        orders = result["orders"]
        lines = [
            f"## {title}",
            "",
            f"{result['prompts']} prompts; weak model {result['weak']:.4f}, strong model {result['strong']:.4f}. The "
            f"confidence in the weak model's answer is learned from {result['reads']}, cross-fitted in five folds; its "
            f"AUROC is {result['confidence_auroc']:.3f}. The expected gain takes it off the strong model's chance, "
            "learned from the question.",
            "",
        ]
        for name, found in orders.items():
            verdict = "better" if found["better_at_every_share"] else "not better"
            beyond = "beyond" if found["beyond_interval_at_every_share"] else "not everywhere beyond"
            lines += [
                f"By {name}: {verdict} than escalating at random at every share from 5 % to 95 %, {beyond} the 95 % "
                "interval of the paired bootstrap.",
                "",
            ]
        lines += [f"| share to the strong model | {' | '.join(f'by {n} | over random' for n in orders)} |"]
        lines += ["|---" * (1 + 2 * len(orders)) + "|"]
        for rows in zip(*(found["rows"] for found in orders.values()), strict=True):
            cells = []
            for row in rows:
                over = f"{row['over_random']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
                cells += [f"{row['quality']:.4f}", over]
            lines.append(f"| {100 * rows[0]['share']:.0f} % | {' | '.join(cells)} |")
        return lines

    return render


def _added(result: dict[str, Any]) -> list[str]:
    lines = [
        "## A new model on CRUX, from k probes",
        "",
        "Each of the 51 models in turn is known by k answers only, drawn three times; the other 50 models' answers to "
        "all questions are on record, as in a log. AUROC of its expected success on all other questions, by matrix "
        "factorisation (`roster.lm.estimate.factors`, `recorded`). Questions that no model has answered are another "
        "matter: the tables above have the AUROC from the question's text alone.",
        "",
        "| k | mean AUROC | median | lowest | models at 0.85 or more |",
        "|---|---|---|---|---|",
    ]
    for k, row in result["summary"].items():
        figures = " | ".join(f"{row[name]:.3f}" for name in ("mean", "median", "lowest"))
        lines.append(f"| {k} | {figures} | {row['models_at_0.85']} of {row['models']} |")
    return lines


def _label_free(title: str) -> Callable[[dict[str, Any]], list[str]]:
    def render(result: dict[str, Any]) -> list[str]:
        return [
            f"## {title}",
            "",
            f"{result['models']} models, {result['questions']} questions, no label read. Spearman correlation with the "
            f"true accuracies: agreement (one-coin Dawid-Skene) {result['agreement']:.3f}, Smoothie on equal or "
            f"unequal answers {result['smoothie']:.3f}. Mean absolute error of agreement's accuracies: "
            f"{result['agreement_error']:.3f}.",
        ]

    return render


def _summaries(result: dict[str, float]) -> list[str]:
    ranking = sorted(result.items(), key=lambda item: -item[1])
    return [
        "## Smoothie on summaries without labels",
        "",
        "Five models' summaries of CNN/DailyMail articles, answers embedded by TF-IDF; no score is on record, so this "
        "is a ranking that nothing here can confirm: " + ", ".join(f"{m} {q:.3f}" for m, q in ranking) + ".",
    ]


_RENDER: dict[str, Callable[[Any], list[str]]] = {
    "llmrouter": _routers("LLMRouter, de-duplicated"),
    "zeroeval": _routers("ZeroEval: CRUX and GSM8K, models with a list price"),
    "llmrouter-elsewhere": _routers("LLMRouter: held-out tasks, and a model added from probes"),
    "zeroeval-elsewhere": _routers("ZeroEval: each data set held out, and a model added from probes"),
    "llmrouter-minilm": _routers("LLMRouter, some routers with MiniLM's vectors"),
    "zeroeval-minilm": _routers("ZeroEval, some routers with MiniLM's vectors"),
    "cascade-gsm8k": _cascade("Cascade on RouteLLM's GSM8K"),
    "cascade-mmlu": _cascade("Cascade on RouteLLM's MMLU"),
    "added-crux": _added,
    "label-free-crux": _label_free("Label-free accuracies on CRUX"),
    "label-free-gsm8k": _label_free("Label-free accuracies on GSM8K"),
    "label-free-summaries": _summaries,
}
