"""Parts of the studies that have a right answer."""

import numpy as np
import pytest
import torch

from evidence.studies import granularity, vision_routers
from evidence.studies.patches import PATCHES, TAKEN, PatchRouting, draw_images
from roster.context import Context


def test_a_planted_scaling_law_is_found_again():
    planted = {"c": 2.0, "g": 0.5, "gamma": 0.6, "a": 0.8, "alpha": 0.4, "b": 1.5, "beta": 0.3}
    law = granularity.Law(planted, {}, 0.0)
    runs = [
        granularity.Measured(N, D, G, law.loss(N, D, G))
        for N in (3e4, 1e5, 3e5, 1e6)
        for D in (5e4, 2e5, 8e5, 3e6)
        for G in (1, 2, 4, 8)
    ]
    found = granularity.fit(runs, starts=12)
    assert found.residual < 1e-4
    held_out = (3e6, 1e7, 16)
    assert found.loss(*held_out) == pytest.approx(law.loss(*held_out), rel=0.02)
    noisy = [
        granularity.Measured(r.parameters, r.tokens, r.granularity, r.loss * float(np.exp(e)))
        for r, e in zip(runs, np.random.default_rng(0).normal(0, 0.005, len(runs)), strict=True)
    ]
    fitted = granularity.fit(noisy, starts=12)
    assert fitted.residual == pytest.approx(0.005, rel=0.3)
    assert abs(fitted.values["gamma"] - planted["gamma"]) < 4 * fitted.errors["gamma"]


def test_transport_gives_every_expert_its_share():
    plan_TE = vision_routers.sinkhorn_affinity(torch.randn(40, 4), rounds=50)
    torch.testing.assert_close(plan_TE.sum(1), torch.ones(40))
    torch.testing.assert_close(plan_TE.sum(0), torch.full((4,), 10.0), rtol=1e-3, atol=1e-3)
    sparse_TE = vision_routers.sparse_affinity(torch.randn(40, 4))
    assert ((sparse_TE > 0).sum(0) <= 10).all()
    torch.testing.assert_close(sparse_TE.sum(0), torch.full((4,), 10.0))


@pytest.mark.parametrize("name", vision_routers.ROUTERS)
def test_every_vision_router_trains(name):
    model = vision_routers.Vision(vision_routers.ROUTERS[name])
    model(torch.randn(4, vision_routers.PATCHES, 4), Context(4, vision_routers.PATCHES)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_patches_are_chosen_by_their_score():
    model = PatchRouting()
    patches_NPD, label_N = draw_images(6, torch.eye(32), torch.Generator().manual_seed(0))
    assert patches_NPD.shape[:2] == (6, PATCHES)
    assert set(label_N.tolist()) <= {-1.0, 1.0}
    weight_NLE, patch_NLE = model.chosen(patches_NPD)
    assert weight_NLE.shape[1] == TAKEN
    scores_NPE = patches_NPD @ model.router_ED.T
    # Equal patches have equal scores: which of them is taken is nobody's business.
    torch.testing.assert_close(scores_NPE.gather(1, patch_NLE), scores_NPE.topk(TAKEN, dim=1).values)
