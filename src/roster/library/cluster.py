"""Model-based clustering (MBC): groups of adapters that change the base in similar ways.

What: adapters whose updates point the same way share a cluster; one adapter can then be trained per cluster.
Equation: S_ij = <dW_i, dW_j> / (|dW_i| |dW_j|), Frobenius over all layers; k-means on points with these inner products.
Shapes: N adapters, M = sum of their ranks at one layer; nothing of the size O x D is ever formed.
Trains: nothing.
Siblings: search in `search.py` compares what the cards say instead of the weights.
Source: Ostapenko, Su, Ponti, Charlin, Le Roux, Pereira, Caccia, Sordoni, 2024, "Towards Modular LLMs by Building and
    Reusing a Library of LoRAs", arXiv:2405.11157.
Differences: the authors' code flattens the factors A and B, drops small entries, reduces by an SVD, and hands the
    matrix of cosines to k-means. Here the cosines are those of the updates s B A themselves, exactly: (B M) (M^-1 A)
    is the same update for every invertible M, so flattened factors call equal adapters different, and cannot compare
    different ranks at all. There is nothing left to sparsify or to reduce, and k-means sees the normalised updates
    themselves (as points that have exactly these cosines) instead of the rows of the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from roster.errors import RosterError
from roster.library.dora import check_plain
from roster.library.folder import Library
from roster.library.soft_prompt import check_has_weights


def similarity(library: Library) -> Tensor:
    """Cosines [N, N] between the adapters' updates, float64; 1 on the diagonal.

    <s B A, s' B' A'> = s s' tr((A A'^T)(B'^T B)), so that two products of [M, D] and [M, O] matrices per layer give all
    pairs at once: 2 M^2 (D + O) operations. A module that an adapter does not have counts as an update of zero.

    Raises:
        RosterError: an adapter whose updates are all zero has no direction, and a soft prompt has none either.
    """
    names = library.names
    for adapter in library.values():
        check_has_weights(adapter, "comparing adapters by their weights")
    gram_NN = torch.zeros(len(names), len(names), dtype=torch.float64)
    for module in library.module_names:
        gram_NN += _layer_gram(library, module)
    norms_N = gram_NN.diagonal().clamp_min(0).sqrt()
    for name, norm in zip(names, norms_N.tolist(), strict=True):
        if norm == 0:
            raise RosterError(f"expert {name!r} changes nothing (every update is zero): it is like no other expert")
    cosine_NN = gram_NN / torch.outer(norms_N, norms_N)
    return cosine_NN.clamp(-1, 1).fill_diagonal_(1)


def cluster(library: Library, k: int, seed: int = 0) -> dict[int, list[str]]:
    """Groups the adapters into k clusters.

    Args:
        library: the adapters.
        k: how many clusters, from 1 to the number of adapters.
        seed: of k-means' starting points.

    Returns:
        Names by cluster, numbered from 0 in the order of the library; every adapter is in one.
    """
    if not 1 <= k <= len(library):
        raise RosterError(f"cannot make {k} clusters of {len(library)} experts: k must be from 1 to {len(library)}")
    size_N, vectors_NN = torch.linalg.eigh(similarity(library))
    points_NN = vectors_NN * size_N.clamp_min(0).sqrt()
    return group(library.names, points_NN.contiguous().numpy(), k, seed)


def group(names: Sequence[str], points_NF: NDArray[np.floating[Any]], k: int, seed: int = 0) -> dict[int, list[str]]:
    """The same of any points [N, F]: k-means, names by cluster.

    Raises:
        RosterError: more clusters than points.
    """
    if not 1 <= k <= len(names):
        raise RosterError(f"cannot make {k} clusters of {len(names)} experts: k must be from 1 to {len(names)}")
    labels = KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(points_NF)
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        groups.setdefault(label, []).append(name)
    return dict(enumerate(groups.values()))


def _layer_gram(library: Library, module: str) -> Tensor:
    """Inner products [N, N] of all updates of one layer."""
    owners, rows, columns = [], [], []
    for index, adapter in enumerate(library.values()):
        update = adapter.modules.get(module)
        if update is not None:
            check_plain(update, "comparing adapters by their weights")
            owners += [index] * update.A_RD.shape[0]
            rows.append(update.A_RD.detach().cpu().double() * update.scale)
            columns.append(update.B_OR.detach().cpu().double())
    for tensors, side in ((rows, 1), (columns, 0)):
        if len({tensor.shape[side] for tensor in tensors}) > 1:
            raise RosterError(f"the experts disagree on the size of module {module!r}: they belong to different bases")
    A_MD, B_OM = torch.cat(rows), torch.cat(columns, dim=1)
    owner_M = torch.tensor(owners)
    products_MM = (A_MD @ A_MD.T) * (B_OM.T @ B_OM)
    by_row_NM = torch.zeros(len(library), len(owners), dtype=torch.float64).index_add_(0, owner_M, products_MM)
    return torch.zeros(len(library), len(library), dtype=torch.float64).index_add_(1, owner_M, by_row_NM)
