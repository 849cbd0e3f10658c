"""PaLoRA: one model and a LoRA a task, trained together; a weighing of the adapters is a point of the Pareto front.

Equation: y = W x + (scale / r) sum_t a_t B_t A_t x in every linear layer within the blocks, W trained too; each step
lowers mean over M rays of sum_t a_t L_t. Rays are even between `edge` and 1 - `edge`, each share to the power
`sharpen` * progress, so that they begin at the centre and end at the corners, without chance. Adam; the adapters' rate
is that of W times T.

`roster merge --method palora` takes a base (trained further) and one --data file a task, and writes a folder with the
trained model, `model`, and PEFT adapters on it, `task-0` and so on. Fold a ray into plain weights with
`--method task_arithmetic --base OUT/model --model OUT/model+OUT/task-0 ...`, the ray as weights, or let PEFT's
add_weighted_adapter ("cat") do it. While it trains, the model is in memory (see `trained.py`).

Source: Dimitriadis, Frossard, Fleuret 2024, arXiv 2407.08056, for images; the authors' code, read second-hand.
Differences: more than two tasks draw M rays from Dirichlet(1) in place of an even grid, sharpened alike.

Shape legend: R rays of a step, T tasks, r rank, O out_features, I in_features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.merge.config import MergeConfig
from roster.merge.fronts import Rays, next_token
from roster.merge.learned import Asked, Learned, Progress, check_rows
from roster.merge.method import Method, shared
from roster.merge.names import is_buffer, layer_of
from roster.merge.opening import open_models
from roster.merge.pamal import dirichlet
from roster.merge.settings import check_names
from roster.merge.side_files import side_files
from roster.merge.trained import FILE, Last, Session, Trained
from roster.weights import Copy, Operand, Output, Plan, Spec, make_plan
from roster.weights.texts import digest
from roster.weights.whole import linear_layers, load_whole, parameter_names

SLUG = "palora"
_FILES = ("adapter_model.safetensors", "adapter_config.json", "card.json")


@dataclass(frozen=True)
class Training:
    """The settings of PaLoRA.

    Attributes:
        steps, rate, batch: of Adam; rows of each task a step.
        rank: of each adapter.
        scale: what an update is multiplied by, divided by the rank.
        rays: M of a step.
        edge: share of the tasks at the ends, before sharpening.
        sharpen: power at the end of training; 0 keeps rays at the centre.
        seed: of adapters and rows.
    """

    per_model = False

    steps: int = shared(100, 0, 1_000_000)
    rate: float = shared(1e-5, 0.0)
    batch: int = shared(8, 1, 1_000_000)
    rank: int = shared(4, 1, 65_536)
    scale: float = shared(1.0, 1e-6)
    rays: int = shared(5, 1, 1_000)
    edge: float = shared(0.01, 1e-6, 0.499999)
    sharpen: float = shared(5.0, 0.0)
    seed: int = shared(0, 0, 2**31)

    def begin(self, asked: Asked) -> Front:
        """See `Learner`."""
        return Front(asked, self)


class Adapted(nn.Module):
    """A front of one model and an adapter a task.

    Args:
        template: the model; it is trained.
        names: of its linear layers that get adapters.
        tasks: T.
        rank, scale: of each adapter.
    """

    def __init__(
        self, template: nn.Module, names: Sequence[str], tasks: int, rank: int = 4, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.template, self.names, self.tasks = template, list(names), tasks
        self.scale = scale / rank
        self.A, self.B = nn.ParameterList(), nn.ParameterList()
        for name in names:
            out, width = template.get_submodule(name).weight.shape  # type: ignore[misc]
            A_TrI = torch.empty(tasks, rank, width)
            for each in A_TrI:
                nn.init.kaiming_uniform_(each, a=math.sqrt(5))
            self.A.append(nn.Parameter(A_TrI))
            self.B.append(nn.Parameter(torch.zeros(tasks, out, rank)))

    def weights(self, ray_T: Tensor) -> dict[str, Tensor]:
        """The model's weights with the adapters' weighted updates."""
        found: dict[str, Tensor] = dict(self.template.named_parameters())
        for name, A_TrI, B_TOr in zip(self.names, self.A, self.B, strict=True):
            update_OI = torch.einsum("t,tor,tri->oi", ray_T, B_TOr, A_TrI)
            found[f"{name}.weight"] = found[f"{name}.weight"] + self.scale * update_OI
        return found

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """For an optimizer: the adapters' rate is T times the model's."""
        adapters = [*self.A, *self.B]
        return [{"params": list(self.template.parameters()), "lr": rate}, {"params": adapters, "lr": rate * self.tasks}]


def annealed(tasks: int, steps: int, rays: int, edge: float, sharpen: float) -> Rays:
    """Rays that begin at the centre and end at the corners."""
    drawn = dirichlet(tasks, rays, 1.0)

    def at(step: int, generator: torch.Generator) -> Tensor:
        if tasks == 2:
            first_R = torch.linspace(edge, 1 - edge, rays) if rays > 1 else torch.tensor([0.5])
            even_RT = torch.stack([first_R, 1 - first_R], dim=1)
        else:
            even_RT = drawn(step, generator).clamp(edge, 1 - edge)
        sharp_RT: Tensor = even_RT ** (sharpen * step / max(steps - 1, 1))
        return sharp_RT / sharp_RT.sum(1, keepdim=True)

    return at


class Front:
    """The model and its adapters after their training, see `Learned`.

    Raises:
        RosterError: fewer than two files, too few rows, no language model, no linear layers within its blocks.
    """

    def __init__(self, asked: Asked, training: Training) -> None:
        assert asked.base is not None, "the count of models is checked before"
        if len(asked.texts) < 2:
            raise RosterError(f"{SLUG} takes one --data a task, of at least two tasks")
        check_rows(asked.texts, training.batch, SLUG)
        base = asked.base
        self._base, self._texts, self._training, self._folder = base, asked.texts, training, asked.folder
        self._parameters = parameter_names(base)
        self._layers = {
            name: size for name, size in linear_layers(base).items() if layer_of(f"{name}.weight") is not None
        }
        if not self._layers:
            raise RosterError(f"{base.name!r} has no linear layer within its blocks that could get an adapter")
        weights = {f"template.{name}": base.specs[tensor].shape for tensor, name in self._parameters.items()}
        shapes: dict[str, tuple[int, ...]] = dict(weights)
        for at, (out, width) in enumerate(self._layers.values()):
            shapes[f"A.{at}"] = (len(asked.texts), training.rank, width)
            shapes[f"B.{at}"] = (len(asked.texts), out, training.rank)
        depends = (SLUG, base.fingerprint(), [digest(each) for each in asked.texts], training)
        one = sum(math.prod(shape) for shape in weights.values())
        self.trained = Trained(SLUG, asked.folder / f"{SLUG}.safetensors", depends, shapes, one, self._begin)

    def of(self, tensor: str, names: Sequence[tuple[str, str]]) -> list[Operand] | None:
        """See `Learned`: of the base alone, whatever the names."""
        if tensor not in self._parameters:
            return None
        return [Operand(self.trained, f"template.{self._parameters[tensor]}")]

    def learn(self, progress: Progress | None = None) -> None:
        """See `Learned`."""
        self.trained.train(progress)
        told = {
            "method": SLUG, "base": self._base.name, "training": asdict(self._training),
            "losses": self.trained.losses(),
        }  # fmt: skip
        (self._folder / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        for task in range(len(self._texts)):
            self._write_adapter(task)

    def text(self) -> str:
        """See `Learned`."""
        rows, rank = sum(len(each.ids_BS) for each in self._texts), self._training.rank
        size = 4 * rank * sum(out + width for out, width in self._layers.values())
        return (
            f"trains first: a model and {len(self._texts)} adapters of rank {rank} ({size:,} bytes each) on {rows} "
            f"rows, {self._training.steps} steps of {self._training.rays} rays; holds them with gradients and moments "
            f"in memory, {self.trained.memory:,} bytes"
        )

    def files(self) -> Mapping[str, bytes | Path]:
        """See `Learned`: the adapters are small, and go along as files."""
        names = [f"task-{task}/{name}" for task in range(len(self._texts)) for name in _FILES]
        return {name: self._folder / name for name in [FILE, *names]}

    def _begin(self) -> Session:
        training, tasks = self._training, len(self._texts)
        model = load_whole(self._base).requires_grad_(True)
        torch.manual_seed(training.seed)
        front = Adapted(model, list(self._layers), tasks, training.rank, training.scale)
        said = [next_token(each, training.batch, training.seed + number) for number, each in enumerate(self._texts)]
        optimizer = torch.optim.Adam(front.groups(training.rate))
        rays = annealed(tasks, training.steps, training.rays, training.edge, training.sharpen)
        return Session(front, said, rays, optimizer, training.steps, {"mean": True, "seed": training.seed})

    def _write_adapter(self, task: int) -> None:
        from roster.library import LowRank, make_adapter, write_adapter  # merges are planned without PEFT

        modules = {}
        scale = self._training.scale / self._training.rank
        for at, name in enumerate(self._layers):
            A_rI, B_Or = (self._read(f"{factor}.{at}", task) for factor in "AB")
            modules[name] = LowRank(A_rI, B_Or, scale)
        write_adapter(self._folder, make_adapter(f"task-{task}", modules, base=""), overwrite=True)

    def _read(self, name: str, task: int) -> Tensor:
        shape = self.trained.specs[name].shape[1:]
        size = math.prod(shape)
        return self.trained.read(name, task * size, (task + 1) * size).view(shape)


def plan_front(config: MergeConfig, method: Method, learned: Learned | None, max_shard: int) -> Plan:
    """The plan of a folder of a model, in `model`, and of adapters on it.

    Raises:
        RosterError: models besides the base, a setting that is unknown, no data.
    """
    check_names(config, method)
    models = open_models(config.models)
    method.check_count(len(models) - (config.base_model is not None), config.base_model is not None)
    if learned is None:
        raise RosterError(f"method {method.slug!r} learns from data, which a config alone does not give (--data)")
    source = models[config.base_model or ""]
    outputs = []
    for name, spec in source.specs.items():
        known = learned.of(name, ()) if spec.dtype.is_floating_point else None
        if known is not None:
            made = Spec(config.out_dtype or config.dtype or spec.dtype, spec.shape)
            outputs.append(Output(name, made, (Operand(source, name), *known), Last(), "model/model"))
        elif not is_buffer(name):
            outputs.append(Output(name, spec, (Operand(source, name),), Copy(), "model/model"))
    files = dict(learned.files())
    for file, content in side_files(config, models, 0).items():
        files[f"model/{file}"] = content
    return make_plan(outputs, [source], files, max_shard, f"a front by {method.slug}")


METHOD = Method(
    SLUG,
    "Pareto low-rank adapters",
    "Dimitriadis et al. 2024, arXiv 2407.08056",
    Last,
    fewest=0,
    most=0,
    learner=Training,
    makes="a model and adapters",
    plan=plan_front,
)
