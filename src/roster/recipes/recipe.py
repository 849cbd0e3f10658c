"""Recipe: the record of a published method. The method itself is a function that returns a composition."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import pydantic

from roster.errors import RosterError, nearest
from roster.recipes.verdicts import Verdict, verdicts

_STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Recipe:
    """A method as the catalogue knows it.

    Attributes:
        slug: its name everywhere.
        title: the name that people say.
        source: authors, year, title and arXiv number, or "roster" for a yardstick that nobody has published.
        compose: returns the composition; its keyword arguments are the method's options, read from its signature.
        trains: what has to be trained before the method is any good: "nothing", "router", "experts", "router and
            experts", or "everything".
        batch_invariant: whether a row's output is independent of its batch-mates at evaluation.
        claim: what the source says of it, in one sentence; None for a yardstick.
        evidence: the test or result file, relative to the repository; the verdict is read from `verdicts.json`.
        needs: what a caller must bring: "tasks" (task of each row), "examples" (prompts on the experts' cards),
            "gates" (trained beside each adapter), "training" (a router trained on data); of recorded answers:
            "answers", "texts", "checks" (`roster.lm.lacking`).
        kind: the arena it competes in; "offload" is a strategy for experts that do not fit into memory, "place" a way
            to lay experts onto devices; "study" is no composition for a model but something to run (an analysis, a way
            of decoding, an experiment), which `compose` returns.
        causal: whether a token's output is independent of the tokens after it, so that step-by-step generation equals
            the full forward pass.
    """

    slug: str
    title: str
    source: str
    compose: Callable[..., Any]
    trains: Literal["nothing", "router", "experts", "router and experts", "everything"]
    batch_invariant: bool
    claim: str | None
    evidence: str
    needs: tuple[str, ...] = ()
    kind: Literal["mixture", "moe", "lm", "offload", "place", "study"] = "mixture"
    causal: bool = True

    @property
    def verdict(self) -> Verdict | None:
        """What the protocol says of the claim; None where there is no claim."""
        if self.claim is None:
            return None
        return verdicts().get(self.slug, Verdict("undecided", "no check has been declared"))

    @property
    def claim_verdict(self) -> str | None:
        """ "shown", "refuted" or "undecided"; None where there is no claim."""
        return None if self.verdict is None else self.verdict.word

    @property
    def claim_shown(self) -> bool | None:
        """True for a claim that is shown, False for one that is refuted, None for all others."""
        return {"shown": True, "refuted": False}.get(self.claim_verdict or "")

    @property
    def description(self) -> str:
        """Equation, shapes, siblings and differences from the source, as the method's file says them."""
        return inspect.getdoc(sys.modules[self.compose.__module__]) or ""

    def options(self) -> dict[str, Any]:
        """Every option with its default."""
        return {name: p.default for name, p in inspect.signature(self.compose).parameters.items()}

    def __call__(self, options: Mapping[str, Any] | None = None) -> Any:
        """The composition for these options.

        Raises:
            RosterError: an option that the method does not have, with the nearest that it has, or a value of the
                wrong kind.
        """
        known, kinds = self.options(), get_type_hints(self.compose)
        for name, value in (options or {}).items():
            if name not in known:
                raise RosterError(f"recipe {self.slug!r} has no option {name!r}: {nearest(name, known)}")
            try:
                pydantic.TypeAdapter(kinds[name], config=_STRICT).validate_python(value)
            except pydantic.ValidationError as error:
                what = error.errors()[0]["msg"].lower()
                raise RosterError(f"recipe {self.slug!r}: option {name}={value!r}: {what}") from None
        return self.compose(**dict(options or {}))
