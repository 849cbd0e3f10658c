"""Model-based clustering: which tasks belong together, read off the adapters trained on each alone.

Source: Ostapenko et al., 2024, "Towards Modular LLMs by Building and Reusing a Library of LoRAs", arXiv:2405.11157
    (MBC): train an adapter per task, cluster the tasks by the similarity of their adapters, then train one adapter
    per cluster.
Differences: the source clusters the flattened factors A and B, reduced by an SVD. Factors are not unique (B A is the
    same as (B M^-1)(M A) for every invertible M), so two equal updates can look unrelated; here the updates B A
    themselves are compared, by their cosine, without ever forming them.

Shape legend: N adapters, R rank, I in_features, O out_features.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from roster.errors import RosterError
from roster.library.folder import Library


def similarity(library: Library) -> Tensor:
    """Cosine between the updates of every two adapters, over all layers together, [N, N].

    `<B_i A_i, B_j A_j> = sum((B_i^T B_j) * (A_i A_j^T))`, which costs R x R instead of O x I numbers. A layer that
    one of two adapters leaves alone contributes nothing.
    """
    adapters = [library[name] for name in library.names]
    gram_NN = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for name in library.module_names:
        present = [(index, a.modules[name]) for index, a in enumerate(adapters) if name in a.modules]
        factors = [(index, u.A_RD.double(), u.B_OR.double() * u.scale) for index, u in present]
        for i, A_i, B_i in factors:
            for j, A_j, B_j in factors:
                if j >= i:
                    gram_NN[i, j] += ((B_i.T @ B_j) * (A_i @ A_j.T)).sum()
    gram_NN = torch.triu(gram_NN) + torch.triu(gram_NN, 1).T
    size_N = gram_NN.diagonal().clamp_min(1e-30).sqrt()
    return gram_NN / (size_N[:, None] * size_N[None, :])


def cluster(library: Library, k: int, seed: int = 0) -> dict[int, list[str]]:
    """Groups the adapters into k clusters by k-means on their normalised updates.

    Args:
        library: the adapters, one per task.
        k: number of clusters, at most the number of adapters.
        seed: of k-means' starts.

    Returns:
        The names in each cluster; clusters are numbered in the order of their first adapter.
    """
    if not 1 <= k <= len(library):
        raise RosterError(f"{len(library)} adapters cannot form {k} clusters")
    size_N, vectors_NN = torch.linalg.eigh(similarity(library))
    # Points whose inner products are exactly the cosines.
    points_NN = (vectors_NN * size_N.clamp_min(0).sqrt()).numpy()
    labels = KMeans(k, n_init=10, random_state=seed).fit_predict(np.ascontiguousarray(points_NN))
    groups: dict[int, list[str]] = {}
    order = {label: index for index, label in enumerate(dict.fromkeys(labels.tolist()))}
    for name, label in zip(library.names, labels.tolist(), strict=True):
        groups.setdefault(order[label], []).append(name)
    return groups
