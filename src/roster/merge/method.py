"""What a merging method is: a kernel whose fields are its settings, and a record of its source and its needs.

The fields of the kernel's dataclass are the schema: names, defaults and ranges are read from them by the YAML reader,
the command line and the documentation; nothing is declared twice. What a method needs is checked once, before any
tensor is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from roster.errors import RosterError, nearest
from roster.merge.config import MergeConfig
from roster.merge.learned import Learned
from roster.weights import Kernel, Plan

MODEL = "a model"
PerModel = tuple[float, ...]
"""One number for each model that is merged, the base left out."""


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Attributes:
        name: as in mergekit's YAML.
        kind: float, int, bool or str.
        default: None where it must be given.
        per_model: whether each model has its own.
        low, high: the range of a number, both ends included.
        choices: the values of a text.
    """

    name: str
    kind: type
    default: Any
    per_model: bool = False
    low: float = float("-inf")
    high: float = float("inf")
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value in its type.

        Raises:
            RosterError: it is of another type, or out of range.
        """
        wrong = RosterError(f"{self.name}={value!r} must be {self._words()}")
        if self.kind is bool:
            if not isinstance(value, bool):
                raise wrong
            return value
        if self.kind is str:
            if value not in self.choices:
                raise RosterError(f"{self.name}={value!r}: {nearest(str(value), self.choices)}")
            return value
        if isinstance(value, bool) or value is None:
            raise wrong
        try:
            number = float(value)  # YAML reads 1e-3 as text
        except (TypeError, ValueError):
            raise wrong from None
        if not self.low <= number <= self.high or (self.kind is int and number != int(number)):
            raise wrong
        return self.kind(number)

    def _words(self) -> str:
        if self.kind is bool:
            return "true or false"
        kind = "a whole number" if self.kind is int else "a number"
        return kind if self.low == -float("inf") else f"{kind} from {self.low:g} to {self.high:g}"


def per_model(default: float | None = None, low: float = float("-inf"), high: float = float("inf")) -> Any:
    """A field of one number for each model."""
    metadata = {"setting": dict(kind=float, default=default, per_model=True, low=low, high=high)}
    return dataclasses.field(default=(), metadata=metadata)


def shared(
    default: Any, low: float = float("-inf"), high: float = float("inf"), choices: tuple[str, ...] = (), name: str = ""
) -> Any:
    """A field of one value for all models; `name` where the YAML's name is a word of Python."""
    metadata = {"setting": dict(kind=type(default), default=default, low=low, high=high, choices=choices), "name": name}
    return dataclasses.field(default=default, metadata=metadata)


def gathered() -> Any:
    """A field for what a kernel learns while it looks; no setting."""
    return dataclasses.field(default=None, init=False, repr=False)


def learned() -> Any:
    """A field for what was learned from data, one thing for each model, empty where nothing is known; no setting."""
    return dataclasses.field(default=())


def settings_of(part: Any) -> dict[str, Setting]:
    """The settings among a dataclass's fields, by the name that users write."""
    found = {}
    for each in dataclasses.fields(part):
        if "setting" in each.metadata:
            name = each.metadata.get("name") or each.name
            found[name] = Setting(name, **each.metadata["setting"])
    return found


@dataclass(frozen=True)
class Method:
    """The record of a method.

    Attributes:
        slug: its name, mergekit's where mergekit has it.
        title: for people.
        source: where it was published.
        kernel: a dataclass; made once for each tensor.
        base: whether the base is the first operand ("required", "optional"), or a model like the others ("member");
            "each" has none, for every model is that of its own result.
        fewest, most: how many models are merged, the base left out.
        shares: makes what the kernels of one run share; they take it as `common`.
        learner: for a method that learns from data: a dataclass of settings, see `roster.merge.learning`.
        makes: what comes of it, in words.
        plan: for what is not one model of the models' architecture: takes (config, method, what is learned, bytes of a
            shard) and lays out the outputs itself.
        writes: for what the engine cannot write alone, see `roster.merge.running.Writes`.
        takes: the field of the kernel that takes what was learned of a tensor; where it is empty, they are operands
            after the models.
    """

    slug: str
    title: str
    source: str
    kernel: Callable[..., Kernel]
    base: Literal["required", "optional", "member", "each"] = "required"
    fewest: int = 1
    most: int = 1_000
    shares: Callable[[int], Any] | None = None
    learner: Callable[..., Any] | None = None
    takes: str = ""
    makes: str = MODEL
    plan: Callable[[MergeConfig, Method, Learned | None, int], Plan] | None = None
    writes: Callable[..., str] | None = None

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Of the kernel, which may vary from tensor to tensor."""
        return settings_of(self.kernel)

    @property
    def learning(self) -> Mapping[str, Setting]:
        """Of the learner: one value for the run."""
        return {} if self.learner is None else settings_of(self.learner)

    def make(
        self,
        values: Mapping[str, Any],
        tensor: str,
        shape: tuple[int, ...],
        common: Any = None,
        learned: Sequence[Any] | None = None,
    ) -> Kernel:
        """The kernel of one tensor; values are checked already.

        Args:
            values: every setting by its name.
            tensor, shape: the tensor's; random draws depend on the name.
            common: what `shares` made for this run.
            learned: of this tensor, for the field that takes it.
        """
        fields = dataclasses.fields(self.kernel)  # type: ignore[arg-type]  # a dataclass, which Callable cannot say
        names = {each.metadata.get("name") or each.name: each.name for each in fields if "setting" in each.metadata}
        given = {names[name]: value for name, value in values.items()}
        if any(each.name == "tensor" for each in fields):
            given["tensor"] = tensor
        if self.takes and learned is not None:
            given[self.takes] = tuple(learned)
        if self.shares is None:
            return self.kernel(**given)
        kernel = self.kernel(**given, common=common)
        kernel.announce(shape)  # type: ignore[attr-defined]  # whoever shares something announces itself
        return kernel

    def check_count(self, count: int, has_base: bool) -> None:
        """Raises RosterError when the number of models, or the base, is not what the method needs."""
        if self.base == "required" and not has_base:
            raise RosterError(f"method {self.slug!r} needs a base: give base_model (--base)")
        if self.base == "each" and has_base:
            raise RosterError(f"method {self.slug!r} trains every model and has no base: leave out base_model (--base)")
        if self.most == 0 and count:
            raise RosterError(f"method {self.slug!r} changes its base alone: leave out models (--model)")
        if not self.fewest <= count <= self.most:
            many = f"at least {self.fewest}" if self.most >= 1_000 else f"{self.fewest}"
            if 1_000 > self.most > self.fewest:
                many = f"{self.fewest} to {self.most}"
            besides = " besides the base" if self.base != "member" and has_base else ""
            raise RosterError(f"method {self.slug!r} merges {many} model(s){besides}, not {count}")
