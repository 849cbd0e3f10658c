"""Every method against a plain definition in NumPy, written from the papers and not from the kernels."""

import itertools

import numpy as np
import pytest
import torch

from roster.errors import RosterError
from roster.merge import METHODS, merge_tensors
from roster.merge.method import MODEL

SHAPE = (37, 53)
LEARNED = {"fisher": torch.ones(SHAPE), "regmean": torch.eye(SHAPE[1])}
LEARNED |= dict.fromkeys(("adamerging", "atlas"), torch.tensor([0.4]))


@pytest.fixture(scope="module")
def vectors():
    """A base and three models, float64 NumPy and float32 torch."""
    generator = np.random.default_rng(0)
    base = generator.standard_normal(SHAPE)
    models = [base + 0.1 * generator.standard_normal(SHAPE) * (1 + i) for i in range(3)]
    base, *models = [each.astype(np.float32).astype(np.float64) for each in (base, *models)]
    return base, models


def merged(slug, vectors, base=True, count=3, **settings):
    first, models = vectors
    settings = {name.replace("lambda_", "lambda"): value for name, value in settings.items()}
    given = [torch.tensor(each, dtype=torch.float32) for each in models[:count]]
    start = torch.tensor(first, dtype=torch.float32) if base else None
    before = [each.clone() for each in given]
    found = merge_tensors(slug, given, start, name="w", **settings).double().numpy()
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True)), "the inputs were changed"
    return found


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-6)


def top(d, count):
    """`d` with all but its `count` largest entries set to 0."""
    order = np.argsort(-np.abs(d), axis=None)
    kept = np.zeros(d.size)
    kept[order[:count]] = 1
    return d * kept.reshape(d.shape)


def elect(deltas, weights, normalize):
    found = np.zeros(SHAPE)
    for at in itertools.product(*map(range, SHAPE)):
        weighted = [w * d[at] for w, d in zip(weights, deltas, strict=True)]
        sign = 1 if sum(weighted) >= 0 else -1
        agreeing = [(w, x) for w, x in zip(weights, weighted, strict=True) if np.sign(x) == sign]
        total = sum(w for w, _ in agreeing) if normalize else 1
        found[at] = sum(x for _, x in agreeing) / (total or 1)
    return found


def test_linear(vectors):
    models = vectors[1]
    close(merged("linear", vectors, base=False, weight=[1, 2, 5]), (models[0] + 2 * models[1] + 5 * models[2]) / 8)
    close(
        merged("linear", vectors, base=False, weight=[1, 2, -1], normalize=False), models[0] + 2 * models[1] - models[2]
    )
    with pytest.raises(RosterError, match="sum to 0"):
        merged("linear", vectors, base=False, weight=[1, 1, -2])


def test_task_arithmetic(vectors):
    base, models = vectors
    wanted = base + 0.5 * sum(w * (m - base) for w, m in zip((1, -2, 0.5), models, strict=True))
    close(merged("task_arithmetic", vectors, weight=[1, -2, 0.5], lambda_=0.5), wanted)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("trim", ["global", "tensor"])
def test_ties(vectors, normalize, trim):
    """Of one tensor the two ways to trim are one."""
    base, models = vectors
    weights, densities = (1.0, 0.5, 2.0), (0.2, 0.5, 0.9)
    deltas = [top(m - base, int(d * base.size)) for m, d in zip(models, densities, strict=True)]
    wanted = base + elect(deltas, weights, normalize)
    settings = {"weight": weights, "density": densities, "normalize": normalize, "trim": trim}
    close(merged("ties", vectors, **settings), wanted)


@pytest.mark.parametrize("slug", ["dare_linear", "dare_ties"])
def test_dare_drops_the_stated_share_and_scales_by_it(vectors, slug):
    base, models = vectors
    found = merged(slug, vectors, count=1, weight=1, density=0.3) - base
    delta = models[0] - base
    kept = np.abs(found) > 1e-5
    assert abs(kept.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / kept.size)
    np.testing.assert_allclose(found[kept], delta[kept] / 0.3, atol=1e-5)
    norm = merged(slug, vectors, count=1, weight=1, density=0.3, scale_to="norm") - base
    np.testing.assert_allclose(np.abs(norm).sum(), np.abs(delta).sum(), rtol=1e-4)
    assert not np.array_equal(found, merged(slug, vectors, count=1, weight=1, density=0.3, seed=1) - base)


def test_what_dare_drops_of_two_models_is_independent(vectors):
    base, models = vectors
    same = (base, [models[0], models[0]])
    found = merged("dare_linear", same, count=2, weight=[1, 1], density=0.5, rescale=False) - base
    levels = np.round(found / (models[0] - base)).astype(int)
    shares = np.bincount(levels.ravel(), minlength=3) / levels.size
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=4 * np.sqrt(0.25 / levels.size))


def test_della_keeps_large_entries_more_often():
    """Over many rows: the share kept at each rank is density - epsilon + 2 epsilon rank / (n - 1)."""
    rows, n = 4000, 21
    generator = np.random.default_rng(1)
    ranks = np.stack([generator.permutation(n) for _ in range(rows)])
    delta = torch.tensor(2.0 ** (ranks - n), dtype=torch.float32)
    settings = {"weight": 1, "density": 0.5, "epsilon": 0.3}
    found = merge_tensors("della_linear", [delta], torch.zeros(rows, n), rescale=False, **settings)
    kept = np.array([(found.numpy() != 0)[ranks == rank].mean() for rank in range(n)])
    wanted = 0.2 + 0.6 * np.arange(n) / (n - 1)
    np.testing.assert_allclose(kept, wanted, atol=5 * np.sqrt(0.25 / rows))
    scaled = merge_tensors("della_linear", [delta], torch.zeros(rows, n), scale_to="probability", **settings)
    alive = found.numpy() != 0
    np.testing.assert_allclose(scaled.numpy()[alive], (delta.numpy() / wanted[ranks])[alive], rtol=1e-5)
    norm = merge_tensors("della", [delta], torch.zeros(rows, n), **settings)
    np.testing.assert_allclose(norm.double().sum(), delta.double().sum(), rtol=1e-3)


@pytest.mark.parametrize("slug", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_of_a_tensor(vectors, slug):
    base, models = vectors
    n = base.size
    deltas = []
    for model in models:
        d = model - base
        middle = top(d, int(0.05 * n) + int(0.4 * n)) - top(d, int(0.05 * n))
        deltas.append(middle)
    weights = (1.0, 0.5, 2.0)
    plain = sum(w * d for w, d in zip(weights, deltas, strict=True))
    wanted = base + (elect(deltas, weights, False) if slug.endswith("ties") else plain)
    close(merged(slug, vectors, weight=weights, density=0.4, gamma=0.05), wanted)


def test_breadcrumbs_of_rows(vectors):
    base, models = vectors
    n = SHAPE[1]
    wanted = base.copy()
    for model in models:
        for row, d in enumerate(model - base):
            wanted[row] += top(d, int(0.1 * n) + int(0.3 * n)) - top(d, int(0.1 * n))
    close(merged("model-breadcrumbs", vectors, beta=0.3, gamma=0.1), wanted)


def test_all_breadcrumbs_are_task_arithmetic_bit_by_bit(vectors):
    plain = merged("task_arithmetic", vectors, weight=0.4)
    assert np.array_equal(merged("model-breadcrumbs", vectors, weight=0.4, beta=1, gamma=0), plain)
    assert np.array_equal(merged("breadcrumbs", vectors, weight=0.4, density=1, gamma=0), plain)


def sphere(a, b, t):
    angle = np.arccos(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def test_slerp(vectors):
    base = np.roll(vectors[0], 3)
    near = (base, [base + 1e-3 * vectors[0]])
    close(merged("slerp", (base, vectors[1]), count=1, t=0.3), sphere(base, vectors[1][0], 0.3))
    close(merged("slerp", near, count=1, t=0.3), 0.7 * base + 0.3 * near[1][0])


def test_nuslerp(vectors):
    base, models = vectors
    a, b = models[0] - base, models[1] - base
    weight = {"weight": [1, 3], "count": 2}
    close(merged("nuslerp", vectors, **weight), base + sphere(a, b, 0.75))
    rows = np.stack([sphere(x, y, 0.75) for x, y in zip(a, b, strict=True)])
    close(merged("nuslerp", vectors, nuslerp_flatten=False, **weight), base + rows)
    columns = np.stack([sphere(x, y, 0.75) for x, y in zip(a.T, b.T, strict=True)]).T
    close(merged("nuslerp", vectors, nuslerp_flatten=False, nuslerp_row_wise=True, **weight), base + columns)


def test_model_stock(vectors):
    base, models = vectors

    def stock(start, ends):
        d = [each - start for each in ends]
        pairs = itertools.combinations(d, 2)
        cosine = np.mean([np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs])
        t = 3 * cosine / (1 + 2 * cosine)
        return t * np.mean(ends, axis=0) + (1 - t) * start

    close(merged("model_stock", vectors), stock(base, models))
    rows = np.stack([stock(base[i], [each[i] for each in models]) for i in range(SHAPE[0])])
    close(merged("model_stock", vectors, filter_wise=True), rows)


def test_karcher(vectors):
    """The gradient at the mean is zero: the arcs to the models pull equally."""
    models = [vectors[1][0], np.roll(vectors[1][1], 1), np.roll(vectors[1][2], 2)]
    found = merged("karcher", (vectors[0], models), base=False, max_iter=200, tol=1e-9)
    norms = [np.linalg.norm(each) for each in models]
    assert abs(np.linalg.norm(found) - np.mean(norms)) < 1e-4
    mean = found / np.linalg.norm(found)
    pull = np.zeros(SHAPE)
    for model, norm in zip(models, norms, strict=True):
        unit = model / norm
        angle = np.arccos(np.sum(unit * mean))
        pull += angle / np.sin(angle) * (unit - np.cos(angle) * mean)
    assert np.linalg.norm(pull) < 1e-4


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_sce(vectors, share):
    base, models = vectors
    d = np.stack([model - base for model in models])
    if share < 1:
        variance = d.var(axis=0)
        d = d * (top(variance, int(share * variance.size)) != 0)
    energies = (d**2).reshape(3, -1).mean(1)
    weights = energies / energies.sum()
    agrees = np.sign(d) == np.where(d.sum(0) >= 0, 1, -1)
    parts = weights[:, None, None] * agrees
    close(merged("sce", vectors, select_topk=share), base + (d * parts).sum(0) / np.maximum(parts.sum(0), 1e-6))


def test_passthrough(vectors):
    close(merged("passthrough", vectors, base=False, count=1, scale=0.25), 0.25 * vectors[1][0])


@pytest.mark.parametrize("slug", [slug for slug, each in METHODS.items() if each.makes == MODEL])
def test_one_model_that_is_the_base_stays_what_it_is(vectors, slug):
    method = METHODS[slug]
    count = max(1, method.fewest)
    same = (vectors[0], [vectors[0]] * count)
    settings = {name: 1 for name, each in method.settings.items() if each.default is None}
    settings |= {"learned": [LEARNED[slug]] * count} if method.learner is not None else {}
    close(merged(slug, same, base=method.base == "required", count=count, **settings), vectors[0])


def test_a_density_of_5_is_refused(vectors):
    with pytest.raises(RosterError, match=r"density=5 must be a number from 0 to 1"):
        merged("ties", vectors, weight=1, density=5)


def test_a_misspelt_setting_is_refused(vectors):
    with pytest.raises(RosterError, match="did you mean 'density'"):
        merged("ties", vectors, weight=1, densty=0.05)
