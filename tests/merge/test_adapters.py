"""Merging adapters: exact, or at the floor that the rank sets, which the singular values of the sum give."""

import time

import numpy as np
import pytest
import torch

from roster.errors import RosterError
from roster.library import LowRank
from roster.merge.adapters import average_factors, compress, concatenate


def made(count=3, out=96, width=80, rank=8):
    g = torch.Generator().manual_seed(0)
    sizes = [(rank, width), (out, rank)]
    pairs = [[torch.randn(size, generator=g) for size in sizes] for _ in range(count)]
    return [LowRank(a, b, 0.5 + i) for i, (a, b) in enumerate(pairs)]


def delta(update):
    return update.scale * update.B_OR.double().numpy() @ update.A_RD.double().numpy()


def test_concatenation_is_exact_also_for_weights_below_zero():
    updates = made()
    found = concatenate(updates, [1, 0.5, -0.5])
    wanted = delta(updates[0]) + 0.5 * delta(updates[1]) - 0.5 * delta(updates[2])
    assert found.A_RD.shape[0] == 24
    np.testing.assert_allclose(delta(found), wanted, rtol=0, atol=1e-4)


def test_compression_is_at_the_floor_of_its_rank():
    updates = made()
    weights = [1, 0.5, -0.5]
    wanted = sum(w * delta(each) for w, each in zip(weights, updates, strict=True))
    found, error = compress(updates, weights, 8)
    values = np.linalg.svd(wanted, compute_uv=False)
    floor = np.linalg.norm(values[8:]) / np.linalg.norm(values)
    assert found.A_RD.shape[0] == 8
    assert abs(np.linalg.norm(delta(found) - wanted) / np.linalg.norm(wanted) - floor) < 1e-5
    assert abs(error - floor) < 1e-5


def near(update, by):
    g = torch.Generator().manual_seed(1)
    moved = [each + by * torch.randn(each.shape, generator=g) for each in (update.A_RD, update.B_OR)]
    return LowRank(*moved, update.scale)


@pytest.mark.parametrize("by", [0.0, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize(("out", "width"), [(96, 80), (12, 80), (96, 12)])
def test_compression_of_updates_that_hardly_differ_is_at_the_floor_too(by, out, width):
    first, second = made(2, out, width)
    updates, weights = [first, near(first, by), second], [1, -0.7, 1]
    wanted = sum(w * delta(each) for w, each in zip(weights, updates, strict=True))
    found, error = compress(updates, weights, 8)
    values = np.linalg.svd(wanted, compute_uv=False)
    floor = np.linalg.norm(values[8:]) / np.linalg.norm(values)
    assert abs(np.linalg.norm(delta(found) - wanted) / np.linalg.norm(wanted) - floor) < 1e-5
    assert abs(error - floor) < 1e-5


def test_updates_that_cancel_leave_nothing():
    (update,) = made(1)
    fresh = LowRank(update.A_RD, torch.zeros_like(update.B_OR), 1.0)
    for updates, weights in (([update, update], [1, -1]), ([fresh], [1]), ([update], [0])):
        found, _ = compress(updates, weights, 4)
        assert np.isfinite(delta(found)).all()
        assert np.abs(delta(found)).max() < 1e-5


def test_compression_of_a_large_layer_takes_milliseconds():
    """PEFT's `svd` takes half a minute: it makes the product, and decomposes it whole."""
    updates = made(3, 2048, 5632, 16)
    compress(updates, [1, 0.5, -0.5], 16)
    started = time.process_time()
    compress(updates, [1, 0.5, -0.5], 16)
    assert time.process_time() - started < 2


def test_factors_apart_are_not_the_sum():
    updates = [LowRank(each.A_RD, each.B_OR, 1.0) for each in made(2)]
    wanted = 0.5 * delta(updates[0]) + 0.5 * delta(updates[1])
    found = delta(average_factors(updates, [0.5, 0.5]))
    assert np.linalg.norm(found - wanted) > 0.5 * np.linalg.norm(wanted)
    same = average_factors([updates[0], updates[0]], [0.5, 0.5])
    np.testing.assert_allclose(delta(same), delta(updates[0]), atol=1e-5)


def test_wrong_counts_and_layers_are_refused():
    with pytest.raises(RosterError, match="one weight for each"):
        concatenate(made(), [1])
    with pytest.raises(RosterError, match="different layers"):
        concatenate([*made(1), *made(1, out=10)], [1, 1])
    with pytest.raises(RosterError, match="concatenate is exact"):
        average_factors(made(2), [1, 1])
