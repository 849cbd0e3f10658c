"""PaMaL: one member a task, trained together so that their weighted means trace the tasks' Pareto front.

Equation: theta(a) = sum_t a_t theta_t; each step draws a few rays a ~ Dirichlet(p) and lowers
sum_rays sum_t a_t L_t(theta(a)) + order * disorder, the last as in `roster.merge.fronts.disorder`. Adam.

`roster merge --method pamal` takes one model a task (of one architecture; the members at first), or one for all, and
one --data file a task, and writes a folder of checkpoints, `member-0` and so on; the model of a ray is `roster merge
--method linear` of them with the ray as weights. While they train, all members are in memory (see `trained.py`); they
are written piece by piece from what was kept of the training.

Source: Dimitriadis, Frossard, Fleuret 2023, arXiv 2210.09759, for images and tables; its code (nik-dim/pamal).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.merge.alike import check_alike
from roster.merge.config import Member, MergeConfig, Slice
from roster.merge.fronts import Rays, next_token
from roster.merge.learned import Asked, Learned, Progress, check_rows
from roster.merge.method import Method, shared
from roster.merge.names import is_buffer
from roster.merge.opening import open_models
from roster.merge.settings import check_names
from roster.merge.side_files import check_tokenizers, side_files
from roster.merge.trained import FILE, Last, Session, Trained
from roster.weights import Copy, Operand, Output, Plan, Spec, make_plan, same_specs
from roster.weights.texts import digest
from roster.weights.whole import load_whole, parameter_names

SLUG = "pamal"


@dataclass(frozen=True)
class Training:
    """The settings of PaMaL.

    Attributes:
        steps, rate, batch: of Adam; rows of each task a step.
        rays: of a step.
        concentration: p of the Dirichlet distribution; 1 is even, more keeps to the middle.
        order: weight of the ordering term; 0 for none.
        temperature: of the ordering term.
        seed: of rays and rows.
    """

    per_model = False

    steps: int = shared(100, 0, 1_000_000)
    rate: float = shared(1e-5, 0.0)
    batch: int = shared(8, 1, 1_000_000)
    rays: int = shared(4, 1, 1_000)
    concentration: float = shared(1.0, 1e-6)
    order: float = shared(0.0, 0.0)
    temperature: float = shared(1.0, 1e-6)
    seed: int = shared(0, 0, 2**31)

    def begin(self, asked: Asked) -> Front:
        """See `Learner`."""
        return Front(asked, self)


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


class Front:
    """The members after their training, see `Learned`.

    Attributes:
        starts: the model that each member is at first.

    Raises:
        RosterError: slices of layers, another number of files than of models, too few rows, models that do not go
            together or that are no language models.
    """

    def __init__(self, asked: Asked, training: Training) -> None:
        if not asked.whole:
            raise RosterError(f"{SLUG} trains whole models: give models, not slices")
        if len(asked.texts) < 2 or len(asked.models) not in (1, len(asked.texts)):
            raise RosterError(
                f"{SLUG} takes one --data and one --model a task, in one order, or one model for all, of at least two "
                f"tasks: there are {len(asked.texts)} and {len(asked.models)}"
            )
        check_rows(asked.texts, training.batch, SLUG)
        check_alike(asked.models)
        self._asked, self._training, self._json = asked, training, asked.folder / FILE
        self.starts = list(asked.models) * (len(asked.texts) if len(asked.models) == 1 else 1)
        self._parameters = {name: parameter_names(source) for name, source in asked.models.items()}
        shapes = {
            f"members.{number}.{parameter}": asked.models[name].specs[tensor].shape
            for number, name in enumerate(self.starts)
            for tensor, parameter in self._parameters[name].items()
        }
        depends = [asked.models[each].fingerprint() for each in self.starts], [digest(each) for each in asked.texts]
        one = sum(math.prod(shape) for shape in shapes.values()) // len(self.starts)
        self.trained = Trained(
            SLUG, asked.folder / f"{SLUG}.safetensors", (SLUG, depends, training), shapes, one, self._begin
        )

    def of(self, tensor: str, names: Sequence[tuple[str, str]]) -> list[Operand] | None:
        """See `Learned`."""
        if any(name not in self._parameters[model] for model, name in names):
            return None
        found = [self._parameters[model][name] for model, name in names]
        return [Operand(self.trained, f"members.{number}.{name}") for number, name in enumerate(found)]

    def learn(self, progress: Progress | None = None) -> None:
        """See `Learned`."""
        self.trained.train(progress)
        told = {
            "method": SLUG, "models": self.starts, "training": asdict(self._training),
            "losses": self.trained.losses(),
        }  # fmt: skip
        self._json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def text(self) -> str:
        """See `Learned`."""
        rows = sum(len(each.ids_BS) for each in self._asked.texts)
        return (
            f"trains first: {len(self.starts)} members on {rows} rows, {self._training.steps} steps of "
            f"{self._training.rays} rays; holds them with gradients and moments in memory, "
            f"{self.trained.memory:,} bytes"
        )

    def files(self) -> Mapping[str, bytes | Path]:
        """See `Learned`."""
        return {FILE: self._json}

    def _begin(self) -> Session:
        training = self._training
        front = Members([load_whole(self._asked.models[each]) for each in self.starts]).requires_grad_(True)
        tasks = [
            next_token(each, training.batch, training.seed + number) for number, each in enumerate(self._asked.texts)
        ]
        optimizer = torch.optim.Adam(front.parameters(), lr=training.rate)
        rays = dirichlet(len(tasks), training.rays, training.concentration)
        options = {"order": training.order, "temperature": training.temperature, "seed": training.seed}
        return Session(front, tasks, rays, optimizer, training.steps, options)


def plan_members(config: MergeConfig, method: Method, learned: Learned | None, max_shard: int) -> Plan:
    """The plan of a folder of members, each a checkpoint of its own.

    Raises:
        RosterError: models that do not go together, a setting that is unknown, no data.
    """
    check_names(config, method)
    models = open_models(config.models)
    method.check_count(len(models), config.base_model is not None)
    if not isinstance(learned, Front):
        raise RosterError(f"method {method.slug!r} learns from data, which a config alone does not give (--data)")
    check_tokenizers(config, models)
    outputs = []
    files = dict(learned.files())
    for number, model in enumerate(learned.starts):
        source = models[model]
        others = [each for name, each in models.items() if name != model]
        for name, spec in source.specs.items():
            if is_buffer(name):
                continue
            floats = spec.dtype.is_floating_point
            known = learned.of(name, [(each, name) for each in learned.starts]) if floats else None
            stem = f"member-{number}/model"
            if known is None:
                outputs.append(Output(name, spec, (Operand(source, name),), Copy(), stem))
                continue
            operands = (Operand(source, name), *(Operand(each, name) for each in others), known[number])
            shape = same_specs(name, operands).shape
            dtype = config.out_dtype or config.dtype or spec.dtype
            outputs.append(Output(name, Spec(dtype, shape), operands, Last(), stem))
        alone = replace(config, slices=(Slice((Member(model),)),))
        for file, content in side_files(alone, {model: source}, 0).items():
            files[f"member-{number}/{file}"] = content
    return make_plan(outputs, list(models.values()), files, max_shard, f"members of a front by {method.slug}")


METHOD = Method(
    SLUG,
    "Pareto manifold learning",
    "Dimitriadis et al. 2023, arXiv 2210.09759",
    Last,
    base="each",
    learner=Training,
    makes="a folder of models",
    plan=plan_members,
)
