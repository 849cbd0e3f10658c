"""docs/results/auto.md, from what `evidence.auto` has collected."""

from __future__ import annotations

from typing import Any

from evidence.auto_asked import asked


def page(result: dict[str, Any]) -> str:
    """The page as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        "# `auto` on the real ground",
        "",
        f"Written by `python -m evidence.auto`. {result['date']}, {result['machine']}, {versions}. "
        f"{len(result['skills'])} adapters on SmolLM2-135M-Instruct in bfloat16: {', '.join(result['skills'])}.",
        "",
    ]
    if result["answers"]:
        lines += [*asked(result), *_answers(result)]
    if result["routing"]:
        lines += _routing(result["routing"])
    if result["scale"]:
        lines += _scale(result["scale"])
    if result["timing"]:
        lines += _timing(result["timing"])
    return "\n".join([*lines, ""])


def _answers(result: dict[str, Any]) -> list[str]:
    names = list(result["questions"])
    sizes = " | ".join(f"{name} ({result['questions'][name]})" for name in names)
    lines = [
        "## Answers",
        "",
        "Share of exact answers in per cent; of nobody's prompts, answers equal to the base's. Number of questions in "
        "brackets. `oracle` is told the skill; `close` skills have no adapter, and there it is the base.",
        "",
        f"| | {sizes} |",
        "|---|" + "---|" * len(names),
    ]
    for contender, shares in result["answers"].items():
        cells = (f"{100 * shares[name]:.1f}" if name in shares else "–" for name in names)
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return [*lines, ""]


def _routing(found: dict[str, Any]) -> list[str]:
    sizes = found.get("questions", {})
    names = ("known", "unseen", "switching", "nobody left to the base", "close left")
    told = (f"{name} ({sizes[name.split()[0]]})" if sizes else name for name in names)
    head = " | ".join([*told, "own prompts left (validation)"])
    lines = [
        "## Who is chosen",
        "",
        "Prompts that reach their own adapter, in per cent, for every place that is tried; the threshold is each one's "
        "own. A row of a sentence encoder has its vectors in place of the base's states. The last column is what "
        "cross-validation says of adapters' own prompts that would go to the base. A prompt that reaches its adapter "
        "is answered token for token as a named adapter answers it, and one left to the base as the base does "
        "(tests/auto/test_routing.py).",
        "",
        f"| block, pooling, means | {head} |",
        "|---|" + "---|" * 6,
    ]
    rungs = [
        ("**chosen:** ", found["chosen"]),
        ("**early:** ", found["early"]),
        *(("", each) for each in found["ladder"]),
        *(("", each) for each in found.get("encoders", [])),
    ]
    lines += [_rung(mark, each) for mark, each in rungs]
    lines += [
        "",
        "With fewer examples per adapter, at the chosen place:",
        "",
        "| examples | known | unseen | switching |",
    ]
    lines += ["|---|---|---|---|"]
    for count, groups in found["examples"].items():
        cells = (f"{100 * groups[name]['right']:.1f}" for name in ("known", "unseen", "switching"))
        lines.append(f"| {count} | {' | '.join(cells)} |")
    lines += [
        "",
        "Larger folders: each skill's examples dealt out to several adapters, with fewer each; right is the skill.",
        "",
        "| adapters | told apart | known | unseen | switching | nobody left to the base |",
        "|---|---|---|---|---|---|",
    ]
    for count, each in found["many"].items():
        reached = " | ".join(f"{100 * each[name]['routed right']:.1f}" for name in ("known", "unseen", "switching"))
        lines.append(f"| {count} | {each['classes']} | {reached} | {100 * each['nobody']['left']:.1f} |")
    return lines


def _rung(mark: str, each: dict[str, Any]) -> str:
    kind = "whitened" if each["whitened"] else "plain"
    cells = [f"{100 * each[name]['routed right']:.1f}" for name in ("known", "unseen", "switching")]
    cells += [f"{100 * each[name]['left']:.1f}" for name in ("nobody", "close")]
    cells.append(f"{100 * each['validation']['false_abstention']:.1f}")
    return f"| {mark}{each['block']}, {each['pooling']}, {kind} | {' | '.join(cells)} |"


def _scale(found: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Hundreds and thousands of adapters",
        "",
        "Folders derived from the 18: beside these, adapters for half of the wordings of a skill, stand-ins for other "
        "training runs (a tenth of noise, other examples), duplicates, noisy copies and half-trained ones (half of the "
        "update), a fifth each. Right is an adapter of the prompt's skill; left, prompts that go to the base. Fitting "
        "is what it takes beyond the passes of the base over the examples, duels are passes of adapters over eight of "
        "them each; both in one thread's own seconds.",
        "",
        "| adapters | examples | told apart | known | unseen | switching | left: known, unseen | nobody's left | "
        "fitting | duels |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for count, each in found.items():
        groups = each["groups"]
        right = " | ".join(f"{100 * groups[name]['right']:.1f}" for name in ("known", "unseen", "switching"))
        left = ", ".join(f"{100 * groups[name]['left']:.1f}" for name in ("known", "unseen"))
        duels = "–" if each["duels_s"] is None else f"{each['duels_s']:.0f} s"
        lines.append(
            f"| {count} | {each['examples']} | {each['classes']} | {right} | {left} | {100 * each['nobody']:.1f} | "
            f"{each['fit_s']:.1f} s | {duels} |"
        )
    for count, each in found.items():
        if each["champions"] and len(each["champions"]) > 1:
            kinds, all_kinds = each["champions"], each["kinds"]
            told = ", ".join(f"{kind} {kinds.get(kind, 0)} of {many}" for kind, many in all_kinds.items())
            lines += ["", f"Of {count} adapters, those who serve a class: {told}."]
        if "answers" in each:
            told = ", ".join(f"{name} {100 * one:.1f} %" for name, one in each["answers"].items())
            lines += [
                "",
                f"Right answers of the folder of {count}, where the 18 alone have what `auto` has above: {told}.",
            ]
    return lines


def _timing(found: dict[str, float]) -> list[str]:
    return [
        "",
        "In one thread's own seconds, fitting and calibrating 1,500 adapters of 20 examples, beyond the passes over "
        f"them, takes {found['fit_s_1500']} s.",
    ]
