"""OfflinePolicy: a fitted routing that answers prompts one by one, saved as a folder.

The folder holds `roster.json` (parts, options, figures of the tuning) and `arrays.safetensors`, and is written whole or
not at all (`roster.saving`); nothing in it is executed on reading. Its encoder is rebuilt from its name where it is a
pretrained one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError, nearest
from roster.lm import confidence, decide, encode, estimate, frugal, online, votes
from roster.lm.decide import CascadeRule, Mix, Rule
from roster.lm.estimate import Estimates, Estimator, Expense
from roster.lm.manifest import PolicyManifest, read
from roster.lm.part import pack, unpack
from roster.lm.policy import Decision
from roster.lm.prices import Price, check_prices, tokens
from roster.lm.records import Matrix
from roster.lm.routing import Routing
from roster.lm.sureness import Judge
from roster.lm.text import DEFAULT, TextRule
from roster.saving import MANIFEST, writing

_ARRAYS = "arrays.safetensors"


def known_parts() -> dict[str, type]:
    """Every class that a policy's folder may name."""
    modules = (confidence, decide, encode, estimate, frugal, online, votes)
    return {name: getattr(module, name) for module in modules for name in module.__all__ if name[0].isupper()}


class OfflinePolicy:
    """A policy (`roster.lm.policy.Policy`) that learns nothing while it serves.

    Args:
        name: what callers ask for.
        estimator: fitted.
        rule: of decision.
        prices: per model, of whoever pays for the calls. With them a call costs what it reads and, where the log knew
            the lengths of answers, what it is expected to write, at most `max_tokens`; else what it cost in the log, at
            most what `max_tokens` allow.
        about: where it comes from and what it showed; any JSON.
        text: which text of a request the estimator was trained on.
        judge: of answers, for a rule that cascades without log-probabilities; one that serves.
    """

    def __init__(
        self,
        name: str,
        estimator: Estimator,
        rule: Rule,
        prices: Mapping[str, Price] | None = None,
        about: Mapping[str, Any] | None = None,
        text: TextRule = DEFAULT,
        judge: Judge | None = None,
    ):
        if judge is not None and not judge.serves:
            raise RosterError(f"a policy's judge reads answers from their texts, which {type(judge).__name__} does not")
        if prices:
            check_prices(prices, estimator.models)
        self.name, self.estimator, self.rule = name, estimator, rule
        self.prices, self.about, self.text = dict(prices or {}), dict(about or {}), text
        self.judge = judge

    @classmethod
    def of(
        cls, routing: Routing, name: str, *, about: Mapping[str, Any] | None = None, text: TextRule = DEFAULT
    ) -> OfflinePolicy:
        """The policy of a fitted routing.

        Raises:
            RosterError: one of which none can be made.
        """
        if routing.unserved is not None:
            raise RosterError(f"policy {name!r}: its routing {routing.unserved}")
        return cls(name, routing.estimator, routing.rule, about=about, text=text, judge=routing.judge)

    def at_prices(self, prices: Mapping[str, Price]) -> OfflinePolicy:
        """The same policy for whoever pays other prices."""
        return OfflinePolicy(self.name, self.estimator, self.rule, prices, self.about, self.text, self.judge)

    @property
    def knows_lengths(self) -> bool:
        """Whether it knows how long answers are, so that prices tell what a call will cost."""
        expense = getattr(self.estimator, "expense", None)
        return isinstance(expense, Expense) and expense.written_M2 is not None

    @property
    def models(self) -> tuple[str, ...]:
        """The models it chooses among."""
        return self.estimator.models

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """See `Policy.decide`."""
        allowed_M = np.array([model not in exclude for model in self.models])
        if not allowed_M.any():
            raise RosterError(f"policy {self.name!r} has no model left: all {len(allowed_M)} are excluded")
        estimates = self._waiting(self.estimator.estimate([prompt]), load)
        if self.prices:
            estimates = self._paid(estimates, prompt, tokens(prompt) if read is None else read, max_tokens)
        rule = self.rule.settled(_coin(prompt))
        choice = int(rule.choose(estimates, allowed_M)[0])
        below = None
        if isinstance(rule, CascadeRule):
            below = rule.next_below(estimates, np.flatnonzero(~allowed_M).tolist(), choice)
        return Decision(
            model=self.models[choice],
            reason=self._reason(rule, estimates, choice),
            quality=float(estimates.quality_NM[0, choice]),
            cost=_known(estimates.cost_NM[0, choice]),
            delay=_known(estimates.delay_NM[0, choice]),
            quality_by_model=dict(zip(self.models, estimates.quality_NM[0].tolist(), strict=True)),
            escalate_below=below,
            propensity=self._propensity(estimates, allowed_M, choice),
        )

    def _reason(self, rule: Rule, estimates: Estimates, choice: int) -> str:
        reason = rule.reason(estimates, choice)
        return reason if rule is self.rule else f"{reason}; {self.rule.reason(estimates, choice)}"

    def _propensity(self, estimates: Estimates, allowed_M: NDArray[np.bool_], choice: int) -> float:
        """The chance of this choice over the coins of a mix; 1 for a rule without a coin."""
        if not isinstance(self.rule, Mix):
            return 1.0
        sides = ((self.rule.first, 1 - self.rule.share), (self.rule.second, self.rule.share))
        return sum(chance for side, chance in sides if int(side.choose(estimates, allowed_M)[0]) == choice)

    def _waiting(self, estimates: Estimates, load: Mapping[str, float] | None) -> Estimates:
        """Delays behind what is under way."""
        if not load:
            return estimates
        for name in load:
            if name not in self.models:
                raise RosterError(f"policy {self.name!r} has no model {name!r}: {nearest(name, self.models)}")
        # One request at a time is the plainest queue; a server that batches is faster than this.
        waiting_M = np.array([1 + load.get(model, 0.0) for model in self.models])
        return replace(estimates, delay_NM=estimates.delay_NM * waiting_M)

    def _paid(self, estimates: Estimates, prompt: str, read: float, max_tokens: int | None) -> Estimates:
        """Costs at the policy's prices."""
        input_M, output_M = np.array([(self.prices[m].input, self.prices[m].output) for m in self.models]).T
        written_M = self._written(prompt, len(output_M))
        if max_tokens is not None:
            written_M = np.minimum(written_M, max_tokens)  # NaN stays
            most_M = (read * input_M + max_tokens * output_M) / 1e6
            estimates = replace(estimates, cost_NM=np.fmin(estimates.cost_NM, most_M))
        cost_M = (read * input_M + written_M * output_M) / 1e6
        return replace(estimates, cost_NM=np.where(np.isfinite(cost_M), cost_M, estimates.cost_NM))

    def _written(self, prompt: str, count: int) -> Matrix:
        """Expected tokens of each answer, [M]; NaN where the log said nothing of them."""
        expense = getattr(self.estimator, "expense", None)
        found = expense.written([prompt]) if isinstance(expense, Expense) else None
        return np.full(count, np.nan) if found is None else found[0]

    @property
    def judges(self) -> bool:
        """Whether it judges answers itself, and needs no log-probabilities for that."""
        return self.judge is not None

    def confidence(self, prompt: str, answer: str) -> float:
        """How likely an answer is right, in [0, 1]: what a decision's `escalate_below` is about.

        Raises:
            RosterError: it judges no answers.
        """
        if self.judge is None:
            raise RosterError(f"policy {self.name!r} judges no answers")
        return float(self.judge.confidence([prompt], [answer])[0])

    def feedback(self, prompt: str, decision: Decision, score: float) -> None:
        """Nothing: an offline policy does not learn."""

    def state(self) -> bytes:
        """Nothing was learned."""
        return b""

    def restore(self, state: bytes) -> None:
        """Nothing to take back.

        Raises:
            RosterError: a state of some other policy.
        """
        if state:
            raise RosterError(f"policy {self.name!r} does not learn online and has no state to restore")

    def save(self, folder: Path | str) -> Path:
        """Writes the folder, in the place of what was there.

        Raises:
            RosterError: it cannot be written; what was there is as it was.
        """
        from safetensors.numpy import save_file

        estimator, arrays = pack(self.estimator, "estimator.")
        rule, more = pack(self.rule, "rule.")
        judge, most = (None, {}) if self.judge is None else pack(self.judge, "judge.")
        prices = {name: {"input": price.input, "output": price.output} for name, price in self.prices.items()}
        manifest = PolicyManifest(
            name=self.name,
            models=list(self.models),
            estimator=estimator,
            rule=rule,
            judge=judge,
            prices=prices,
            about=self.about,
            text=self.text,
        )
        text = json.dumps(manifest.model_dump(), indent=1, allow_nan=False)  # before anything is written
        with writing(folder, (MANIFEST, PolicyManifest.earlier, _ARRAYS)) as new:
            save_file(arrays | more | most, new / _ARRAYS)
            (new / MANIFEST).write_text(text + "\n", encoding="utf-8")
        return Path(folder)


def _coin(prompt: str) -> float:
    """Uniform in [0, 1) over texts: a prompt always meets the same setting of a mix, also at a cascade's next step."""
    digest = hashlib.sha256(b"mix" + prompt.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def load_policy(folder: Path | str) -> OfflinePolicy:
    """The policy in a folder.

    Raises:
        RosterError: there is none, or it cannot be read.
    """
    from safetensors.numpy import load

    folder = Path(folder)
    content = read(folder, PolicyManifest)
    try:
        arrays = load((folder / _ARRAYS).read_bytes())
        known = known_parts()
        estimator = unpack(content.estimator, arrays, known, "estimator.")
        rule = unpack(content.rule, arrays, known, "rule.")
        judge = None if content.judge is None else unpack(content.judge, arrays, known, "judge.")
        prices = {name: Price(**each) for name, each in content.prices.items()}
        return OfflinePolicy(content.name, estimator, rule, prices, content.about, content.text, judge)
    except RosterError as error:
        raise RosterError(f"policy {str(folder)!r}: {error}") from None
    except Exception as error:
        # Whatever a damaged file provokes, the user can only mend the file.
        raise RosterError(f"policy {str(folder)!r} is damaged: {type(error).__name__}: {error}") from None
