"""WEMoE from a base and models of it: `roster merge --method wemoe-merging`.

1. All that is no feed-forward matrix is merged by task arithmetic, streamed from disk to disk: the mixture's base.
2. The differences of feed-forward matrices become adapters: of full rank exactly, or cut to a rank by SVD.
3. The recipe `wemoe-merging` routes among them; its gates learn from texts without answers, by the entropy of the next
   token. The result is a mixture that `roster.load` opens, with its base in it.

The mixture is in memory from step 2 on; how much that is, is said beforehand. A killed run keeps the base and the gates
of its last half minute. `merge.json` tells of the base: feed-forward matrices, which are routed, are those of --base
there. Source: Tang et al. 2024, arXiv 2402.00433.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.merge.alike import check_alike, one_dtype
from roster.merge.config import MergeConfig
from roster.merge.learned import Asked, Learned, Progress, check_rows
from roster.merge.method import Method, shared
from roster.merge.names import is_buffer, layer_of
from roster.merge.opening import folder_of, open_models
from roster.merge.settings import check_names
from roster.merge.side_files import check_tokenizers, side_files
from roster.merge.task_arithmetic import METHOD as ARITHMETIC
from roster.weights import Copy, Operand, Output, Plan, Spec, make_plan, run, same_specs
from roster.weights.kept import Kept
from roster.weights.texts import digest
from roster.weights.whole import check_memory

SLUG = "wemoe-merging"
BLOCK = ".mlp."
"""What names of feed-forward tensors contain."""
FILE = "gates.json"
_PLAN = ".plan"
_REPORTS = ("merge.json", "merge.html")


@dataclass(frozen=True)
class Tuning:
    """The settings of WEMoE.

    Attributes:
        scale: of all task vectors outside the blocks, and of the gates at first.
        rank: of the adapters; 0 keeps differences as they are.
        hidden: width of the gates; 0 for the model's own.
        steps, rate, batch: of Adam on the gates; rows of each kind of texts a step.
        seed: of the gates and of the order of rows.
    """

    per_model = False

    scale: float = shared(0.3)
    rank: int = shared(0, 0, 65_536)
    hidden: int = shared(0, 0, 65_536)
    steps: int = shared(100, 0, 1_000_000)
    rate: float = shared(1e-4, 0.0)
    batch: int = shared(16, 1, 1_000_000)
    seed: int = shared(0, 0, 2**31)

    def begin(self, asked: Asked) -> Gates:
        """See `Learner`."""
        return Gates(asked, self)


class Gates:
    """The gates after their training, see `Learned`; they are trained once the mixture's base is written.

    Attributes:
        settings: of the run.
        trunk: the folder of the mixture's base.

    Raises:
        RosterError: slices of layers, no feed-forward matrices, too few rows.
    """

    def __init__(self, asked: Asked, settings: Tuning) -> None:
        base = asked.base
        if not asked.whole or base is None or folder_of(base) is None:
            raise RosterError(f"{SLUG} makes a mixture of whole models of one base: give models, not slices")
        check_rows(asked.texts, settings.batch, SLUG)
        self._tensors = [name for name, spec in base.specs.items() if BLOCK in name and len(spec.shape) == 2]
        if not self._tensors:
            raise RosterError(f"{base.name!r} has no feed-forward matrices (names with {BLOCK!r})")
        self.settings, self.trunk = settings, asked.folder / "base"
        self._asked, self._base = asked, base
        sources = [base.fingerprint(), *(each.fingerprint() for each in asked.models.values())]
        key = (SLUG, sources, [digest(each) for each in asked.texts], settings)
        self._kept = Kept(asked.folder / "gates.safetensors", hashlib.sha256(repr(key).encode()).hexdigest())

    @property
    def memory(self) -> int:
        """Bytes that training holds: the base and adapters in float32, gates with gradients and moments."""
        whole = 4 * sum(spec.numel for name, spec in self._base.specs.items() if not is_buffer(name))
        adapters = len(self._asked.models) * sum(self._size(name) for name in self._tensors)
        width = min(min(self._base.specs[name].shape) for name in self._tensors)
        hidden, blocks = self.settings.hidden or width, len({layer_of(name) for name in self._tensors})
        return whole + adapters + 16 * blocks * (hidden * (width + 1) + len(self._asked.models) * (hidden + 1))

    def of(self, tensor: str, names: Sequence[tuple[str, str]]) -> None:
        """Nothing about the base's tensors is learned."""

    def learn(self, progress: Progress | None = None) -> None:
        """See `Learned`; `trunk` must be there."""
        if self._kept.whole() is None:
            from roster.merge.gates import tune  # merges are planned without PEFT

            check_memory(self.memory, SLUG)
            own = self.settings
            tune(
                self._mixture(), self._asked.texts, self._kept, steps=own.steps, rate=own.rate, batch=own.batch,
                seed=own.seed, progress=progress,
            )  # fmt: skip

    def text(self) -> str:
        """See `Learned`."""
        rows = sum(len(each.ids_BS) for each in self._asked.texts)
        size = sum(self._size(name) for name in self._tensors)
        return (
            f"a base first, as below, and {len(self._asked.models)} adapters ({size:,} bytes each); then "
            f"{self.settings.steps} steps train gates on {rows} rows; holds the mixture in memory, "
            f"{self.memory:,} bytes"
        )

    def files(self) -> Mapping[str, bytes | Path]:
        """See `Learned`."""
        return {}

    def tuned(self) -> tuple[Any, dict[str, float]]:
        """The mixture, and the entropies before and after its training."""
        from roster.merge.gates import with_gates

        figures = self._kept.whole()
        assert figures is not None, "learn first"
        return with_gates(self._mixture(), self._kept), {name: float(figures[name]) for name in ("before", "after")}

    def _mixture(self) -> Any:
        from roster.merge.gates import build

        own, others = self.settings, list(self._asked.models.values())
        return build(
            self.trunk, self._base, others, self._tensors, scale=own.scale, rank=own.rank, hidden=own.hidden,
            seed=own.seed,
        )  # fmt: skip

    def _size(self, name: str) -> int:
        out, width = self._base.specs[name].shape
        rank = min(self.settings.rank or min(out, width), out, width)
        return 4 * (math.prod((rank, width)) + math.prod((out, rank)))


def plan_base(config: MergeConfig, method: Method, learned: Learned | None, max_shard: int) -> Plan:
    """The plan of the mixture's base.

    Raises:
        RosterError: models that do not go together, a setting that is unknown, no data.
    """
    check_names(config, method)
    models = open_models(config.models)
    if not isinstance(learned, Gates):
        raise RosterError(f"method {method.slug!r} learns from data, which a config alone does not give (--data)")
    check_tokenizers(config, models)
    check_alike(models)
    base, *others = models.values()
    outputs = []
    for name, spec in base.specs.items():
        if is_buffer(name):
            continue
        operands = tuple(Operand(each, name) for each in (base, *others))
        shape = same_specs(name, operands).shape
        if not spec.dtype.is_floating_point:
            outputs.append(Output(name, spec, operands[:1], Copy()))
            continue
        scale = 0.0 if BLOCK in name else learned.settings.scale
        values = {"weight": (scale,) * len(others), "normalize": False, "lambda": 1.0}
        dtype = config.out_dtype or config.dtype or one_dtype(name, operands)
        outputs.append(Output(name, Spec(dtype, shape), operands, ARITHMETIC.make(values, name, shape)))
    files = side_files(config, models, 0)
    return make_plan(outputs, list(models.values()), files, max_shard, f"the base of a mixture by {method.slug}")


def write_mixture(
    plan: Plan, learned: Gates, out: Path, *, steps: Progress | None = None,
    report: Callable[..., dict[str, bytes]] | None = None, **running: Any,
) -> str:  # fmt: skip
    """Writes the base, trains the gates, and puts the mixture in place; see `roster.merge.running.Writes`."""
    from roster.merge.gates import save

    mark = plan.fingerprint().encode()
    there = learned.trunk / _PLAN
    if not there.is_file() or there.read_bytes() != mark:
        run(
            plan, learned.trunk, overwrite=True,
            report=lambda figures: {_PLAN: mark, **(report(figures) if report is not None else {})}, **running,
        )  # fmt: skip
    learned.learn(steps)
    mixture, entropies = learned.tuned()
    told = {"method": SLUG, "training": asdict(learned.settings), "entropy": entropies}
    beside: dict[str, bytes | Path] = {FILE: (json.dumps(told, indent=1) + "\n").encode()}
    beside |= {name: learned.trunk / name for name in _REPORTS if (learned.trunk / name).is_file()}
    save(mixture, out, beside)
    return f"entropy {entropies['before']:.4f} -> {entropies['after']:.4f} nats"


METHOD = Method(
    SLUG,
    "WEMoE",
    "Tang et al. 2024, arXiv 2402.00433",
    Copy,
    learner=Tuning,
    makes="a mixture",
    plan=plan_base,
    writes=write_mixture,
)
