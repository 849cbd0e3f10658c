"""What a check promises before it runs: claim, ground, contenders, budget, statistic, smallest effect, seeds.

A declaration is a committed file; its digest stands in every line of its results. Covers writing, reading and refusing;
not whether anybody looked at results first, which the history of the repository tells.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from roster.errors import RosterError
from roster.files import write_whole

FEWEST_SEEDS = 5
"""Below this Student's interval is so wide that no declared effect of use can be settled."""


@dataclass(frozen=True)
class Statistic:
    """What one run measures and what counts.

    Attributes:
        what: in words, with the unit.
        better: which direction is.
        effect: the smallest difference that counts, above zero, in the unit.
        asks: "better", by more than `effect`; or "no worse", by less than `effect`.
    """

    what: str
    better: Literal["lower", "higher"]
    effect: float
    asks: Literal["better", "no worse"] = "better"


@dataclass(frozen=True)
class Pairs:
    """Who is set against whom, by names of contenders.

    Attributes:
        method: the method as published.
        baseline: what the source says it beats, treated as well as the method.
        ablation: the method without the one part that the source credits; it may be the baseline.
        planted, against: the positive control, by the same code. Where "better" is asked, `planted` has the effect and
            must be shown to beat `against`; where "no worse" is asked, `planted` has a handicap that must be seen.
    """

    method: str
    baseline: str
    ablation: str
    planted: str
    against: str


@dataclass(frozen=True)
class Declaration:
    """A check before it is run.

    Attributes:
        slug: of the recipe.
        part: which part of the claim, where a claim has several; otherwise "".
        version: raised with every change once there are results.
        claim: the source's, in other words.
        ground: data and model.
        budget: active arithmetic and total parameters, equal or both stated.
        contenders: what each is, by name.
        pairs: who is set against whom.
        statistic: what one run measures.
        seeds: paired runs.
    """

    slug: str
    version: int
    claim: str
    ground: str
    budget: str
    contenders: Mapping[str, str]
    pairs: Pairs
    statistic: Statistic
    seeds: int = 10
    part: str = ""

    def __post_init__(self) -> None:
        for name in asdict(self.pairs).values():
            if name not in self.contenders:
                raise RosterError(f"declaration {self.name!r}: no contender is called {name!r}")
        if not self.statistic.effect > 0:
            raise RosterError(f"declaration {self.name!r}: the smallest effect must be above zero")
        if self.seeds < FEWEST_SEEDS:
            raise RosterError(f"declaration {self.name!r}: {self.seeds} seeds settle nothing; {FEWEST_SEEDS} at least")

    @property
    def name(self) -> str:
        """Slug and part."""
        return f"{self.slug}.{self.part}" if self.part else self.slug

    @property
    def threshold(self) -> float:
        """The gain that has to be exceeded."""
        return self.statistic.effect if self.statistic.asks == "better" else -self.statistic.effect

    def fields(self) -> dict[str, Any]:
        """As JSON-able fields."""
        return asdict(self)

    def digest(self) -> str:
        """Of the fields, whatever their order in a file."""
        canonical = json.dumps(self.fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def file(self, folder: Path) -> Path:
        """Where it is written down."""
        return folder / f"{self.name}.v{self.version}.json"


def read(path: Path) -> Declaration:
    """A declaration that was written down; RosterError when its fields are not those that were digested."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fields = {**content["declaration"]}
        fields["pairs"], fields["statistic"] = Pairs(**fields["pairs"]), Statistic(**fields["statistic"])
        declaration = Declaration(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise RosterError(f"{str(path)!r} is no declaration: {error!r}") from None
    if declaration.digest() != content["digest"]:
        raise RosterError(f"{str(path)!r} was changed after it was declared: restore it and raise the version instead")
    return declaration


def declare(declaration: Declaration, folder: Path, has_results: bool) -> Path:
    """Writes a declaration down.

    Raises:
        RosterError: another one of that version has results already.
    """
    path = declaration.file(folder)
    if path.exists() and has_results:
        require_same(declaration, folder)
        return path
    content = {"digest": declaration.digest(), "declaration": declaration.fields()}
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def require_same(declaration: Declaration, folder: Path) -> None:
    """Refuses to run what was not declared, or what is another thing than was declared."""
    path = declaration.file(folder)
    if not path.exists():
        raise RosterError(f"{declaration.name!r} is not declared: python -m evidence.run --declare, and commit it")
    if read(path).digest() != declaration.digest():
        raise RosterError(
            f"{declaration.name!r} is not what version {declaration.version} declared ({path.name}): "
            "raise its version and declare that"
        )


def require_committed(path: Path) -> None:
    """Refuses a declaration that the repository's history does not hold; a copy without a history passes."""
    command = ["git", "status", "--porcelain", "--", path.name]
    told = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    if told.returncode == 0 and told.stdout.strip():
        raise RosterError(f"{path.name} is not committed: a declaration is committed before it is run")
