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

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

WIDTH, PATCHES, TAKEN, EXPERTS, UNITS = 32, 24, 2, 4, 8
IMAGES, TEST, STEPS = 64, 2000, 300


def draw_images(rows: int, basis_DD: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
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


def _accuracy(make: type[nn.Module], images: int = IMAGES, frozen: bool = False) -> Contender:
    """Test accuracy after training on so many images; `frozen` leaves the routers as they are drawn."""

    def run(draw: Draw) -> float:
        generator = torch.Generator().manual_seed(draw.ground)
        basis_DD = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
        test_NPD, test_N = draw_images(TEST, basis_DD, generator)
        generator.manual_seed(draw.luck + 1_000)
        patches_NPD, label_N = draw_images(images, basis_DD, generator)
        torch.manual_seed(draw.luck)
        model = make()
        if frozen:
            model.get_parameter("router_ED").requires_grad_(False)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(draw.steps(STEPS)):
            optimizer.zero_grad()
            F.softplus(-label_N * model(patches_NPD)).mean().backward()
            optimizer.step()
        with torch.no_grad():
            return float((model(test_NPD) * test_N > 0).float().mean())

    return run


CHECKS = (
    make_check(
        slug="pmoe-patch-routing",
        version=1,
        claim="Experts that each take the patches they score highest learn from fewer images than a network of all.",
        ground="images of 24 patches of width 32, of which one is the pattern of its class; 64 images to learn from",
        budget="32 units for both; an expert's 8 see 2 of 24 patches, a twelfth of the arithmetic",
        contenders={
            "patch routing": ("four experts that each take two patches", _accuracy(PatchRouting)),
            "all patches": ("all units see all patches", _accuracy(Plain)),
            "frozen routers": ("routers as they are drawn: not learned", _accuracy(PatchRouting, frozen=True)),
            "more images": ("control: all patches, from 96 images", _accuracy(Plain, IMAGES * 3 // 2)),
        },
        pairs=Pairs("patch routing", "all patches", "frozen routers", "more images", "all patches"),
        statistic=Statistic("accuracy on fresh images", "higher", 0.01),
    ),
)
