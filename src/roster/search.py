"""Searching settings under a budget: many are tried briefly, few for long. Optuna samples and decides who goes on.

Covers the loop around an objective that can be watched while it runs: where settings come from (at random, or by a
model of what was seen), when a trial is stopped (never, by Hyperband's brackets, by ASHA), on which workers trials run,
and how a search that was cut off goes on. Every trial is in a journal in the search's folder from its beginning.

In one process a search is the same every time. With several workers, trials are judged against those that happen to
have come as far: which are stopped depends on who is faster, as in ASHA's own setting.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from roster.errors import RosterError
from roster.files import write_whole
from roster.workers import Workers

if TYPE_CHECKING:
    import optuna

Settings = dict[str, Any]
Report = Callable[[int, float], None]
"""`report(step, loss)`: tells how far a trial is. It ends the trial, by an exception, where others are better."""
Objective = Callable[[Settings, Report], float]
"""Loss of settings (lower is better), trained to the end."""
_NAME = "search"
_LAST = "last"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low, high: ends.
        log: whether each factor is as likely, instead of each difference.
        whole: whether only whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise RosterError(f"no range: from {self.low} to {self.high}{', by factors' if self.log else ''}")


Space = Mapping[str, Range | tuple[Any, ...]]
"""By name: a range, or what there is to choose from (None, booleans, numbers, strings)."""


@dataclass(frozen=True)
class Search:
    """A way to spend a budget on settings.

    Attributes:
        sampler: where settings come from: "random"; "tpe", two densities of what was good and what was not (Bergstra et
            al., 2011); "gp", a Gaussian process (Bayesian optimisation).
        stopping: who is stopped early: None, nobody; "hyperband", successive halving from every beginning that the
            budget allows (Li et al., 2018, arXiv:1603.06560); "asha", successive halving from the shortest beginning,
            without waiting for others (Li et al., 2020, arXiv:1810.05934).
        eta: one of so many goes on, for so many times the steps.
        least: steps after which a trial can be stopped at the earliest.
    """

    sampler: Literal["random", "tpe", "gp"] = "random"
    stopping: Literal["hyperband", "asha"] | None = "hyperband"
    eta: int = 3
    least: int = 1

    def __post_init__(self) -> None:
        if self.eta < 2 or self.least < 1:
            raise RosterError(f"eta={self.eta} must be 2 at least, and least={self.least} a step")

    def rungs(self, most: int) -> list[int]:
        """Steps at which trials are compared: `least`, times `eta`, and so on, below `most`."""
        count = math.floor(math.log(most / self.least, self.eta) + 1e-9) + 1
        return [each for level in range(count) if (each := self.least * self.eta**level) < most]

    def pruner(self, most: int) -> optuna.pruners.BasePruner:
        """Optuna's, for trials of `most` steps."""
        from optuna import pruners

        if self.stopping is None:
            return pruners.NopPruner()
        if self.stopping == "hyperband":
            return pruners.HyperbandPruner(self.least, most, self.eta)
        return pruners.SuccessiveHalvingPruner(self.least, self.eta)

    def drawn_by(self, seed: int) -> optuna.samplers.BaseSampler:
        """Optuna's sampler."""
        from optuna import samplers

        if self.sampler == "random":
            return samplers.RandomSampler(seed)
        return samplers.TPESampler(seed=seed) if self.sampler == "tpe" else samplers.GPSampler(seed=seed)


METHODS: dict[str, Search] = {
    "hyperband": Search(),
    "asha": Search(stopping="asha"),
    "bohb": Search("tpe"),
    "tpe": Search("tpe", None),
    "bo": Search("gp", None),
    "random": Search("random", None),
}
"""`bohb`: Hyperband whose settings TPE draws (Falkner et al., 2018, arXiv:1807.01774)."""


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
        settings: by name.
        loss: the last that was told; infinite where it was none.
        steps: how far it came.
        whole: whether it was trained to the end.
    """

    settings: Settings
    loss: float
    steps: int
    whole: bool


@dataclass(frozen=True)
class Found:
    """Every trial, in order."""

    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial:
        """Of those that were trained to the end."""
        whole = [each for each in self.trials if each.whole and math.isfinite(each.loss)]
        if not whole:
            raise RosterError("no trial came to its end with a finite loss: give more trials, or other settings")
        return min(whole, key=lambda each: each.loss)

    @property
    def steps(self) -> int:
        """Spent on all of them."""
        return sum(each.steps for each in self.trials)


def search(
    way: Search,
    objective: Objective,
    space: Space,
    *,
    trials: int,
    most: int,
    folder: Path,
    seed: int = 0,
    first: Settings | None = None,
    about: Mapping[str, Any] | None = None,
    workers: Workers = Workers(),
    report: Callable[[str], None] = lambda line: None,
) -> Found:
    """Tries settings, and stops those early that others beat.

    Args:
        way: to search.
        objective: a function of a module, or `functools.partial` of one, when `workers` are other processes.
        space: what there is to choose.
        trials: to begin.
        most: steps of a trial that is never stopped.
        folder: for the journal; a search that was cut off goes on there.
        seed: of all draws.
        first: settings to try first, such as the defaults.
        about: what else the losses depend on; a search of another in the same folder is refused.
        workers: where trials run.
        report: is told of every trial that ends.

    Raises:
        RosterError: Optuna is missing, an empty space, or the folder holds another search.
    """
    if find_spec("optuna") is None:
        raise RosterError("Optuna is missing: pip install 'roster-moe[search]'")
    if not space:
        raise RosterError("there is nothing to search: give settings to vary")
    if way.least >= most and way.stopping is not None:
        raise RosterError(f"trials of {most} steps cannot be stopped after {way.least}: give more steps, or least=")
    asked = {"way": asdict(way), "space": _plain(space), "most": most, "seed": seed, "first": first, **(about or {})}
    _same_search(folder, json.loads(json.dumps(asked, default=str)))
    job = partial(_try, way, objective, space, most, folder, seed)
    with _study(way, most, folder, seed) as study:
        known = study.get_trials(deepcopy=False)
        if first is not None and not known:
            study.enqueue_trial(first)
        done = sum(each.state.name in ("COMPLETE", "PRUNED") for each in known)
        _give_up(study)
    for _, line in workers.map(job, range(done, trials)):
        done += 1
        report(f"{done}/{trials}: {line}")
    with _study(way, most, folder, seed) as study:
        _give_up(study)
        return Found([_trial(each) for each in study.get_trials() if each.state.name in ("COMPLETE", "PRUNED")])


def _try(way: Search, objective: Objective, space: Space, most: int, folder: Path, seed: int, number: int) -> str:
    """One trial, in whatever process; returns a line about it."""
    import optuna
    from numpy.random import SeedSequence

    drawn = int(SeedSequence([seed, number]).generate_state(1)[0])
    with _study(way, most, folder, drawn) as study:
        trial = study.ask({name: _distribution(each) for name, each in space.items()})
        rungs = set(way.rungs(most)) if way.stopping is not None else set()
        last: list[Any] = [0, math.inf]  # step, loss

        def told(step: int, loss: float) -> None:
            last[:] = [step, loss if math.isfinite(loss) else math.inf]
            if step in rungs:
                trial.report(last[1], step)
                if trial.should_prune():
                    raise optuna.TrialPruned

        state = optuna.trial.TrialState.COMPLETE
        try:
            loss = objective(dict(trial.params), told)
            last = [most, loss if math.isfinite(loss) else math.inf]
        except optuna.TrialPruned:
            state = optuna.trial.TrialState.PRUNED
        except BaseException:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise
        trial.set_user_attr(_LAST, last)
        study.tell(trial, last[1] if state.name == "COMPLETE" else None, state)
        how = "to the end" if state.name == "COMPLETE" else f"stopped after {last[0]} steps"
        return f"loss {last[1]:.4f}, {how}: " + ", ".join(f"{name}={value}" for name, value in trial.params.items())


@contextlib.contextmanager
def _study(way: Search, most: int, folder: Path, seed: int) -> Iterator[optuna.Study]:
    """The search in a folder, as this process sees it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    yield optuna.create_study(
        storage=storage,
        study_name=_NAME,
        load_if_exists=True,
        sampler=way.drawn_by(seed),
        pruner=way.pruner(most),
    )


def _give_up(study: optuna.Study) -> None:
    """Trials whose process was killed: they count as not begun."""
    import optuna

    for each in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(each.number, state=optuna.trial.TrialState.FAIL)


def _distribution(each: Range | tuple[Any, ...]) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if isinstance(each, tuple):
        return distributions.CategoricalDistribution(each)
    if each.whole:
        return distributions.IntDistribution(int(each.low), int(each.high), each.log)
    return distributions.FloatDistribution(each.low, each.high, each.log)


def _trial(each: optuna.trial.FrozenTrial) -> Trial:
    step, loss = each.user_attrs[_LAST]
    return Trial(dict(each.params), loss, step, each.state.name == "COMPLETE")


def _plain(space: Space) -> dict[str, Any]:
    return {name: list(each) if isinstance(each, tuple) else asdict(each) for name, each in space.items()}


def _same_search(folder: Path, asked: dict[str, Any]) -> None:
    path = folder / "search.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        other = next((name for name in asked if found.get(name) != asked[name]), None)
        if other is not None:
            raise RosterError(
                f"{str(folder)!r} holds a search with {other}={found.get(other)}, not {asked[other]}: choose another "
                "folder, or the same settings"
            )
        return
    write_whole(path, (json.dumps(asked, indent=1) + "\n").encode())
