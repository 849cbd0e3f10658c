"""A convolution that sees every patch against experts that each take the few patches they score highest.

Data of the source: an image is n patches of unit norm; one of them is the pattern of its class (one of two,
orthogonal), the others are noise and patterns that say nothing. The plain network answers with the mean over patches
of two-layer ReLU units. In pMoE each of E experts has a router vector w_s, takes its top l patches by <w_s, x_j>,
weighs them by a softmax over the chosen, and sums its units over them. Both have the same number of units; only the
sizes of the training set differ.

Source: Chowdhury et al., 2023, "Patch-level Routing in Mixture-of-Experts is Provably Sample-efficient for
Convolutional Neural Networks", arXiv:2306.04073 (joint training of router and experts).
Differences: the size; Adam for a fixed number of steps in place of stochastic gradient descent.

Shape legend: N images, P patches, D width, E experts, L patches that an expert takes, J units per expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, PATCHES, TAKEN, EXPERTS, UNITS = 32, 24, 2, 4, 8
SIZES, TEST, STEPS = (16, 32, 64, 128, 256, 512), 2000, 300
GOOD = 0.95


def draw(rows: int, basis_DD: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(patches [N, P, D], labels -1 or 1 [N])."""
    label_N = torch.randint(0, 2, (rows,), generator=generator) * 2.0 - 1
    noise_NPD = F.normalize(torch.randn(rows, PATCHES, WIDTH, generator=generator), dim=2)
    # Half of the other patches are patterns that both classes have.
    common_NP = torch.randint(2, WIDTH // 2, (rows, PATCHES), generator=generator)
    is_common_NP1 = (torch.rand(rows, PATCHES, generator=generator) < 0.5)[..., None]
    patches_NPD = torch.where(is_common_NP1, basis_DD[common_NP], noise_NPD)
    where_N = torch.randint(0, PATCHES, (rows,), generator=generator)
    patches_NPD[torch.arange(rows), where_N] = basis_DD[(label_N > 0).long()]
    return patches_NPD, label_N


class Plain(nn.Module):
    """All units see all patches."""

    def __init__(self) -> None:
        super().__init__()
        self.unit_JD = nn.Parameter(torch.randn(EXPERTS * UNITS, WIDTH) * WIDTH**-0.5)
        self.sign_J = nn.Parameter(torch.randn(EXPERTS * UNITS) * UNITS**-0.5, requires_grad=False)

    def forward(self, patches_NPD: Tensor) -> Tensor:
        """Answers [N]."""
        return (patches_NPD @ self.unit_JD.T).relu().mean(1) @ self.sign_J


class PatchRouting(nn.Module):
    """Experts that choose patches."""

    def __init__(self) -> None:
        super().__init__()
        self.router_ED = nn.Parameter(torch.randn(EXPERTS, WIDTH) * WIDTH**-0.5)
        self.unit_EJD = nn.Parameter(torch.randn(EXPERTS, UNITS, WIDTH) * WIDTH**-0.5)
        self.sign_EJ = nn.Parameter(torch.randn(EXPERTS, UNITS) * UNITS**-0.5, requires_grad=False)

    def chosen(self, patches_NPD: Tensor) -> tuple[Tensor, Tensor]:
        """(weights, patches) of every expert, both [N, L, E]."""
        top_NLE, patch_NLE = (patches_NPD @ self.router_ED.T).topk(TAKEN, dim=1)
        return top_NLE.softmax(1), patch_NLE

    def forward(self, patches_NPD: Tensor) -> Tensor:
        """Answers [N]."""
        weight_NLE, patch_NLE = self.chosen(patches_NPD)
        rows_N11 = torch.arange(len(patches_NPD))[:, None, None]
        taken_NLED = patches_NPD[rows_N11, patch_NLE]
        units_NLEJ = torch.einsum("nled,ejd->nlej", taken_NLED, self.unit_EJD).relu()
        return torch.einsum("nlej,nle,ej->n", units_NLEJ, weight_NLE, self.sign_EJ)


def accuracy(kind: type[nn.Module], size: int, seed: int) -> float:
    """Test accuracy after training on `size` images."""
    generator = torch.Generator().manual_seed(seed)
    basis_DD = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    test_NPD, test_N = draw(TEST, basis_DD, generator)
    patches_NPD, label_N = draw(size, basis_DD, generator)
    torch.manual_seed(seed)
    model = kind()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.softplus(-label_N * model(patches_NPD)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return float((model(test_NPD) * test_N > 0).float().mean())


def check(seed: int) -> dict[str, float]:
    """Accuracy at every size of the training set, and the first at which it is good (twice the largest if none)."""
    figures = {}
    for name, kind in (("all patches", Plain), ("patch routing", PatchRouting)):
        by_size = {size: accuracy(kind, size, seed) for size in SIZES}
        figures |= {f"{name}: accuracy of {size} images": value for size, value in by_size.items()}
        figures[f"{name}: images needed"] = next((s for s, v in by_size.items() if v >= GOOD), 2 * SIZES[-1])
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed patch routing needs fewer images."""
    return all(each["patch routing: images needed"] < each["all patches: images needed"] for each in figures)
