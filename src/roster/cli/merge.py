"""`roster merge`: several checkpoints into one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.common import JobsOption, RayOption, console, importing, quiet
from roster.cli.writing import Asking, EvalOption, Progress, place
from roster.errors import RosterError
from roster.options import parse_options

if TYPE_CHECKING:
    from roster.merge import MergeConfig
    from roster.merge.learned import Learned


def merge(
    configs: Annotated[list[Path] | None, typer.Argument(help="mergekit's YAML; may be several. Or --method.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; of several files, one in it for each.")] = None,
    method: Annotated[str | None, typer.Option(help="A method, instead of a YAML file.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model; once for each.")] = None,
    base: Annotated[str | None, typer.Option(help="The model that the others were made of.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="name=value; per model: 'weight=[0.3, 0.7]'.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="JSONL to learn from: one for all models, or one for each.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of a --data file at most.")] = 64,
    length: Annotated[int, typer.Option(help="Tokens of a row at most.")] = 512,
    keep: Annotated[Path | None, typer.Option(help="Keep what was learned here, for other merges.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The type of the result.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of one output file.")] = "5GB",
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder by the new one.")] = False,
    evaluation: EvalOption = None,
    report: Annotated[
        bool, typer.Option(help="Figures of every tensor: merge.json, and merge.html to look at.")
    ] = True,
    jobs: JobsOption = 1,
    ray: RayOption = None,
) -> None:
    """Merge models that share an architecture, streamed from disk to disk.

    A killed run goes on when it is started again. `roster merge --plan` shows the methods' operands without reading a
    weight. Of several YAML files each is a merge of its own, named like the file; --jobs and --ray make some at a time.

    wemoe-merging makes a routed mixture, whose gates learn from --data; pamal (a --model a task, or one for all) and
    palora (a --base) train models for every weighing of tasks, one --data a task.

    fisher, regmean, adamerging and atlas learn from --data first: rows with messages, text, or prompt and answer.

    \b
    Examples:
      roster merge --method linear --model pocket --option weight=1 --plan
      roster merge --method linear --model pocket --option weight=1 --out my-merge
      roster pocket data --skill sort --count 8 --out sorting.jsonl
      roster merge --method regmean --model pocket --model my-merge \\
        --data sorting.jsonl --out my-regmean
      roster pocket data --split test --count 2 > test.jsonl
      roster merge --method linear --model pocket --option weight=1 \\
        --eval test.jsonl --out my-measured
    """
    with importing():
        from roster.merge import find_method, plan_merge, read_config
        from roster.merge.many import merge_many
        from roster.merge.method import MODEL
        from roster.merge.report import PAGE, add_quality
        from roster.merge.running import carry_out
        from roster.weights import parse_size
        from roster.workers import Workers

    workers, size = Workers(jobs, ray), parse_size(max_shard_size)
    config = configs[0] if configs else None
    if (config is None) == (method is None):
        raise RosterError("give a YAML file, or --method with --model; not both")
    if config is not None and (model or base or option or dtype):
        raise RosterError("--model, --base, --option and --dtype go with --method; with a YAML file they stand in it")
    if configs is not None and not plan and (len(configs) > 1 or workers.are_elsewhere):
        if data or evaluation or out is None:
            raise RosterError("several YAML files, --jobs and --ray take --out FOLDER, and neither --data nor --eval")
        merge_many(configs, out, max_shard=size, overwrite=overwrite, figures=report, workers=workers, report=_say)
        typer.echo(f"wrote {out}")
        return
    if workers.are_elsewhere or len(configs or ()) > 1:
        raise RosterError("--plan shows one YAML file, and needs no workers; --jobs and --ray take YAML files")
    asked = read_config(config) if config is not None else _config(method or "", model or [], base, option or [], dtype)
    if out is None and not plan:
        raise RosterError("give --out FOLDER, or --plan to see what would be done")
    asking = Asking(evaluation, plan)
    if asking and (makes := find_method(asked.method).makes) != MODEL:
        raise RosterError(f"method {asked.method!r} makes {makes}, and --eval measures one model of a merge")
    if asking and not report:
        raise RosterError("--eval writes into the report: leave out --no-report")
    folder = keep or (Path(".learned") if out is None else out.with_name(f".{out.name}.learned"))
    learned = _learned(asked, data or [], folder, rows, length)
    made = plan_merge(asked, size, learned)
    if learned is not None:
        typer.echo(learned.text())
    if plan or out is None:
        typer.echo(made.text())
        return
    if out.exists() and not overwrite:
        raise RosterError(f"{str(out)!r} is there already; choose another folder, or give --overwrite")
    typer.echo(made.text(every=False))
    told = carry_out(
        asked,
        made,
        learned,
        out,
        overwrite=overwrite,
        figures=report,
        steps=_told,
        progress=Progress("merging", made.bytes_to_write),
    )
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    typer.echo(f"wrote {out}{told and f': {told}'}" + (f"; figures: {out / PAGE}" if report else ""))
    if asking:
        add_quality(out, asking.answered({each: each for each in asked.models}, out))


def _learned(config: MergeConfig, data: list[Path], folder: Path, rows: int, length: int) -> Learned | None:
    from roster.merge.methods import find_method

    if find_method(config.method).learner is None and not data:
        return None  # before texts, and what reads them, are imported
    from roster.merge.learning import Data, prepare

    quiet()
    return prepare(config, Data(data, folder, rows, length))


def _told(what: str, done: int, count: int) -> None:
    if done == count or done % max(count // 10, 1) == 0:
        console(stderr=True).print(f"{what}: {done} of {count}", highlight=False)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _config(method: str, models: list[str], base: str | None, options: list[str], dtype: str | None) -> MergeConfig:
    from roster.merge.asked import make_config

    settings = parse_options(options)
    return make_config(method, [place(each) for each in models], None if base is None else place(base), settings, dtype)
