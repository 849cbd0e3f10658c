"""A placement: which slots of which device hold which expert, in every layer.

Shape legend: L layers, E experts, G devices, P slots of all devices (slots of one device lie together).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.files import write_whole
from roster.place.machine import Machine

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Where experts are.

    Attributes:
        slot_LP: the expert in each slot; an expert may be in several.
        machine: the devices.
        experts: E.

    Raises:
        RosterError: an expert of some layer is nowhere, or slots do not divide into the devices.
    """

    slot_LP: Ints
    machine: Machine
    experts: int

    def __post_init__(self) -> None:
        if self.slot_LP.shape[1] % self.machine.devices:
            raise RosterError(f"{self.slot_LP.shape[1]} slots do not divide into {self.machine.devices} devices")
        wanted = np.arange(self.experts)
        for layer, slots in enumerate(self.slot_LP):
            if not np.array_equal(np.unique(slots), wanted):
                raise RosterError(f"layer {layer} of a placement does not hold each of {self.experts} experts")

    def shares(self) -> Floats:
        """The share of an expert's tokens that each device takes, [L, E, G]: copies share evenly."""
        L, P = self.slot_LP.shape
        G = self.machine.devices
        shares = np.zeros((L, self.experts, G))
        device_P = np.arange(P) // (P // G)
        for layer in range(L):
            np.add.at(shares[layer], (self.slot_LP[layer], device_P), 1.0)
        shares /= shares.sum(2, keepdims=True)
        return shares

    def physical_to_logical(self) -> Ints:
        """[L, P]: the expert in each slot."""
        return self.slot_LP.copy()

    def write(self, path: Path, about: dict[str, Any]) -> list[Path]:
        """Three files: PATH (JSON, for people and roster), PATH.map.json and PATH.npy (the map alone, for engines).

        `PATH.map.json` has the one key that SGLang's `--init-expert-location` takes.
        """
        made = {
            "devices": self.machine.devices,
            "nodes": self.machine.nodes,
            "experts": self.experts,
            "slots_per_device": self.slot_LP.shape[1] // self.machine.devices,
            "physical_to_logical_map": self.slot_LP.tolist(),
            **about,
        }
        only = {"physical_to_logical_map": self.slot_LP.tolist()}
        array = io.BytesIO()
        np.save(array, self.slot_LP, allow_pickle=False)
        files = {
            path: (json.dumps(made) + "\n").encode(),
            path.with_name(f"{path.name}.map.json"): (json.dumps(only) + "\n").encode(),
            path.with_name(f"{path.name}.npy"): array.getvalue(),
        }
        return [write_whole(file, content) for file, content in files.items()]


def read_placement(path: Path) -> Placement:
    """What `Placement.write` wrote.

    Raises:
        RosterError: no such file, or it holds no placement.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = Machine(int(found["devices"]), int(found["nodes"]))
        slot_LP = np.array(found["physical_to_logical_map"], dtype=np.int64)
        if slot_LP.ndim != 2:
            raise RosterError(f"{str(path)!r} holds no placement: its map is no table")
        return Placement(slot_LP, machine, int(found["experts"]))
    except OSError as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, RosterError):
            raise
        raise RosterError(f"{str(path)!r} holds no placement: {error}") from None


def from_devices(device_LE: Ints, machine: Machine) -> Placement:
    """Of each expert's device; a device's experts lie in the order of their numbers.

    Raises:
        RosterError: devices hold different numbers of experts.
    """
    each = machine.check_experts(device_LE.shape[1])
    counts = [np.bincount(devices, minlength=machine.devices) for devices in device_LE]
    if not all((count == each).all() for count in counts):
        raise RosterError(f"a device holds another number of experts than {each}")
    return Placement(np.argsort(device_LE, axis=1, kind="stable"), machine, device_LE.shape[1])


@dataclass(frozen=True)
class Found:
    """What a method found.

    Attributes:
        placement: the best one.
        objective: what the method minimises, of it.
        bound: a value that no placement can go below; None where the method proves nothing.
        seconds: how long it took.
    """

    placement: Placement
    objective: float
    bound: float | None
    seconds: float

    @property
    def gap(self) -> float | None:
        """How far from the bound the objective is at most, as a share of it; 0 is proven best."""
        if self.bound is None:
            return None
        return max(0.0, self.objective - self.bound) / self.objective if self.objective > 0 else 0.0
