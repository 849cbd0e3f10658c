"""UpIT: checkpoints along one run of instruction tuning become experts; more are bred of the least similar ones.

Breeding, until there are enough: the two experts with the least cosine of their differences from the base make a
child, base + alpha * DARE(a - base) + (1 - alpha) * DARE(b - base), alpha drawn; DARE drops entries at random and
scales the rest up. Cosines are those of the expected differences, so that one look at the checkpoints is enough.
Router: every sample of the data belongs to the expert with the lowest loss on it (the last checkpoint with that
expert's blocks); rows are fitted, layer by layer, to name the expert of a sample's tokens. All tensors outside the
blocks are the last checkpoint's.

Source: Hui et al. 2024, Upcycling Instruction Tuning from Dense to Mixture-of-Experts via Parameter Merging, arXiv
2410.01610, read second-hand; no code of the authors was found. Differences: there each row is trained with half the
language model's loss and half a binary cross-entropy on its own samples alone; here all rows are fitted together.
Nothing is trained afterwards.

Shape legend: T tokens, B rows, S tokens of a row, E experts, D model width.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, one_hot

from roster.convert.btx import check_alike
from roster.convert.container import Mixtral, Sizes, side_files
from roster.convert.dense import PARTS, Dense
from roster.convert.fitting import at_blocks, fit_rows
from roster.convert.kernels import DrawnRouter, Given
from roster.convert.upcycling import ROUTER_STD
from roster.errors import RosterError, nearest
from roster.header import Spec
from roster.merge.random import RANGE, draws
from roster.weights import MAX_SHARD, Copy, Gram, Kernel, Operand, Output, Plan, make_plan
from roster.weights.layers import Progress, run_layers
from roster.weights.run import PIECE
from roster.weights.texts import Texts

Tree = Any
"""An expert: the number of a checkpoint, or (number of the child, alpha, tree, tree)."""


@dataclass
class Bred(Kernel):
    """A child's matrix. Operands: the base, then every checkpoint.

    Args:
        tree: of its ancestors.
        density: share of entries that DARE keeps.
        seed: of what is dropped.
        tensor: the name in the checkpoints; tensors draw independently.
    """

    tree: Tree
    density: float
    seed: int
    tensor: str

    def write(self, x: Any, start: int) -> Tensor:
        """See the module."""
        base = x[0]
        made: Tensor = base + self._difference(self.tree, [each - base for each in x[1:]], start)
        return made

    def _difference(self, tree: Tree, found: Sequence[Tensor], start: int) -> Tensor:
        if isinstance(tree, int):
            return found[tree]
        child, alpha, *parents = tree
        both = []
        for side, parent in enumerate(parents):
            whole = self._difference(parent, found, start)
            drawn = draws(self.seed, self.tensor, 2 * child + side, start, start + whole.numel())
            both.append(whole * torch.from_numpy(drawn < int(self.density * RANGE)) / self.density)
        mean: Tensor = alpha * both[0] + (1 - alpha) * both[1]
        return mean


@dataclass
class Family:
    """Experts, and the inner products of their expected differences from the base.

    Attributes:
        gram_EE: of the checkpoints.
        density: see `Bred`.
        trees: of all experts so far.
    """

    gram_EE: Tensor
    density: float
    trees: list[Tree] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trees = list(range(len(self.gram_EE)))

    def least_alike(self) -> tuple[int, int]:
        """The two experts with the least cosine; the lower numbers where cosines are equal."""
        norm_E = self.gram_EE.diagonal().clamp(min=1e-30).sqrt()
        cosine_EE = self.gram_EE / norm_E[:, None] / norm_E
        pairs = [(float(cosine_EE[i, j]), i, j) for i in range(len(norm_E)) for j in range(i + 1, len(norm_E))]
        _, a, b = min(pairs)
        return a, b

    def breed(self, alpha: float) -> None:
        """One child of the least similar two."""
        a, b = self.least_alike()
        own_E = alpha * self.gram_EE[a] + (1 - alpha) * self.gram_EE[b]
        # What DARE drops at random from each parent makes the squares larger, and nothing else.
        lengths = [share**2 * float(self.gram_EE[e, e]) for share, e in ((alpha, a), (1 - alpha, b))]
        own = sum(lengths) / self.density + 2 * alpha * (1 - alpha) * float(self.gram_EE[a, b])
        count = len(self.trees)
        larger = torch.zeros(count + 1, count + 1, dtype=self.gram_EE.dtype)
        larger[:count, :count], larger[count, :count], larger[:count, count] = self.gram_EE, own_E, own_E
        larger[count, count] = own
        self.gram_EE = larger
        self.trees.append((count, alpha, self.trees[a], self.trees[b]))


def plan_upit(
    models: Sequence[Dense],
    texts: Texts | None,
    experts: int = 8,
    top_k: int = 2,
    density: float = 0.5,
    router: str = "fitted",
    seed: int = 0,
    max_shard: int = MAX_SHARD,
    progress: Progress | None = None,
) -> Plan:
    """The plan of the mixture, a Mixtral.

    Args:
        models: the base, and checkpoints of its tuning, the last one last.
        texts: samples for the router; None with `router=random`.
        experts: how many there shall be, the checkpoints among them.
        top_k: experts that a token gets.
        density: share of entries that DARE keeps.
        router: "fitted" or "random".
        seed: of what is drawn.
        max_shard: bytes of one output file.
        progress: told of layers done.

    Raises:
        RosterError: fewer than two checkpoints, fewer experts than checkpoints, models that are not alike.
    """
    if len(models) < 3:
        raise RosterError("upit is made of a base and at least two checkpoints of its tuning, in this order")
    if experts < len(models) - 1:
        raise RosterError(f"upit: experts={experts}, but there are {len(models) - 1} checkpoints")
    if not 0 < density <= 1:
        raise RosterError(f"upit: density={density} must be above 0, and at most 1")
    if router not in ("fitted", "random"):
        raise RosterError(f"upit: router={router!r}: {nearest(router, ('fitted', 'random'))}")
    check_alike(models)
    base, last, into = models[0], models[-1], Mixtral()
    sizes = Sizes(experts, top_k, base.width)
    family = Family(differences(models), density)
    chance = random.Random(seed)
    while len(family.trees) < experts:
        family.breed(chance.random())
    rows = _rows(models, family, texts, seed, progress) if router == "fitted" and texts is not None else {}
    outputs = [Output(name, spec, (Operand(last.source, name),), Copy()) for name, spec in last.others().items()]
    for layer in range(len(base.blocks)):
        for expert, tree in enumerate(family.trees):
            for part in PARTS:
                operands, kernel = _matrix(models, tree, layer, part, density, seed)
                outputs.append(Output(into.expert(layer, expert, part), operands[0].spec, operands, kernel))
        spec = base.operand(layer, "gate").spec
        drawn: Kernel = Given(rows[layer]) if rows else DrawnRouter(ROUTER_STD, 1, seed + layer)
        outputs.append(Output(into.router(layer), Spec(spec.dtype, (experts, spec.shape[1])), (), drawn))
    sources = list({each.source.name: each.source for each in models}.values())
    title = f"upit: {len(models) - 1} checkpoints and {experts - len(models) + 1} children"
    return make_plan(outputs, sources, side_files(last, into, sizes), max_shard, title)


def differences(models: Sequence[Dense]) -> Tensor:
    """Inner products of the checkpoints' differences from the base over all blocks, piece by piece, [E, E].

    Raises:
        RosterError: a checkpoint that cannot have come from the base.
    """
    gram = Gram(len(models))
    for layer in range(len(models[0].blocks)):
        for part in PARTS:
            operands = [each.operand(layer, part) for each in models]
            size = operands[0].spec.numel
            for start in range(0, size, PIECE):
                x = [o.source.read(o.tensor, start, min(start + PIECE, size)).float() for o in operands]
                gram.add([x[0], *(each - x[0] for each in x[1:])])
    found = gram.matrix()
    for number, each in enumerate(models[1:], 1):
        if found[number, number] > found[0, 0]:
            raise RosterError(
                f"{each.source.name!r} is farther from {models[0].source.name!r} than that is large: it is no "
                "checkpoint of that base's tuning"
            )
    return found[1:, 1:]


def _matrix(
    models: Sequence[Dense], tree: Tree, layer: int, part: str, density: float, seed: int
) -> tuple[tuple[Operand, ...], Kernel]:
    if isinstance(tree, int):
        return (models[1 + tree].operand(layer, part),), Copy()
    operands = tuple(each.operand(layer, part) for each in models)
    return operands, Bred(tree, density, seed, operands[0].tensor)


def _rows(
    models: Sequence[Dense], family: Family, texts: Texts, seed: int, progress: Progress | None
) -> dict[int, Tensor]:
    """Rows of every layer's router."""
    loss_EB = torch.stack([_losses(models, tree, family.density, texts, seed) for tree in family.trees])
    owner_T = loss_EB.argmin(0)[:, None].expand_as(texts.mask_BS)[texts.mask_BS.bool()]
    rows: dict[int, Tensor] = {}

    def look(layer: int, block: nn.Module, x_TD: Tensor) -> None:
        rows[layer] = fit_rows(x_TD, one_hot(owner_T, len(loss_EB)).float())

    at_blocks(models[-1], texts, look, progress=progress)
    return rows


def _losses(models: Sequence[Dense], tree: Tree, density: float, texts: Texts, seed: int) -> Tensor:
    """Mean loss of the next token of each sample, by the last checkpoint with one expert's blocks, [B]."""
    last = models[-1]

    def load(number: int, layer: nn.Module) -> dict[str, Tensor]:
        state = {}
        for name in dict(layer.named_parameters()):
            whole = f"model.layers.{number}.{name}"
            spec = last.source.specs[whole]
            part = next((each for each in PARTS if last.blocks[number][each] == whole), None)
            if part is None:
                state[name] = last.source.read(whole, 0, spec.numel).view(spec.shape)
                continue
            operands, kernel = _matrix(models, tree, number, part, density, seed)
            read = [each.source.read(each.tensor, 0, spec.numel).float() for each in operands]
            state[name] = kernel.write(read, 0).view(spec.shape)
        return state

    hidden_BSD = run_layers(last.source, texts, lambda number, layer, send: send(), load=load)
    return torch.stack(list(_row_losses(last, hidden_BSD, texts)))


def _row_losses(dense: Dense, hidden_BSD: Tensor, texts: Texts) -> Iterator[Tensor]:
    norm = _whole(dense, "model.norm.weight")
    head = _whole(dense, "lm_head.weight" if "lm_head.weight" in dense.source.specs else "model.embed_tokens.weight")
    epsilon = float(dense.config["rms_norm_eps"])
    for hidden_SD, ids_S, mask_S in zip(hidden_BSD, texts.ids_BS, texts.mask_BS, strict=True):
        kept = hidden_SD[mask_S.bool()]
        normed = norm * kept * (kept.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
        yield cross_entropy(linear(normed[:-1], head), ids_S[mask_S.bool()][1:])


def _whole(dense: Dense, name: str) -> Tensor:
    spec = dense.source.specs[name]
    return dense.source.read(name, 0, spec.numel).view(spec.shape).float()
