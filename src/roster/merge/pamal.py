"""PaMaL: one member a task, trained together so that their weighted means trace the tasks' Pareto front.

Equation: theta(a) = sum_t a_t theta_t; each step draws a few rays a ~ Dirichlet(p) and lowers
sum_rays sum_t a_t L_t(theta(a)) + order * disorder, the last as in `roster.merge.fronts.disorder`. Adam.

`roster merge --method pamal` takes one model a task (of one architecture; the members at first) and one --data file a
task, and writes a folder of checkpoints, `member-0` and so on; the model of a ray is `roster merge --method linear` of
them with the ray as weights. All members are in memory whole, with gradients and Adam's moments (16 bytes a weight).

Source: Dimitriadis, Frossard, Fleuret 2023, arXiv 2210.09759, for images and tables; its code (nik-dim/pamal).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.merge.fronts import Rays, next_token, train
from roster.merge.learned import Progress, texts_of
from roster.merge.opening import folder_of, open_model
from roster.merge.side_files import check_vocabularies, model_files
from roster.saving import writing
from roster.weights.whole import check_memory, load_whole

SLUG = "pamal"


@dataclass(frozen=True)
class Settings:
    """Of the training.

    Attributes:
        steps, rate, batch: of Adam; rows of each task a step.
        rays: of a step.
        concentration: p of the Dirichlet distribution; 1 is even, more keeps to the middle.
        order: weight of the ordering term; 0 for none.
        temperature: of the ordering term.
        seed: of rays and rows.
    """

    steps: int = 100
    rate: float = 1e-5
    batch: int = 8
    rays: int = 4
    concentration: float = 1.0
    order: float = 0.0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises RosterError: numbers that cannot be."""
        positive = (self.rate, self.batch, self.rays, self.concentration, self.temperature)
        if min(positive) <= 0 or min(self.steps, self.order) < 0:
            raise RosterError(f"{SLUG}: all settings are above 0; steps, order and seed may be 0")


class Members(nn.Module):
    """A front of whole members.

    Args:
        members: one a task, of one architecture; they are trained, and their functions are the front's ends.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.template, self.tasks = members[0], len(members)
        shapes = [{name: each.shape for name, each in member.named_parameters()} for member in members]
        if any(each != shapes[0] for each in shapes):
            raise RosterError("members must be of one architecture")

    def weights(self, ray_T: Tensor) -> dict[str, Tensor]:
        """The weighted mean of the members."""
        found = {}
        for each in zip(*(member.named_parameters() for member in self.members), strict=True):
            found[each[0][0]] = sum(
                (a * w for a, (_, w) in zip(ray_T[1:], each[1:], strict=True)), ray_T[0] * each[0][1]
            )
        return found


def dirichlet(tasks: int, rays: int, concentration: float) -> Rays:
    """Rays drawn anew at every step."""

    def draw(step: int, generator: torch.Generator) -> Tensor:
        gamma_RT = torch._standard_gamma(torch.full((rays, tasks), float(concentration)), generator=generator)
        return gamma_RT / gamma_RT.sum(1, keepdim=True)

    return draw


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
    """Folders in, a folder of members out; what the command line does.

    Returns:
        What to tell.

    Raises:
        RosterError: a base, another number of files than of models, models that do not go together, too few rows or
            too little memory; before any work.
    """
    if base is not None:
        raise RosterError(f"{SLUG} trains members and has no base: leave out --base")
    if len(models) < 2 or len(data) != len(models):
        raise RosterError(f"{SLUG} takes one --model and one --data a task, in one order, of at least two tasks")
    sources = [open_model(each) for each in models]
    folders = {each: folder_of(source) for each, source in zip(models, sources, strict=True)}
    check_vocabularies(folders)
    texts = texts_of(
        data, folder_of(sources[0]) or Path(), rows=rows, length=length, batch=settings.batch, needed_by=SLUG
    )
    check_memory(16 * sum(spec.numel for source in sources for spec in source.specs.values()), SLUG)
    members = [load_whole(each) for each in sources]
    front = Members(members).requires_grad_(True)
    tasks = [next_token(each, settings.batch, settings.seed + number) for number, each in enumerate(texts)]
    optimizer = torch.optim.Adam(front.parameters(), lr=settings.rate)
    rays = dirichlet(len(members), settings.rays, settings.concentration)
    told = train(
        front, tasks, rays, optimizer, settings.steps, order=settings.order, temperature=settings.temperature,
        seed=settings.seed, progress=progress,
    )  # fmt: skip
    with writing(out) as new:
        for number, (member, source) in enumerate(zip(members, sources, strict=True)):
            member.save_pretrained(new / f"member-{number}")
            for name, content in model_files(folder_of(source) or Path()).items():
                (new / f"member-{number}" / name).write_bytes(
                    content if isinstance(content, bytes) else content.read_bytes()
                )
    losses = f"{told[0]:.4f} -> {told[-1]:.4f}" if told else "no steps"
    return f"wrote {len(members)} members into {out}: loss {losses}; mix them by roster merge --method linear"
