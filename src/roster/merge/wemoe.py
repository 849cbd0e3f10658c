"""WEMoE from a base and models of it: `roster merge --method wemoe-merging`.

1. All that is no feed-forward matrix is merged by task arithmetic, streamed from disk to disk.
2. The differences of feed-forward matrices become adapters: of full rank exactly, or cut to a rank by SVD.
3. The recipe `wemoe-merging` routes among them; its gates learn from texts without answers, by the entropy of the next
   token. The result is a mixture that `roster.load` opens, with its base in it.

The mixture is in memory whole from step 2 on. Source: Tang et al. 2024, arXiv 2402.00433.

Shape legend: O out_features, I in_features, R rank.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.adapters.attach import attach
from roster.errors import RosterError
from roster.library import Library, LowRank, make_adapter
from roster.merge.coefficients import entropy
from roster.merge.config import Member, MergeConfig, Slice
from roster.merge.learned import Progress, texts_of
from roster.merge.opening import open_model
from roster.merge.plan import plan_merge
from roster.recipes import find
from roster.routed.base import load_base, load_tokenizer
from roster.weights import Source, run
from roster.weights.texts import LENGTH, ROWS, Texts

SLUG = "wemoe-merging"
BLOCK = ".mlp."
"""What names of feed-forward tensors contain."""


@dataclass(frozen=True)
class Settings:
    """Of the merge.

    Attributes:
        scale: of all task vectors outside the blocks, and of the gates at first.
        rank: of the adapters; 0 keeps differences as they are.
        hidden: width of the gates; 0 for the model's own.
        steps, rate, batch: of Adam on the gates; rows of each kind of texts a step.
        seed: of the gates and of the order of rows.
    """

    scale: float = 0.3
    rank: int = 0
    hidden: int = 0
    steps: int = 100
    rate: float = 1e-4
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises RosterError: numbers that cannot be."""
        if min(self.rank, self.hidden, self.steps) < 0 or self.batch < 1 or self.rate <= 0:
            raise RosterError(f"{SLUG}: rank, hidden and steps are 0 or more, batch and rate above 0")


def weight_ensemble(
    base: str | Path,
    models: Sequence[str | Path],
    out: str | Path,
    data: Sequence[str | Path],
    settings: Settings = Settings(),
    *,
    rows: int = ROWS,
    length: int = LENGTH,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """Folders in, a folder out.

    Args:
        base: what the models were made of.
        models: those to merge.
        out: where the mixture goes.
        data: JSONL without answers, any number of files.
        settings: see `Settings`.
        rows: of each file at most.
        length: tokens of a row at most.
        overwrite: whether a folder that is there is replaced.
        progress: told of steps.

    Returns:
        Mean entropy before and after the gates were tuned, in nats, summed over the files.

    Raises:
        RosterError: models that do not go together, no feed-forward matrices, too few rows; before any work.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise RosterError(f"{str(out)!r} is there already; choose another folder, or give --overwrite")
    if not data:
        raise RosterError(f"method {SLUG!r} learns from data: give --data FILE.jsonl")
    members = tuple(Member(str(each)) for each in models)
    weights = [{"filter": BLOCK, "value": 0.0}, {"value": settings.scale}]
    plan = plan_merge(MergeConfig("task_arithmetic", (Slice(members),), str(base), {"weight": weights}))
    start, others = open_model(str(base)), [open_model(str(each)) for each in models]
    names = [name for name, spec in start.specs.items() if BLOCK in name and len(spec.shape) == 2]
    folder = getattr(start, "folder", None)
    if not names or folder is None:
        raise RosterError(f"{start.name!r} has no feed-forward matrices (names with {BLOCK!r})")
    texts = texts_of(data, folder, rows=rows, length=length, batch=settings.batch, needed_by=SLUG)
    trunk = out.with_name(f".{out.name}.trunk")
    shutil.rmtree(trunk, ignore_errors=True)
    try:
        run(plan, trunk)
        torch.manual_seed(settings.seed)
        library = Library({name: _adapter(name, start, each, names, settings.rank) for name, each in _named(others)})
        model = load_base(str(trunk), dtype=torch.float32)[0]
        options = {"start": settings.scale, "hidden": settings.hidden}
        made = attach(
            model, library, find(SLUG)(options), recipe=SLUG, options=options, tokenizer=load_tokenizer(trunk)
        )
        made.roster.base_name = None
        told = tune(made, texts, settings, progress)
        made.save_pretrained(out, include_base=True)
    finally:
        shutil.rmtree(trunk, ignore_errors=True)
    return told


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
    """What the command line does; see `weight_ensemble`, whose folder is replaced where it is there.

    Returns:
        What to tell.
    """
    if base is None or not models:
        raise RosterError(f"{SLUG} needs --base, and --model once for each of the others")
    told = weight_ensemble(
        base, models, out, data, settings, rows=rows, length=length, overwrite=True, progress=progress
    )
    return f"wrote {out}: entropy {told[0]:.4f} -> {told[1]:.4f} nats"


def tune(
    model: Any, texts: Sequence[Texts], settings: Settings, progress: Progress | None = None
) -> tuple[float, float]:
    """Trains the gates of such a mixture by the entropy of its answers, in place; see `weight_ensemble`."""
    model.eval()
    before = _entropy(model, texts, settings.batch)
    gates = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(gates, lr=settings.rate)
    for step in range(settings.steps):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        optimizer.zero_grad()
        for each in texts:
            drawn = torch.randperm(len(each.ids_BS), generator=generator)[: settings.batch]
            answered(model, each, drawn).backward()
        optimizer.step()
        if progress is not None:
            progress("gates, steps", step + 1, settings.steps)
    return before, _entropy(model, texts, settings.batch)


def answered(model: Any, texts: Texts, rows: Tensor) -> Tensor:
    """Mean entropy of the next token over all places of some rows."""
    mask_BS = texts.mask_BS[rows]
    longest = int(mask_BS.sum(1).max())
    ids_BS, mask_BS = texts.ids_BS[rows, :longest], mask_BS[:, :longest]
    logits_BSV = model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits.float()
    return entropy(logits_BSV[mask_BS.bool()])


@torch.no_grad()
def _entropy(model: Any, texts: Sequence[Texts], batch: int) -> float:
    total = 0.0
    for each in texts:
        cuts = torch.arange(len(each.ids_BS)).split(batch)
        total += sum(float(answered(model, each, rows)) for rows in cuts) / len(cuts)
    return total


def _named(models: Sequence[Source]) -> list[tuple[str, Source]]:
    names = [Path(each.name).name for each in models]
    return [(n if names.count(n) == 1 else f"{i} {n}", m) for i, (n, m) in enumerate(zip(names, models, strict=True))]


def _adapter(name: str, base: Source, model: Source, tensors: Sequence[str], rank: int) -> Any:
    modules = {}
    for each in tensors:
        spec = base.specs[each]
        tau_OI, start_OI = (source.read(each, 0, spec.numel).view(spec.shape).float() for source in (model, base))
        modules[each.removesuffix(".weight")] = factored(tau_OI - start_OI, rank)
    return make_adapter(name, modules, base="")


def factored(tau_OI: Tensor, rank: int) -> LowRank:
    """A difference as an update: exactly for rank 0 (one factor is the identity), else its best of that rank."""
    out, width = tau_OI.shape
    if rank == 0:
        return LowRank(tau_OI, torch.eye(out), 1.0) if out <= width else LowRank(torch.eye(width), tau_OI, 1.0)
    left_OR, values_R, right_RI = torch.linalg.svd(tau_OI.double(), full_matrices=False)
    kept = min(rank, len(values_R))
    root_R = values_R[:kept].sqrt()
    A_RI = (root_R[:, None] * right_RI[:kept]).float()
    return LowRank(A_RI, (left_OR[:, :kept] * root_R).float().contiguous(), 1.0)
