"""The classifier, its calibration and its folds, against scikit-learn and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional as F

from roster.auto.calibration import FALSE_ABSTENTION, calibrate, temperature_of
from roster.auto.choosing import best, try_all
from roster.auto.classes import fit, held_out, whitening
from roster.auto.groups import alike, confused
from roster.auto.wordings import folds, wordings


def clouds(count=40, classes=4, width=12, seed=0):
    """Classes that differ in one direction and vary far more, all alike, in another."""
    generator = torch.Generator().manual_seed(seed)
    class_N = torch.arange(classes).repeat_interleave(count)
    x_NF = torch.randn(len(class_N), width, generator=generator)
    x_NF[:, 0] = x_NF[:, 0] * 30
    x_NF[:, 1:3] += F.one_hot(class_N, classes)[:, :2] * 6 - F.one_hot(class_N, classes)[:, 2:4] * 6
    return x_NF, class_N


def test_whitening_is_the_inverse_root_of_ledoit_and_wolfs_covariance():
    x_NF, class_N = clouds()
    residuals = x_NF - torch.stack([x_NF[class_N == c].mean(0) for c in range(4)])[class_N]
    W = whitening(residuals).double()
    S = torch.tensor(LedoitWolf(assume_centered=True).fit(residuals.double().numpy()).covariance_)
    torch.testing.assert_close(W @ W.T @ S, torch.eye(12).double() * S.diagonal().mean(), atol=1e-4, rtol=1e-4)
    assert torch.equal(whitening(torch.zeros(3, 5)), torch.eye(5)), (
        "one example a class says nothing of a class's spread"
    )


def test_whitened_means_choose_as_linear_discriminants_do_where_plain_ones_fail():
    x_NF, class_N = clouds()
    new_NF, new_N = clouds(seed=1)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x_NF.numpy(), class_N.numpy())
    expected = theirs.predict(new_NF.numpy())
    whitened = fit(x_NF, class_N, 4, whiten=True).scores(new_NF).argmax(1).numpy()
    plain = fit(x_NF, class_N, 4, whiten=False).scores(new_NF).argmax(1)
    assert np.mean(whitened == expected) > 0.95
    assert np.mean(whitened == new_N.numpy()) > 0.95
    assert float((plain == new_N).float().mean()) < 0.8


def test_held_out_scores_come_from_classifiers_that_have_not_seen_the_fold():
    x_NF, class_N = clouds(count=6)
    fold_N = [at % 3 for at in range(len(class_N))]
    scores_NC, out_N = held_out(x_NF, class_N, fold_N, 4, whiten=True)
    train_N = torch.tensor(fold_N) != 1
    expected = fit(x_NF[train_N], class_N[train_N], 4, whiten=True).scores(x_NF[~train_N])
    torch.testing.assert_close(scores_NC[~train_N], expected)
    assert out_N.all()
    _, out_N = held_out(x_NF, class_N, [0] * 6 + fold_N[6:], 4, whiten=True)
    assert not out_N[:6].any(), "a class that is all in one fold cannot be held out"


def test_the_temperature_makes_the_classes_likely_and_the_threshold_keeps_its_promise():
    generator = torch.Generator().manual_seed(0)
    class_N = torch.arange(5).repeat_interleave(100)
    scores_NC = torch.randn(500, 5, generator=generator) * 0.1 + F.one_hot(class_N, 5) * 0.3
    temperature = temperature_of(scores_NC, class_N)
    loss = F.cross_entropy(scores_NC / temperature, class_N)
    assert loss < F.cross_entropy(scores_NC / (temperature * 1.5), class_N)
    assert loss < F.cross_entropy(scores_NC / (temperature / 1.5), class_N)
    nobody_N1 = torch.zeros(500, 1)
    scores_NM = torch.cat([scores_NC, nobody_N1], 1)
    near_GM = torch.cat([torch.randn(50, 5, generator=generator) * 0.1 + 0.1, torch.zeros(50, 1)], 1)
    found = calibrate(scores_NM, class_N, near_GM, None)
    assert found.false_abstention <= FALSE_ABSTENTION + 1e-6
    assert found.threshold > 0
    far = calibrate(
        scores_NM + F.pad(torch.ones(500, 5), (0, 1)), class_N, near_GM - F.pad(torch.ones(50, 5), (0, 1)), None
    )
    assert far.threshold == 0, "where nobody's prompts lie far away, the line is where the nearest mean draws it"
    assert far.general_abstention == 1.0
    assert far.false_abstention == 0.0
    assert far.accuracy == pytest.approx(float((scores_NC.argmax(1) == class_N).float().mean()))


def test_a_place_that_says_nothing_is_not_chosen_and_an_early_one_wins_a_tie():
    x_NF, class_N = clouds()
    noise = torch.randn(x_NF.shape, generator=torch.Generator().manual_seed(3))
    general_GF = torch.randn(40, 12, generator=torch.Generator().manual_seed(4))
    places = [(1, "mean"), (2, "mean"), (3, "mean")]
    features, general = torch.stack([noise, x_NF, x_NF], 1), torch.stack([general_GF] * 3, 1)
    fold_N = [at % 5 for at in range(len(class_N))]
    chosen = best(try_all(features, class_N, fold_N, general, places, [True, False]))
    assert (chosen.place, chosen.whiten) == ((2, "mean"), True)
    same = [replace(chosen, place=(2, pooling)) for pooling in ("last", "tail", "mean")]
    assert best(same).place == (2, "mean")


def test_wordings_are_told_apart_and_held_out_whole():
    items = ["seven", "lamp", "river", "stone"]
    worded = [f"Write {x} in capitals." for x in items] + [f"What does {x} look like in capitals?" for x in items]
    assert wordings(worded) == [0] * 4 + [1] * 4
    assert wordings(["one thing", "quite another", "third"]) == [0, 1, 2], "nothing in common: each by itself"
    found = folds([0] * 8 + [1] * 3, [*worded, "x1", "y2", "z3"], 5)
    assert found[:8] == [0] * 4 + [1] * 4
    assert len(set(found[8:])) == 3


def test_copies_and_lookalikes_are_one_class():
    assert alike([["a", "b"], ["c"], ["a", "b"], ["b", "a", "z"], ["q"]]) == [0, 1, 0, 0, 2]
    class_N = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    chosen_N = torch.tensor([0, 1] * 10 + [2] * 10)
    assert confused(F.one_hot(chosen_N, 3).float(), class_N) == [0, 0, 1]
    chosen_N = torch.tensor([0] * 7 + [1] * 3 + [0] * 3 + [1] * 7 + [2] * 10)
    assert confused(F.one_hot(chosen_N, 3).float(), class_N) == [0, 1, 2], "mistaken now and then is not alike"
