"""`roster generate` and `roster inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli import app
from roster.cli.common import check_prompt, check_task, open_mixture

_GENERATE = """Answer a prompt with a saved mixture.

**Examples**

    roster build pocket pocket --router arrow-mbc --out my-mixture
    roster generate my-mixture "reverse: abcd ="
    roster generate my-mixture "reverse: abcd =" --sample --temperature 0.7 --seed 3
"""
_INSPECT = """Show which experts a mixture used for a prompt and its answer: a table by layer, a picture by token.

**Examples**

    roster build pocket pocket --router arrow-mbc --out my-mixture
    roster inspect my-mixture "reverse: abcd & shift: bcde =" --out routes.html
"""

Folder = Annotated[str, typer.Argument(help="What `roster build` wrote.")]
Prompt = Annotated[str, typer.Argument(help="The text to go on from.")]
Task = Annotated[str | None, typer.Option(help="The task (or expert), for recipes that route by task.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")]


@app.command(help=_GENERATE)
def generate(
    folder: Folder,
    prompt: Prompt,
    task: Task = None,
    max_new_tokens: NewTokens = 64,
    sample: Annotated[bool, typer.Option(help="Draw tokens instead of taking the likeliest.")] = False,
    temperature: Annotated[float, typer.Option(help="Of the draw.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Prints the answer and nothing else."""
    import torch

    model = open_mixture(folder)
    torch.manual_seed(seed)
    drawing = {"do_sample": True, "temperature": temperature} if sample else {"do_sample": False}
    typer.echo(_answer(model, prompt, task, max_new_tokens, drawing))


@app.command(help=_INSPECT)
def inspect(
    folder: Folder,
    prompt: Prompt,
    task: Task = None,
    max_new_tokens: NewTokens = 64,
    out: Annotated[Path | None, typer.Option(help="Save the token heat map, .html or .png.")] = None,
) -> None:
    """Prints the answer and the table of loads."""
    import roster
    from roster.analyze.heatmap import save
    from roster.errors import RosterError

    if out is not None and out.suffix not in (".html", ".png"):
        raise RosterError(f"a heat map is .html or .png, not {out.name!r}")
    model = open_mixture(folder)
    with roster.trace(model) as routes:
        answer = _answer(model, prompt, task, max_new_tokens, {"do_sample": False})
    typer.echo(answer)
    routes.print()
    if out is not None:
        typer.echo(f"wrote {save(routes, out)}")


def _answer(model: Any, prompt: str, task: str | None, max_new_tokens: int, drawing: dict[str, Any]) -> str:
    import torch

    check_prompt(model, prompt, max_new_tokens)
    tasks = check_task(model, task)
    tokenizer = model.roster.tokenizer
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            tasks=tasks,
            **drawing,
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
