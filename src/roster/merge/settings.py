"""What the settings of a config are for one tensor: the nearest place that says something wins, filters, gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from roster.errors import RosterError, nearest
from roster.merge.config import Member, MergeConfig, Parameters, Slice
from roster.merge.method import Method, Setting

_IGNORED = {"int8_mask"}  # mergekit's, to save memory; here nothing is to be saved


def check_names(config: MergeConfig, method: Method) -> None:
    """Raises RosterError on a setting that the method does not have, wherever it stands."""
    for parameters in _places(config):
        for name in parameters:
            if name in method.learning:
                if parameters is not config.parameters:
                    raise RosterError(f"{name!r} is one for the whole run: move it to the top")
            elif name not in method.settings and name not in _IGNORED:
                known = {*method.settings, *method.learning}
                raise RosterError(f"method {method.slug!r} has no parameter {name!r}: {nearest(name, known)}")
    for member in (each for part in config.slices for each in part.members):
        for name in member.parameters:
            if name in method.settings and not method.settings[name].per_model:
                raise RosterError(
                    f"{name!r} is one for all models: move it from {member.model!r} to the slice or the top"
                )


class Settings:
    """Settings by tensor; remembers which filters matched, to name those that never did."""

    def __init__(self, config: MergeConfig, method: Method) -> None:
        self.config, self.method = config, method
        self._filters: dict[str, bool] = {}
        for parameters in _places(config):
            for value in parameters.values():
                for each in _filters(value):
                    self._filters.setdefault(each, False)

    def of(self, tensor: str, part: Slice, members: Sequence[Member], depth: float) -> dict[str, Any]:
        """Values for one tensor.

        Args:
            tensor: its name in the new checkpoint.
            part: the slice that it belongs to.
            members: the models that are merged, the base left out where it is an operand of its own.
            depth: 0 for the slice's first layer and for what lies in no layer, 1 for its last.

        Raises:
            RosterError: a setting without a default is not given, or a value is wrong.
        """
        return {
            name: tuple(self._one(setting, tensor, (member.parameters, part.parameters), depth) for member in members)
            if setting.per_model
            else self._one(setting, tensor, (part.parameters,), depth)
            for name, setting in self.method.settings.items()
        }

    def check_filters(self) -> None:
        """Raises RosterError on a filter that no tensor's name contains: it was meant to say something."""
        for each, hit in self._filters.items():
            if not hit:
                raise RosterError(f"filter {each!r} is contained in no tensor's name, so its value is never used")

    def _one(self, setting: Setting, tensor: str, near: Iterable[Parameters], depth: float) -> Any:
        for parameters in (*near, self.config.parameters):
            if setting.name in parameters:
                value = self._evaluate(setting, parameters[setting.name], tensor, depth)
                if value is not None:
                    return value
        if setting.default is None:
            raise RosterError(f"method {self.method.slug!r} needs the parameter {setting.name!r} (for {tensor!r})")
        return setting.default

    def _evaluate(self, setting: Setting, value: Any, tensor: str, depth: float) -> Any:
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list):
            return setting.check(value)
        if not value:
            raise RosterError(f"{setting.name}: an empty list says nothing")
        if not any(isinstance(each, Mapping) for each in value):
            return _gradient(setting, [setting.check(each) for each in value], depth)
        result, found = None, False
        for each in value:
            if not isinstance(each, Mapping) or "value" not in each or set(each) - {"filter", "value"}:
                raise RosterError(f"{setting.name}: {each!r} must be a table of 'filter' and 'value'")
            wanted = each.get("filter")
            if wanted in (None, "*") or str(wanted) in tensor:
                if wanted not in (None, "*"):
                    self._filters[str(wanted)] = True
                if not found:
                    result, found = self._evaluate(setting, each["value"], tensor, depth), True
        return result


def _gradient(setting: Setting, values: list[Any], depth: float) -> Any:
    """mergekit's: numbers are interpolated between equally spaced anchors, other values chosen."""
    at = depth * (len(values) - 1)
    low = int(at)
    if setting.kind in (bool, str):
        return values[low]
    high = min(low + 1, len(values) - 1)
    return setting.check((1 - (at - low)) * values[low] + (at - low) * values[high])


def _places(config: MergeConfig) -> list[Parameters]:
    inside = [each for part in config.slices for each in (part.parameters, *(m.parameters for m in part.members))]
    return [config.parameters, *inside]


def _filters(value: Any) -> Iterable[str]:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, Mapping) and each.get("filter") not in (None, "*"):
            yield str(each["filter"])
