"""`roster generate` and `roster inspect`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import DtypeOption, MixtureBase, MixtureFolder, TemplateOption, console, open_mixture, table
from roster.errors import RosterError
from roster.prompts import Message

_RANKED = 5
"""Experts of a ranking that are shown."""
Prompt = Annotated[str | None, typer.Argument(help="What to ask, as a text.")]
Messages = Annotated[
    Path | None,
    typer.Option(
        help='In place of a text: a JSON file with a chat, [{"role": "user", "content": "Hello"}, ...]; - reads it.'
    ),
]
Task = Annotated[str | None, typer.Option(help="The task (or expert), for recipes that route by task.")]


def generate(
    folder: MixtureFolder,
    prompt: Prompt = None,
    messages: Messages = None,
    task: Task = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 64,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens instead of taking the likeliest.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Of the draw; 1 by default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draw; 0 by default.")] = None,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
    base: MixtureBase = None,
) -> None:
    """Answer a prompt, or a chat, with a saved mixture.

    Where the tokenizer has a chat template, a prompt is what a user says; --no-template goes on from it as it stands.

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
    asked = _asked(prompt, messages)
    model = open_mixture(folder, base, template, dtype)
    drawing = {"temperature": temperature} if sample else {}
    typer.echo(_answer(model, asked, task, max_new_tokens, seed or 0, do_sample=sample, **drawing))


def inspect(
    folder: MixtureFolder,
    prompt: Prompt = None,
    messages: Messages = None,
    task: Task = None,
    tokens: Annotated[int, typer.Option("--generate", min=1, help="Most tokens to generate.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Save the token heat map: .html or .png.")] = None,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
    base: MixtureBase = None,
) -> None:
    """Show which experts a mixture used for a prompt and its answer: per layer here, per token in a file.

    A mixture that `auto` routes explains its choice: the ranking, the nearest examples, and why the base answered alone
    where it did.

    \b
    Examples:
      roster build pocket pocket --out routed
      roster inspect routed "reverse: abcd ="
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster inspect my-mixture "reverse: abcd & sort: dbca ="
      roster inspect my-mixture "reverse: abcd & sort: dbca =" --out routes.html
    """
    if out is not None and out.suffix.lower() not in (".html", ".png"):
        raise RosterError(f"a heat map is .html or .png, not {out.name!r}")
    from roster.analyze.heatmap import save
    from roster.api import trace

    asked = _asked(prompt, messages)
    model = open_mixture(folder, base, template, dtype)
    with trace(model) as routes:
        answer = _answer(model, asked, task, tokens, do_sample=False)
    typer.echo(answer)
    if model.roster.plan.decides:
        _explain(model, asked)
    else:
        routes.print(console())
    if out is not None:
        typer.echo(f"wrote {save(routes, out)}")


def _explain(model: Any, prompt: str | list[Message]) -> None:
    from rich.markup import escape

    from roster.auto.explain import explain

    found = explain(model, prompt)
    typer.echo(found.why)
    ranking = table("expert", "probability", "cosine", "not told from it", right=("probability", "cosine"))
    for each in found.ranking[:_RANKED]:
        others = ", ".join(each.others)
        ranking.add_row(escape(each.expert), f"{each.probability:.3f}", f"{each.cosine:.2f}", escape(others))
    console().print(ranking)
    nearest = table("nearest examples", "expert", "cosine", right=("cosine",))
    for name, text, cosine in found.nearest:
        nearest.add_row(escape(text), escape(name), f"{cosine:.2f}")
    console().print(nearest)


def _asked(prompt: str | None, messages: Path | None) -> str | list[Message]:
    """The prompt: a text, or the messages of a file."""
    if (prompt is None) == (messages is None):
        raise RosterError("give either a prompt or --messages FILE")
    if messages is None:
        return prompt or ""
    import pydantic

    try:
        text = sys.stdin.read() if str(messages) == "-" else messages.read_text(encoding="utf-8")
        return pydantic.TypeAdapter(list[Message]).validate_json(text, strict=True)
    except (UnicodeDecodeError, pydantic.ValidationError):
        form = '[{"role": "user", "content": "Hello"}, ...]'
        raise RosterError(f"{str(messages)!r} holds no chat; it should be a JSON list such as {form}") from None


def _answer(
    model: Any, prompt: str | list[Message], task: str | None, tokens: int, seed: int = 0, **drawing: Any
) -> str:
    import torch

    from roster.arena.evaluate import check_lengths

    rendering = model.roster.rendering
    ids = torch.tensor(check_lengths(model, rendering, [prompt], tokens, ["the prompt"]), device=model.device)
    tasks = _tasks(model, task)
    torch.manual_seed(seed)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            pad_token_id=rendering.pad_token_id,
            tasks=tasks,
            **drawing,
        )
    answer: str = rendering.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return answer


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
