"""`roster generate` and `roster inspect`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import MixtureBase, MixtureFolder, console, open_mixture
from roster.errors import RosterError

Prompt = Annotated[str, typer.Argument(help="The text to go on from.")]
Task = Annotated[str | None, typer.Option(help="The task (or expert), for recipes that route by task.")]


def generate(
    folder: MixtureFolder,
    prompt: Prompt,
    task: Task = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 64,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens instead of taking the likeliest.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Of the draw; 1 by default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draw; 0 by default.")] = None,
    base: MixtureBase = None,
) -> None:
    """Answer a prompt with a saved mixture.

    \b
    Examples:
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster generate my-mixture "reverse: abcd ="
      roster generate my-mixture "reverse: abcd =" --sample --seed 3
    """
    if not sample and (temperature is not None or seed is not None):
        raise RosterError("--temperature and --seed are of use with --sample only")
    temperature = 1.0 if temperature is None else temperature
    if not 0 < temperature < math.inf:
        raise RosterError(f"--temperature must be above 0, not {temperature}")
    model = open_mixture(folder, base)
    drawing = {"temperature": temperature} if sample else {}
    typer.echo(_answer(model, prompt, task, max_new_tokens, seed or 0, do_sample=sample, **drawing))


def inspect(
    folder: MixtureFolder,
    prompt: Prompt,
    task: Task = None,
    tokens: Annotated[int, typer.Option("--generate", min=1, help="Most tokens to generate.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Save the token heat map: .html or .png.")] = None,
    base: MixtureBase = None,
) -> None:
    """Show which experts a mixture used for a prompt and its answer: per layer here, per token in a file.

    \b
    Examples:
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster inspect my-mixture "reverse: abcd & sort: dbca ="
      roster inspect my-mixture "reverse: abcd & sort: dbca =" --out routes.html
    """
    if out is not None and out.suffix.lower() not in (".html", ".png"):
        raise RosterError(f"a heat map is .html or .png, not {out.name!r}")
    from roster.analyze.heatmap import save
    from roster.api import trace

    model = open_mixture(folder, base)
    with trace(model) as routes:
        answer = _answer(model, prompt, task, tokens, do_sample=False)
    typer.echo(answer)
    routes.print(console())
    if out is not None:
        typer.echo(f"wrote {save(routes, out)}")


def _answer(model: Any, prompt: str, task: str | None, tokens: int, seed: int = 0, **drawing: Any) -> str:
    import torch

    from roster.arena.evaluate import check_lengths

    tokenizer = model.roster.tokenizer
    check_lengths(model, tokenizer, [prompt], tokens, ["the prompt"])
    tasks = _tasks(model, task)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    torch.manual_seed(seed)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            pad_token_id=pad,
            tasks=tasks,
            **drawing,
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def _tasks(model: Any, task: str | None) -> list[str | None] | None:
    """The `tasks=` of one row; a recipe that routes by task must be told one."""
    if not model.roster.plan.routes_by_task:
        if task is not None:
            raise RosterError(f"recipe {model.roster.recipe!r} does not route by task; leave --task out")
        return None
    if task is None:
        raise RosterError(f"recipe {model.roster.recipe!r} routes by task: give --task, one of {model.roster.tasks}")
    model.task_ids([task])  # refuses a task that it does not know
    return [task]
