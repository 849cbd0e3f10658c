"""Ensembles that learn task after task: against SciPy, torch's distributions and transport done the long way."""

import copy
import hashlib

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from roster import RosterError
from roster.continual import OnlineEnsemble, SelectiveExperts, soft_top_k
from roster.continual.selective_experts import Gaussian
from roster.recipes import find


@pytest.fixture(scope="module")
def digits():
    """Five tasks of two digits each, and what is held out."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x_ND, y_N = torch.tensor(x[order], dtype=torch.float32) / 16, torch.tensor(y[order])
    seen, held = slice(0, 1200), slice(1200, None)
    tasks = [(x_ND[seen][y_N[seen] // 2 == t], y_N[seen][y_N[seen] // 2 == t]) for t in range(5)]
    return tasks, x_ND[held], y_N[held]


def transport(scores_NM, k, epsilon, rounds=300):
    """Entropic transport of the scores onto the anchors 0 and 1 by Sinkhorn's iterations, in logarithms."""
    M = scores_NM.shape[1]
    cost_NM2 = (scores_NM[..., None].double() - torch.tensor([0.0, 1.0]).double()).square()
    mass_2 = torch.tensor([(M - k) / M, k / M]).double()
    f_NM1, g_N12 = torch.zeros_like(cost_NM2[..., :1]), torch.zeros_like(cost_NM2[:, :1])
    for _ in range(rounds):
        f_NM1 = epsilon * (-np.log(M) - ((g_N12 - cost_NM2) / epsilon).logsumexp(2, keepdim=True))
        g_N12 = epsilon * (mass_2.log() - ((f_NM1 - cost_NM2) / epsilon).logsumexp(1, keepdim=True))
    return M * ((f_NM1 + g_N12 - cost_NM2) / epsilon).exp()[..., 1]


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
@pytest.mark.parametrize("k", [1, 3])
def test_the_soft_choice_is_entropic_transport(k, epsilon):
    scores_NM = torch.randn(4, 7)
    expected_NM = transport(scores_NM, k, epsilon)
    torch.testing.assert_close(soft_top_k(scores_NM, k, epsilon).double(), expected_NM, atol=1e-5, rtol=1e-4)


def test_the_soft_choice_sums_to_k_and_becomes_the_hard_one():
    scores_NM = torch.rand(50, 32)
    hard_NM = torch.zeros(50, 32).scatter(1, scores_NM.topk(4, dim=1).indices, 1.0)
    for epsilon in (1.0, 1e-2, 5e-4):
        share_NM = soft_top_k(scores_NM, 4, epsilon)
        torch.testing.assert_close(share_NM.sum(1), torch.full((50,), 4.0), atol=1e-4, rtol=0)
    gap_N = scores_NM.topk(5, dim=1).values[:, 3:].diff(dim=1).abs()[:, 0]
    clear_N = gap_N > 1e-2  # near ties are shared
    assert clear_N.any()
    assert (soft_top_k(scores_NM, 4, 5e-4) - hard_NM)[clear_N].abs().max() < 0.01
    assert torch.equal(soft_top_k(scores_NM, 32, 0.1), torch.ones(50, 32))


def test_gradients_of_the_soft_choice_are_those_of_finite_differences():
    scores_NM = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, 2, 0.3), scores_NM, eps=1e-6, atol=1e-5)


def test_an_online_ensemble_is_its_equation():
    ensemble = OnlineEnsemble(6, learners=5, k=2, tau=0.7, epsilon=0.5)
    x_ND, y_N = torch.randn(8, 6), torch.tensor([4, 9] * 4)
    before = copy.deepcopy(ensemble)
    before._grow(y_N.tolist())
    loss = ensemble.partial_fit(x_ND, y_N)
    assert ensemble.classes == [4, 9]
    z_ND = x_ND / x_ND.norm(dim=1, keepdim=True)
    key_MD = (before.keys_MD / before.keys_MD.norm(dim=1, keepdim=True)).detach()
    c_NM = z_ND @ key_MD.T
    s_NM = transport(c_NM, 2, 0.5).float()
    votes, pulls = [], []
    for x_D, z_D, y, c, s in zip(x_ND, z_ND, y_N.tolist(), c_NM.tolist(), s_NM.tolist(), strict=True):
        h = [0.7 * torch.tanh(before.weight_CMD[:, j].detach() @ z_D / 0.7) for j in range(5)]
        out_C = sum(s[j] * c[j] * s[j] * h[j] for j in range(5)) / sum(s[j] * c[j] for j in range(5))
        torch.testing.assert_close(before(x_D[None])[0].detach(), out_C, atol=1e-4, rtol=1e-3)
        votes.append(float(out_C[[4, 9].index(y)]))
        pulls.append(sum((1 - c[j]) * s[j] for j in range(5)))
    assert loss == pytest.approx(-np.mean(votes) + np.mean(pulls), abs=1e-4)


def accuracy(ensemble, x_ND, y_N):
    return float((ensemble.predict(x_ND) == y_N).float().mean())


def stream(tasks, **options):
    ensemble = find("dee-online-ensemble-cl")(options)(64)
    for x_ND, y_N in tasks:
        for x_bD, y_b in zip((x_ND - 0.3).split(10), y_N.split(10), strict=True):
            ensemble.partial_fit(x_bD, y_b)
    return ensemble


def test_one_pass_over_ten_classes_in_five_tasks(digits):
    """Chance is 0.1; one learner for all forgets more than an ensemble."""
    tasks, x_ND, y_N = digits
    many, one = stream(tasks, learners=32, k=4), stream(tasks, learners=1, k=1)
    assert accuracy(many, x_ND - 0.3, y_N) > 0.85
    assert accuracy(many, x_ND - 0.3, y_N) > accuracy(one, x_ND - 0.3, y_N)


def test_an_online_ensemble_is_saved(digits, tmp_path):
    tasks, x_ND, _ = digits
    ensemble = stream(tasks[:2], learners=8, k=2)
    ensemble.save(tmp_path / "saved")
    again = OnlineEnsemble(64, 8, 2).load(tmp_path / "saved")
    assert again.classes == [0, 1, 2, 3]
    assert torch.equal(again(x_ND), ensemble(x_ND))
    with pytest.raises(RosterError, match="is no ensemble of"):
        OnlineEnsemble(64, 9, 2).load(tmp_path / "saved")


def test_refused_online():
    with pytest.raises(RosterError, match="k must be 1 to 4"):
        OnlineEnsemble(3, 4, 5)
    with pytest.raises(RosterError, match="no class yet"):
        OnlineEnsemble(3, 4, 2).predict(torch.ones(1, 3))


def test_gaussians_are_those_of_scipy_and_torch():
    one, other = (Gaussian.of(torch.randn(40, 3) * scale, 0.01) for scale in (1.0, 2.0))
    x_ND = torch.randn(5, 3)
    expected = multivariate_normal(one.mean_D.numpy(), one.cov_DD.numpy()).logpdf(x_ND.numpy())
    np.testing.assert_allclose(one.log_density(x_ND).numpy(), expected, rtol=1e-9)
    p, q = (MultivariateNormal(each.mean_D, each.cov_DD) for each in (one, other))
    assert one.divergence(other) == pytest.approx(float(kl_divergence(p, q)), rel=1e-9)
    assert one.divergence(one) == pytest.approx(0.0, abs=1e-9)


def seed(experts, **settings):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    return SelectiveExperts(encoder, experts, epochs=8, later_epochs=4, **settings)


def hashes(ensemble):
    state = [b"".join(t.numpy().tobytes() for t in each.state_dict().values()) for each in ensemble.encoders]
    return [hashlib.sha256(each).hexdigest() for each in state]


def test_a_task_changes_one_expert_the_one_whose_classes_lie_furthest_apart(digits):
    tasks, x_ND, y_N = digits
    ensemble, trained = seed(3), []
    for number, (x_ND_t, y_N_t) in enumerate(tasks):
        before = hashes(ensemble)
        apart = []
        for encoder in ensemble.encoders:  # written out with torch's own distributions
            z_ND = encoder(x_ND_t).detach()
            made = [Gaussian.of(z_ND[y_N_t == label], 0.01) for label in y_N_t.unique().tolist()]
            p, q = (MultivariateNormal(each.mean_D, each.cov_DD) for each in made)
            apart.append(float(kl_divergence(p, q) + kl_divergence(q, p)) / 2)
        trained.append(ensemble.partial_fit(x_ND_t, y_N_t))
        assert [e for e in range(3) if hashes(ensemble)[e] != before[e]] == [trained[-1]]
        assert trained[-1] == (number if number < 3 else int(np.argmax(apart)))
    assert trained[:3] == [0, 1, 2]
    # The first expert knows every class, the third those of the tasks from its own on.
    assert [len(each) for each in ensemble.known] == [10, 8, 6]
    one = seed(1)
    for task in tasks:
        one.partial_fit(*task)
    assert accuracy(ensemble, x_ND, y_N) > accuracy(one, x_ND, y_N) > 0.5


def test_scores_are_a_mean_over_the_experts_that_know_the_class(digits):
    tasks, x_ND, _ = digits
    ensemble = seed(2)
    for task in tasks[:2]:
        ensemble.partial_fit(*task)
    score_NC, labels = ensemble.scores(x_ND[:4])
    assert labels == [0, 1, 2, 3]
    shares = []
    for expert, known in enumerate(ensemble.known):
        z_ND = ensemble.encoders[expert](x_ND[:4]).detach().numpy()
        logs = [multivariate_normal(g.mean_D.numpy(), g.cov_DD.numpy()).logpdf(z_ND) for g in known.values()]
        shares.append(torch.softmax(torch.tensor(np.stack(logs, 1)) / 3, 1))
    expected = torch.cat([shares[0][:, :2], (shares[0][:, 2:] + shares[1]) / 2], dim=1)
    torch.testing.assert_close(score_NC, expected, atol=1e-6, rtol=1e-6)


def test_selective_experts_are_saved(digits, tmp_path):
    tasks, x_ND, _ = digits
    ensemble = seed(2)
    for task in tasks[:3]:
        ensemble.partial_fit(*task)
    ensemble.save(tmp_path / "saved")
    again = seed(2).load(tmp_path / "saved")
    assert again.tasks == 3
    assert torch.equal(again.scores(x_ND)[0], ensemble.scores(x_ND)[0])
    with pytest.raises(RosterError, match="other encoders"):
        SelectiveExperts(nn.Linear(64, 4), 2).load(tmp_path / "saved")
    with pytest.raises(RosterError, match="more than 1"):
        seed(1).load(tmp_path / "saved")


def test_refused_tasks(digits):
    tasks = digits[0]
    ensemble = seed(1)
    with pytest.raises(RosterError, match="no task yet"):
        ensemble.predict(tasks[0][0])
    ensemble.partial_fit(*tasks[0])
    with pytest.raises(RosterError, match="learnt before"):
        ensemble.partial_fit(*tasks[0])
    with pytest.raises(RosterError, match="at least two classes"):
        ensemble.partial_fit(tasks[1][0], torch.full((len(tasks[1][0]),), 7))
