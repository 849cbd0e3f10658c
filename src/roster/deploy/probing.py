"""The probe of a mixture: fitted on the same examples as its judge, by the base's first blocks or an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from roster.auto.features import Place
from roster.auto.generic import GENERIC
from roster.auto.judge import Judge
from roster.auto.probe import Probe, Taught, fit
from roster.auto.readers import Encoded, FirstBlocks, Reader, cut
from roster.auto.sentences import Function, SentenceJudge
from roster.auto.settings import OF_ENCODERS, Settings
from roster.errors import RosterError
from roster.lm.encode import encoder
from roster.routed.becoming import detach

FIRST = "first"
AUTO = "auto"
_TRIED = (1, 2)
"""Blocks, counted from 1: one is enough on the real ground (docs/deploy.md), and each costs the same again."""
_POOLING = "mean"


def taught_by(model: Any) -> Taught:
    """The examples of a mixture, and what its judge has made of them.

    Raises:
        RosterError: another recipe than `auto`.
    """
    mixture = model.roster
    judge = mixture.head
    if not isinstance(judge, Judge):
        raise RosterError(
            f"`roster deploy` names one adapter for each prompt, as the recipe 'auto' does; this mixture's is "
            f"{mixture.recipe!r}: build one with `roster build BASE EXPERTS --out FOLDER`"
        )
    known = judge.knowledge
    names = list(mixture.experts)
    prompts = [
        mixture.adapters[names[expert]].card.examples[index]
        for expert, index in zip(known.expert_N.tolist(), known.index_N.tolist(), strict=True)
    ]
    settings = Settings(**{key: value for key, value in mixture.options.items() if key != "chat"})
    return Taught(tuple(names), known, prompts, settings)


def make_probe(model: Any, reads: str = FIRST, tick: Callable[[int], None] = lambda count: None) -> Probe:
    """A probe for a mixture.

    Args:
        model: the mixture; it is taken apart unless an encoder reads.
        reads: "first": the base's first blocks, as few as do; "auto": what `auto` itself reads, so that prompts
            of one turn are decided as it decides them; or an encoder's name (`roster.lm.encode.encoder`).
        tick: called with the number of examples that have just been read.

    Raises:
        RosterError: another recipe, an encoder that is not there, or a base without blocks.
    """
    taught = taught_by(model)
    return fit(taught, _readers(model, taught, reads), tick)


def _readers(model: Any, taught: Taught, reads: str) -> Sequence[tuple[Reader, Place]]:
    if reads not in (FIRST, AUTO):
        return [(Encoded(encoder(reads).fit([*taught.texts, *GENERIC])), OF_ENCODERS)]
    judge, rendering = model.roster.head, model.roster.rendering
    if reads == AUTO and isinstance(judge, SentenceJudge):
        if isinstance(judge.reader.encoder, Function):
            raise RosterError("the mixture decides by a function, which the gateway cannot be given: --reads first")
        return [(judge.reader, OF_ENCODERS)]
    depth = model.config.get_text_config().num_hidden_layers
    own: Place = (judge.blocks[0], judge.pooling)
    places = [own] if reads == AUTO else [(block, _POOLING) for block in _TRIED if block <= depth]
    body = cut(detach(model), max(block for block, _ in places))
    return [(FirstBlocks(body, rendering, place), place) for place in places]
