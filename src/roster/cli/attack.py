"""`roster attack`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import MixtureBase, console, quiet, table
from roster.errors import RosterError
from roster.options import parse_options


def attack(
    model: Annotated[str, typer.Argument(help="A saved mixture, or any causal model: a folder, a name, `pocket`.")],
    recipe: Annotated[
        str | None, typer.Option(help="First turn the model's blocks into fresh mixtures of this recipe.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="Of the recipe, as name=value; may be repeated.")] = None,
    victim: Annotated[list[str] | None, typer.Option(help="A text to attack; may be repeated.")] = None,
    victims: Annotated[int, typer.Option(min=1, help="Random rows to attack, without --victim.")] = 8,
    mates: Annotated[int, typer.Option(min=1, help="Rows of the attacker in every batch.")] = 7,
    attempts: Annotated[int, typer.Option(min=1, help="Batches tried per victim.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    base: MixtureBase = None,
) -> None:
    """Try to change what a victim gets through the other rows of its batch.

    A model whose rows are independent of each other gives a flip rate of zero.
    Where experts have a capacity or pick their tokens, it does not.

    \b
    Examples:
      roster attack pocket --recipe expert-choice --victims 4
      roster attack pocket --recipe switch-transformer --option capacity=1
      roster attack pocket --recipe gshard-top2 --victims 4 --json
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster attack my-mixture --victim "reverse: abcd ="
    """
    from roster.analyze.attack import Attacked
    from roster.analyze.attack import attack as try_to_change

    if option and recipe is None:
        raise RosterError("--option is of use with --recipe only")
    attacked = _model(model, recipe, parse_options(option or []), base, seed)
    chosen: dict[str, Any] = {"mates": mates, "attempts": attempts, "seed": seed}
    if victim:
        results = [try_to_change(attacked, _ids(attacked, model, base, text), **chosen) for text in victim]
        found = Attacked(
            victims=len(results),
            changed=sum(each.changed for each in results),
            flipped=sum(each.flipped for each in results),
            largest=max(each.largest for each in results),
            attempts=attempts,
        )
    else:
        found = try_to_change(attacked, victims=victims, **chosen)
    if as_json:
        verdict = {"flip_rate": found.flip_rate, "vulnerable": found.vulnerable}
        typer.echo(json.dumps({**dataclasses.asdict(found), **verdict}, indent=1))
        return
    made = table("victims", "changed", "with a flipped token", "flip rate", "largest change of a logit")
    change = f"{found.largest:.2g} of the largest"
    made.add_row(str(found.victims), str(found.changed), str(found.flipped), f"{found.flip_rate:.0%}", change)
    console().print(made)
    typer.echo(
        "Rows of one batch change each other's output."
        if found.vulnerable
        else "No batch-mate changed the output of any victim."
    )


def _model(name: str, recipe: str | None, options: dict[str, Any], base: str | None, seed: int) -> Any:
    import torch

    from roster.folders import load_folder
    from roster.routed.base import load_base
    from roster.saving import MANIFEST

    quiet()
    if (Path(name) / MANIFEST).is_file():
        if recipe is not None:
            raise RosterError(f"{name!r} is a mixture already; --recipe is for plain models")
        return load_folder(Path(name), **({} if base is None else {"base": base})).eval()
    model = load_base(name)[0]
    if recipe is None:
        return model
    from roster.moe.replacing import replace

    torch.manual_seed(seed)
    return replace(model, recipe, options=options, tasks=("any",)).eval()


def _ids(model: Any, name: str, base: str | None, text: str) -> Any:
    """The token ids of a text, [1, S]."""
    import torch

    from roster.prompts import Rendering
    from roster.routed.base import load_tokenizer

    own = getattr(getattr(model, "roster", None), "tokenizer", None)
    tokenizer = load_tokenizer(base or name) if own is None else own
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer for {name!r}: leave --victim out to attack random rows")
    if not text:  # there might still be a token for the beginning
        raise RosterError("--victim has no tokens: give a text")
    return torch.tensor([Rendering(tokenizer, own is None or model.roster.template).ids(text)])
