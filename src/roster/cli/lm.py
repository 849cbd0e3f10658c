"""`roster lm`: records, reports and policies of routers among whole language models."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.boards import app as boards
from roster.cli.common import JobsOption, RayOption, console
from roster.cli.lm_recipes import recipes_for
from roster.cli.lm_votes import evaluate_votes, import_votes, say
from roster.errors import RosterError
from roster.options import parse_options

if TYPE_CHECKING:
    from roster.recipes import Recipe

app = typer.Typer(no_args_is_help=True, help="Route prompts among whole language models.")
app.add_typer(boards, name="board")
Data = Annotated[str, typer.Argument(help="A folder of records, or recorded data such as `llmrouter`.")]
Without = Annotated[list[str] | None, typer.Option("--without", help="A model to leave out; may be repeated.")]
Routers = Annotated[list[str] | None, typer.Option("--router", help="A recipe's name; may be repeated.")]


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="Recorded data, such as `llmrouter`, or `all`.")],
    again: Annotated[bool, typer.Option("--again", help="Download even what is there already.")] = False,
) -> None:
    """Download the texts of recorded data, whose figures come with roster.

    Files are pinned by commit and checked by sha256; a broken download goes on where it stopped. They are put into
    ~/.cache/roster (another folder: ROSTER_CACHE). ROSTER_DATA names a folder that has them already, ROSTER_DATA_URL a
    mirror.

    \b
    Examples:
      roster lm fetch llmrouter
      roster lm fetch zeroeval
    """
    from roster.cli.fetching import shown
    from roster.lm.data import LOADERS, fetching
    from roster.lm.data.sources import asked

    for each in [*LOADERS] if name == "all" else [name]:
        for source in asked(each):
            typer.echo(f"{source.name}: github.com/{source.repository} at {source.commit[:12]}, {source.licence}")
        if fetching.is_here(each) and not again:
            typer.echo("  is here already")
            continue
        with shown() as progress:
            typer.echo(f"  is in {fetching.fetch(each, progress, again)}")


@app.command("log")
def log(
    data: Data,
    count: Annotated[int, typer.Option(min=1, help="Prompts, taken evenly over the data.")] = 100,
) -> None:
    """Print recorded data as a log, one call per line: the form that `roster lm import` reads.

    \b
    Examples:
      roster lm log zeroeval --count 300 > log.jsonl
    """
    from roster.lm.exporting import log_lines
    from roster.lm.storing import find_records

    for line in log_lines(find_records(data), count):
        typer.echo(line)


@app.command("import")
def import_log(
    file: Annotated[Path, typer.Argument(help="JSONL or Parquet, one call per line.")],
    out: Annotated[Path, typer.Option(help="The folder of records to write.")],
    currency: Annotated[str, typer.Option(help="What a cost of 1 is.")] = "USD",
    text: Annotated[str, typer.Option(help="What a decision sees of a chat: last-user, all-user or conversation.")] = (
        "last-user"
    ),
    prices: Annotated[Path | None, typer.Option(help="YAML: each model's `input` and `output` per 1M tokens.")] = None,
    without: Without = None,
) -> None:
    """Check a log of calls, or of votes, and write it as records, or as votes.

    Each line has a prompt (or the messages of a chat), a model and, where known, score (0 to 1), cost, latency in
    seconds, answer, logprob, checked (the share of the model's own checks that called its answer right), check_cost,
    dataset, split, prompt_tokens, completion_tokens, and propensity: the chance with which this model was chosen for
    the prompt. With --prices, costs that were not logged follow from the tokens. A log of
    votes has a prompt, model_a, model_b and winner (model_a, model_b or tie) on each line.

    \b
    Examples:
      roster lm log zeroeval --count 300 > log.jsonl
      roster lm import log.jsonl --out my-records
      roster lm import log.jsonl --out chats --text all-user \\
        --without gpt-4o-2024-08-06
    """
    from roster.lm.importing import read_log
    from roster.lm.prices import read_prices
    from roster.lm.storing import save_records
    from roster.lm.text import text_rule
    from roster.lm.votes.ballots import is_of_votes

    if is_of_votes(file):
        import_votes(file, out, text, tuple(without or ()))
        return
    known = None if prices is None else read_prices(prices)
    records = read_log(file, currency, text=text_rule(text), prices=known, without=tuple(without or ()))
    save_records(records, out)
    splits = {name: records.splits.count(name) for name in ("train", "validation", "test")}
    typer.echo(f"{len(records)} prompts, {len(records.models)} models: " + ", ".join(records.models))
    typer.echo("splits: " + ", ".join(f"{count} {name}" for name, count in splits.items()))
    cells = len(records) * len(records.models)
    typer.echo("missing: " + ", ".join(f"{n} of {cells} {what}s" for what, n in records.missing.items()))
    say(records.notes)


@app.command("eval")
def evaluate(
    data: Data,
    router: Routers = None,
    held_out: Annotated[list[str] | None, typer.Option(help="A data set to hold out; may be repeated.")] = None,
    add: Annotated[list[str] | None, typer.Option(help="A model to add from probes; may be repeated.")] = None,
    probes: Annotated[list[int] | None, typer.Option(min=1, help="How many; may be repeated.")] = None,
    encoder: Annotated[str, typer.Option(help="`tfidf`, `minilm`, `api:MODEL@URL`, any name.")] = "tfidf",
    draws: Annotated[int, typer.Option(min=10, help="Bootstrap draws.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    without: Without = None,
    out: Annotated[Path | None, typer.Option(help="A folder for report.json and report.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    jobs: JobsOption = 1,
    ray: RayOption = None,
) -> None:
    """Measure routers on recorded answers, beside what needs no router.

    Without --router, every recipe that the data allow. The yardsticks are always there: best single model, random,
    static mix, look-up by data set, per-query oracle. Where one model answered each prompt, as in live traffic, the
    figures are estimates, and the report says how far the log carries them. A folder of votes has a report of its own.
    Routers are fitted and explored several at a time with --jobs or --ray.

    \b
    Examples:
      roster lm eval zeroeval --router lm-knn --router modem --draws 100 \\
        --jobs 2
      roster lm eval zeroeval --router carrot-router --held-out gsm8k \\
        --add gpt-4o-2024-08-06 --probes 20 --draws 100 --out lm-report
    """
    from roster.lm.evaluate import evaluate as measure
    from roster.lm.report import tables, write_report
    from roster.lm.storing import find_records
    from roster.lm.votes.storing import are_here
    from roster.workers import Workers

    workers = Workers(jobs, ray)
    if are_here(data):
        if router or held_out or add or probes:
            raise RosterError(f"{data!r} holds votes: there are no routers, data sets or probes to choose")
        evaluate_votes(data, tuple(without or ()), (draws, seed), out, as_json)
        return
    records = find_records(data).without(without or ())
    recipes, left_out = recipes_for(router, records)
    routers = {recipe.slug: _make(recipe, encoder) for recipe in recipes}
    for model in add or []:
        records.column(model)
    with console(stderr=True).status("measuring") as status:
        report = measure(
            records,
            routers,
            held_out=held_out or (),
            added=add or (),
            probes=probes or (10, 20, 50),
            draws=draws,
            seed=seed,
            progress=lambda what: status.update(what),
            workers=workers,
        )
    report.notes = (*report.notes, *left_out)
    if out is not None:
        write_report(report, out)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
        return
    for sentence in report.verdict:
        typer.echo(sentence)
    say(report.notes)
    for each in tables(report):
        console().print(each)


@app.command("tune")
def tune(
    data: Data,
    out: Annotated[Path, typer.Option(help="The policy's folder to write.")],
    router: Annotated[str, typer.Option(help="A recipe's name.")] = "carrot-router",
    budget: Annotated[float | None, typer.Option(help="Mean cost per call, at most.")] = None,
    floor: Annotated[float | None, typer.Option(help="Mean quality, at least.")] = None,
    confidence: Annotated[float | None, typer.Option(help="With which the floor is shown, such as 0.95.")] = None,
    name: Annotated[str | None, typer.Option(help="The policy's name; by default the folder's.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of the recipe, name=value.")] = None,
    without: Without = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Choose a router's operating point on validation prompts, say what the test gave, and save the policy.

    \b
    Examples:
      roster lm tune zeroeval --router carrot-router --budget 0.001 --out cheap
      roster lm tune zeroeval --router lm-knn --option neighbours=20 \\
        --floor 0.85 --out good
      roster lm tune zeroeval --router lm-knn --floor 0.8 --confidence 0.95 \\
        --out sure
    """
    from roster.lm.offline import OfflinePolicy
    from roster.lm.storing import find_records
    from roster.lm.tune import tune as choose

    records = find_records(data).without(without or ())
    ((recipe,), _) = recipes_for([router], records)
    routing = recipe(parse_options(option or []))
    if routing.unserved is not None:
        raise RosterError(f"{router!r} {routing.unserved}")
    tuned = choose(routing, records, budget=budget, floor=floor, confidence=confidence, seed=seed)
    target = f"mean cost at most {budget:g}" if budget is not None else f"mean quality at least {floor:g}"
    lines = [f"target: {target} {records.currency if budget is not None else ''}".rstrip()]
    if confidence is not None:
        lines[0] += f", shown with confidence {confidence:g} on traffic like the validation prompts"
    about: dict[str, Any] = {"recipe": recipe.slug, "data": records.name, "currency": records.currency}
    for split, outcome in (("validation", tuned.validation), ("test", tuned.test)):
        if outcome is not None:
            quality, cost = outcome.quality, outcome.cost
            lines.append(
                f"{split}: quality {quality.value:.4f} [{quality.low:.4f}, {quality.high:.4f}], "
                f"cost {cost.value:.3g} [{cost.low:.3g}, {cost.high:.3g}]"
            )
    if tuned.kept is not None:
        lines.append("the test kept the target" if tuned.kept else "the test did not keep the target")
    about["tuned"] = lines
    OfflinePolicy.of(tuned.routing, name or out.name, about=about, text=records.text).save(out)
    for line in lines:
        typer.echo(line)
    say(tuned.notes)


@app.command("route")
def route(
    policy: Annotated[Path, typer.Argument(help="What `roster lm tune` wrote.")],
    prompt: Annotated[str, typer.Argument(help="The text that the models would see.")],
) -> None:
    """Ask a policy which model it would send a prompt to, and why.

    \b
    Examples:
      roster lm tune zeroeval --router carrot-router --budget 0.001 --out cheap
      roster lm route cheap "What is 17 times 23?"
    """
    import dataclasses

    from roster.lm.offline import load_policy

    typer.echo(json.dumps(dataclasses.asdict(load_policy(policy).decide(prompt)), indent=1))


def _make(recipe: Recipe, encoder: str) -> Any:
    options = {"encoder": encoder} if "encoder" in recipe.options() else {}
    return partial(recipe, options)
