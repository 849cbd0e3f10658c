"""Clusters are of the updates, not of the factors they happen to be written in."""

from dataclasses import replace

import pytest
import torch

from roster import RosterError
from roster.library import Library, LowRank, cluster, make_adapter, similarity

SIZES = {"a.up": (12, 20), "a.down": (20, 12)}  # in_features, out_features


def update(in_features, out_features, rank=3, scale=1.0, generator=None):
    A = torch.randn(rank, in_features, generator=generator)
    return LowRank(A, torch.randn(out_features, rank, generator=generator), scale)


def library_of(updates):
    return Library({name: make_adapter(name, modules, base="b") for name, modules in updates.items()})


def random_library(count, modules=tuple(SIZES)):
    return library_of(
        {str(i): {m: update(*SIZES[m], rank=1 + i, scale=0.5 + i) for m in modules} for i in range(count)}
    )


def remixed(modules):
    """The same updates from other factors: (B M)(M^-1 A)."""
    mixed = {}
    for name, each in modules.items():
        M = torch.randn(each.A_RD.shape[0], each.A_RD.shape[0]) + 3 * torch.eye(each.A_RD.shape[0])
        mixed[name] = LowRank(torch.linalg.inv(M) @ each.A_RD, each.B_OR @ M, each.scale)
    return mixed


def flat_delta(adapter):
    """The reference: every update in full."""
    parts = []
    for name, (in_features, out_features) in SIZES.items():
        each = adapter.modules.get(name)
        delta = torch.zeros(out_features, in_features) if each is None else each.scale * each.B_OR @ each.A_RD
        parts.append(delta.flatten().double())
    return torch.cat(parts)


def test_similarity_is_that_of_the_full_updates():
    """With different ranks and scales, and an adapter that lacks a layer."""
    adapters = dict(random_library(4)) | dict(random_library(1, ["a.up"]))
    library = Library({f"{i}": replace(each, name=f"{i}") for i, each in enumerate(adapters.values())})
    deltas = torch.stack([flat_delta(each) for each in library.values()])
    expected = torch.nn.functional.cosine_similarity(deltas[:, None], deltas[None], dim=-1)
    torch.testing.assert_close(similarity(library), expected, atol=1e-6, rtol=1e-6)


def test_factors_are_ambiguous_and_updates_are_not():
    """Flattened factors call two writings of one update unlike; their cosine is 1."""
    modules = {name: update(*size) for name, size in SIZES.items()}
    library = library_of({"one": modules, "same": remixed(modules)})
    assert similarity(library)[0, 1].item() == pytest.approx(1, abs=1e-5)
    flat = [torch.cat([t.flatten() for u in a.modules.values() for t in (u.A_RD, u.B_OR)]) for a in library.values()]
    assert torch.cosine_similarity(*flat, dim=0) < 0.9


def test_the_size_of_an_update_does_not_matter_and_its_sign_does():
    modules = {name: update(*size) for name, size in SIZES.items()}
    scaled = {
        name: {key: replace(each, scale=scale) for key, each in modules.items()}
        for name, scale in (("one", 1.0), ("large", 50.0), ("against", -0.1))
    }
    assert similarity(library_of(scaled))[0].tolist() == pytest.approx([1, 1, -1])


@pytest.mark.parametrize("k", [2, 3, 4])
def test_planted_clusters_are_found(k):
    """Noisy copies of k updates, each written in factors of its own, in an order that mixes them."""
    planted = [{name: update(*size) for name, size in SIZES.items()} for _ in range(k)]
    members = {}
    for copy in range(4):
        for group, modules in enumerate(planted):
            noisy = {n: replace(u, A_RD=u.A_RD + 0.3 * torch.randn_like(u.A_RD)) for n, u in modules.items()}
            members[f"{group} {copy}"] = remixed(noisy)
    found = cluster(library_of(members), k)
    assert list(found) == list(range(k))
    assert [{name[0] for name in names} for names in found.values()] == [{str(group)} for group in range(k)]
    assert sorted(name for names in found.values() for name in names) == sorted(members)
    assert found == cluster(library_of(members), k)


def test_as_many_clusters_as_adapters():
    assert cluster(random_library(3), 3) == {0: ["0"], 1: ["1"], 2: ["2"]}
    assert cluster(random_library(3), 1) == {0: ["0", "1", "2"]}


@pytest.mark.parametrize("k", [0, 4])
def test_too_many_clusters(k):
    with pytest.raises(RosterError, match=f"cannot make {k} clusters of 3 experts"):
        cluster(random_library(3), k)


def test_an_adapter_that_changes_nothing():
    nothing = {"a.up": LowRank(torch.randn(2, 12), torch.zeros(20, 2), 1.0)}
    with pytest.raises(RosterError, match="'idle' changes nothing"):
        similarity(library_of({"idle": nothing, "busy": {"a.up": update(12, 20)}}))


def test_sizes_that_disagree():
    with pytest.raises(RosterError, match=r"disagree on the size of module 'a\.up'"):
        similarity(library_of({"x": {"a.up": update(12, 20)}, "y": {"a.up": update(13, 20)}}))
