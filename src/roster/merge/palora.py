"""PaLoRA: one model and a LoRA a task, trained together; a weighing of the adapters is a point of the Pareto front.

Equation: y = W x + (scale / r) sum_t a_t B_t A_t x in every linear layer within the blocks, W trained too; each step
lowers mean over M rays of sum_t a_t L_t. Rays are even between `edge` and 1 - `edge`, each share to the power
`sharpen` * progress, so that they begin at the centre and end at the corners, without chance. Adam; the adapters' rate
is that of W times T.

`roster merge --method palora` takes a base (trained further) and one --data file a task, and writes a folder with the
trained model, `model`, and PEFT adapters on it, `task-0` and so on. Fold a ray into plain weights with
`--method task_arithmetic --base OUT/model --model OUT/model+OUT/task-0 ...`, the ray as weights, or let PEFT's
add_weighted_adapter ("cat") do it. The model is in memory whole (16 bytes a weight).

Source: Dimitriadis, Frossard, Fleuret 2024, arXiv 2407.08056, for images; the authors' code, read second-hand.
Differences: more than two tasks draw M rays from Dirichlet(1) in place of an even grid, sharpened alike.

Shape legend: R rays of a step, T tasks, r rank, O out_features, I in_features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.library import LowRank, make_adapter, write_adapter
from roster.merge.fronts import Rays, next_token, train
from roster.merge.learned import Progress, texts_of
from roster.merge.names import layer_of
from roster.merge.opening import folder_of, open_model
from roster.merge.pamal import dirichlet
from roster.merge.side_files import model_files
from roster.saving import writing
from roster.weights.whole import check_memory, load_whole

SLUG = "palora"


@dataclass(frozen=True)
class Settings:
    """Of the training.

    Attributes:
        steps, rate, batch: of Adam; rows of each task a step.
        rank: of each adapter.
        scale: what an update is multiplied by, divided by the rank.
        rays: M of a step.
        edge: share of the tasks at the ends, before sharpening.
        sharpen: power at the end of training; 0 keeps rays at the centre.
        seed: of adapters and rows.
    """

    steps: int = 100
    rate: float = 1e-5
    batch: int = 8
    rank: int = 4
    scale: float = 1.0
    rays: int = 5
    edge: float = 0.01
    sharpen: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises RosterError: numbers that cannot be."""
        if min(self.rate, self.batch, self.rank, self.scale, self.rays) <= 0 or min(self.steps, self.sharpen) < 0:
            raise RosterError(f"{SLUG}: all settings are above 0; steps, sharpen and seed may be 0")
        if not 0 < self.edge < 0.5:
            raise RosterError(f"{SLUG}: edge={self.edge} must be above 0 and below 0.5")


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

    def update(self, task: int, name: str) -> LowRank:
        """One task's update of one layer."""
        at = self.names.index(name)
        A_rI, B_Or = self.A[at][task].detach().clone(), self.B[at][task].detach().clone()
        return LowRank(A_rI, B_Or, self.scale)


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


def merge_folders(
    base: str | None,
    models: Sequence[str],
    out: Path,
    data: Sequence[Path],
    settings: Settings,
    *,
    rows: int,
    length: int,
    progress: Progress | None = None,
) -> str:
    """A base in, a folder of a model and adapters out; what the command line does.

    Returns:
        What to tell.

    Raises:
        RosterError: no base, models besides, fewer than two files, too few rows or too little memory; before any work.
    """
    if base is None or models:
        raise RosterError(f"{SLUG} trains --base and an adapter for each --data: leave out --model")
    if len(data) < 2:
        raise RosterError(f"{SLUG} takes one --data a task, of at least two tasks")
    source = open_model(base)
    folder = folder_of(source) or Path()
    texts = texts_of(data, folder, rows=rows, length=length, batch=settings.batch, needed_by=SLUG)
    check_memory(16 * sum(spec.numel for spec in source.specs.values()), SLUG)
    model = load_whole(source).requires_grad_(True)
    torch.manual_seed(settings.seed)
    linear = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
    front = Adapted(
        model,
        [each for each in linear if layer_of(f"{each}.weight") is not None],
        len(data),
        settings.rank,
        settings.scale,
    )
    tasks = [next_token(each, settings.batch, settings.seed + number) for number, each in enumerate(texts)]
    optimizer = torch.optim.Adam(front.groups(settings.rate))
    rays = annealed(len(data), settings.steps, settings.rays, settings.edge, settings.sharpen)
    told = train(front, tasks, rays, optimizer, settings.steps, mean=True, seed=settings.seed, progress=progress)
    with writing(out) as new:
        model.save_pretrained(new / "model")
        for name, content in model_files(folder).items():
            (new / "model" / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        for task in range(len(data)):
            modules = {each: front.update(task, each) for each in front.names}
            write_adapter(new, make_adapter(f"task-{task}", modules, base=""))
    losses = f"{told[0]:.4f} -> {told[-1]:.4f}" if told else "no steps"
    return f"wrote a model and {len(data)} adapters into {out}: loss {losses}"
