"""The search among very many classes says what the whole product would."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from roster.auto.judge import Judge
from roster.auto.nearest import FROM_CLASSES, Nearest

WIDTH, MANY = 48, 3000


def means(kind):
    """Unit vectors [F, M]: without any order, in crowds, or the same many times over."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(7, WIDTH, generator=generator)
    noise = torch.randn(MANY, WIDTH, generator=generator)
    spread = {"scattered": noise, "crowds": centers[torch.arange(MANY) % 7] + 0.05 * noise, "copies": centers}[kind]
    return F.normalize(spread[torch.arange(MANY) % len(spread)], dim=1).T.contiguous()


@pytest.mark.parametrize("kind", ["scattered", "crowds"])
def test_it_finds_what_the_whole_product_finds(kind):
    means_FM = means(kind)
    z_BF = F.normalize(torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)
    best_BK, class_BK = Nearest.of(means_FM).best(z_BF, 2)
    exact_BM = (z_BF.double() @ means_FM.double())[:, :-1]
    expected_BK, at_BK = exact_BM.topk(2, dim=1)
    torch.testing.assert_close(best_BK.double(), expected_BK, atol=1e-6, rtol=0)
    told_apart = expected_BK[:, 0] - expected_BK[:, 1] > 1e-6
    assert told_apart.float().mean() > 0.9
    assert torch.equal(class_BK[told_apart, 0], at_BK[told_apart, 0])


def test_what_rounding_leaves_open_is_within_the_bound():
    """The bound is what makes the search exact: rounded products are never farther off."""
    means_FM, nearest = means("scattered"), Nearest.of(means("scattered"))
    rounded_MF = nearest.coarse_MF.float() * nearest.step_M[:, None]
    torch.testing.assert_close((rounded_MF - means_FM.T).norm(dim=1), nearest.error_M)
    z_F = F.normalize(torch.randn(WIDTH), dim=0)
    assert bool(((rounded_MF - means_FM.T) @ z_F).abs().le(nearest.error_M + 1e-6).all())


def test_copies_and_numbers_that_are_none_are_survived():
    nearest = Nearest.of(means("copies"))
    z_F = means("copies")[:, 3]
    best_BK, class_BK = nearest.best(z_F[None], 2)
    torch.testing.assert_close(best_BK, torch.ones(1, 2))
    assert (class_BK % 7 == 3).all()
    assert nearest.best(torch.full((1, WIDTH), float("nan")), 2)[1].shape == (1, 2)


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_a_judge_of_many_decides_as_by_all_scores(margin):
    judge, index = Judge(MANY), torch.arange(MANY)
    means_FM = means("crowds")
    judge.learn(
        replace(
            judge.knowledge,
            center_F=torch.full((WIDTH,), 0.1),
            whiten_FF=torch.eye(WIDTH) * 2,
            means_FM=torch.cat([means_FM, means_FM[:, :1]], dim=1),
            expert_C=index.flip(0),
            class_E=index,
            limits_4=torch.tensor([0.02, 0.0, 0.3, margin]),
        )
    )
    assert judge.means_FM.shape[1] >= FROM_CLASSES
    features_BF = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(2))
    found, expected = judge(features_BF), judge.decide(judge.scores(features_BF))
    serves = expected[:, 1, 0] > 0
    assert 0 < int(serves.sum()) < 30
    assert torch.equal(found[:, 1], expected[:, 1])
    assert torch.equal(found[serves, 0, 0], expected[serves, 0, 0])


def test_a_loaded_judge_knows_its_place_and_searches_its_own_means():
    one, other = Judge(3), Judge(3)
    one.learn(replace(one.knowledge, place_2=torch.tensor([4, 2]), limits_4=torch.tensor([1.0, 0.0, 0.0, 0.5])))
    other.load_state_dict(one.state_dict())
    assert (other.blocks, other.pooling, other.mixes) == ((4,), "tail", True)
