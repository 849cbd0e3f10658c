"""The routed half of WEMoE: differences of feed-forward matrices as adapters, and gates that learn who counts.

Gates learn by the entropy of the next token on texts without answers. What this stands on (PEFT, transformers) takes
seconds to import, so that `wemoe.py`, which plans, imports it when it trains.

Shape legend: O out_features, I in_features, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.adapters.attach import attach
from roster.library import Library, LowRank, make_adapter
from roster.merge.coefficients import entropy
from roster.merge.learned import Progress
from roster.recipes import find
from roster.routed.base import load_base, load_tokenizer
from roster.saving import writing
from roster.weights import Source
from roster.weights.kept import Kept, read_all
from roster.weights.moments import restore, state_of
from roster.weights.texts import Texts

RECIPE = "wemoe-merging"


def build(
    trunk: Path, base: Source, models: Sequence[Source], tensors: Sequence[str], *,
    scale: float, rank: int, hidden: int, seed: int,
) -> Any:  # fmt: skip
    """The mixture with gates as they are at first.

    Args:
        trunk: the folder of the merged base.
        base, models: whose differences become adapters.
        tensors: the feed-forward matrices.
        scale: of the gates at first.
        rank: of the adapters; 0 keeps differences as they are.
        hidden: width of the gates; 0 for the model's own.
        seed: of the gates.
    """
    torch.manual_seed(seed)
    library = Library({name: _adapter(name, base, each, tensors, rank) for name, each in _named(models)})
    model = load_base(str(trunk), dtype=torch.float32)[0]
    options = {"start": scale, "hidden": hidden}
    made = attach(
        model, library, find(RECIPE)(options), recipe=RECIPE, options=options, tokenizer=load_tokenizer(trunk)
    )
    made.roster.base_name = None
    return made


def tune(
    model: Any, texts: Sequence[Texts], kept: Kept, *, steps: int, rate: float, batch: int, seed: int,
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Trains the gates of such a mixture in place and keeps them, or takes up what a killed run kept.

    Args:
        model: the mixture.
        texts: of each file.
        kept: gets the gates, and mean entropy `before` and `after` in nats, summed over the files.
        steps, rate, batch: of Adam; rows of each kind of texts a step.
        seed: of the order of rows.
        progress: told of steps.
    """
    model.eval()
    gates = _gates(model)
    optimizer = torch.optim.Adam(gates.values(), lr=rate)
    state, done = kept.half()
    if done:
        restore(gates, optimizer, state, done)
        before = state["before"]
    else:
        before = torch.tensor(_entropy(model, texts, batch), dtype=torch.float64)
    for step in range(done, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        optimizer.zero_grad()
        for each in texts:
            drawn = torch.randperm(len(each.ids_BS), generator=generator)[:batch]
            answered(model, each, drawn).backward()
        optimizer.step()
        kept.save({**state_of(gates, optimizer), "before": before}, step + 1)
        if progress is not None:
            progress("gates, steps", step + 1, steps)
    figures = {"before": repr(float(before)), "after": repr(_entropy(model, texts, batch))}
    kept.finish({name: each.data for name, each in gates.items()}, figures)


def with_gates(model: Any, kept: Kept) -> Any:
    """The mixture with the gates that were kept."""
    found = read_all(kept.path)
    for name, each in _gates(model).items():
        each.data.copy_(found[name])
    return model.eval()


def save(mixture: Any, out: Path, files: Mapping[str, bytes | Path]) -> None:
    """The mixture's folder with more files in it, in place of what is there."""
    with writing(out, tuple(each.name for each in out.iterdir()) if out.is_dir() else ()) as new:
        mixture.save_pretrained(new, include_base=True)
        for name, content in files.items():
            (new / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def answered(model: Any, texts: Texts, rows: Tensor) -> Tensor:
    """Mean entropy of the next token over all places of some rows."""
    mask_BS = texts.mask_BS[rows]
    longest = int(mask_BS.sum(1).max())
    ids_BS, mask_BS = texts.ids_BS[rows, :longest], mask_BS[:, :longest]
    logits_BSV = model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits.float()
    return entropy(logits_BSV[mask_BS.bool()])


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


def _gates(model: Any) -> Mapping[str, torch.nn.Parameter]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


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
