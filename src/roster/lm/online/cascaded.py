"""Cascaded controller: how agents work together, in which roles, and which model plays each, decided one by one.

    p(F | x) = p(mode | x) prod_s p(role_s | x, mode, seats before) p(model_s | x, mode, seats before, role_s)

A mode (alone, chain, debate, ...) has a fixed number of seats s. Every choice is a softmax over the inner products of
the state with a learned vector per option, and the state takes up the vectors of what was chosen so far. Training is
policy gradient (REINFORCE) on utility - price * cost of configurations drawn from the controller, with the mean gain of
the other draws for the same prompt as the baseline, and an entropy bonus that falls to zero.

Source: Yue, Zhang, Liu, Wan, Wang, Cheng, Qi, 2025, arXiv:2502.11133.
Shape legend: N prompts, D width of their vectors, H width of the state, S draws per prompt, B = N S draws in a batch,
M modes, R roles, L models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from roster.errors import RosterError
from roster.lm.encode import Encoder, TfIdf


@dataclass(frozen=True)
class Configuration:
    """Who does what for one prompt.

    Attributes:
        mode: how the agents work together.
        roles, models: one of each per seat.
    """

    mode: str
    roles: tuple[str, ...]
    models: tuple[str, ...]


Play = Callable[[int, Configuration], tuple[float, float]]
"""What a configuration gains on a training prompt (its position): (utility, cost)."""


class Cascaded(nn.Module):
    """The controller, untrained.

    Args:
        modes: number of seats of each mode, at least 1.
        roles, models: names.
        encoder: of prompts.
        width: H.
        seed: of the weights.

    Raises:
        RosterError: no mode, role or model, or a mode without seats.
    """

    seats_M: Tensor

    def __init__(
        self,
        modes: Mapping[str, int],
        roles: Sequence[str],
        models: Sequence[str],
        encoder: Encoder | None = None,
        width: int = 32,
        seed: int = 0,
    ):
        super().__init__()
        if not (modes and roles and models) or min(modes.values()) < 1:
            raise RosterError("a cascaded controller needs roles, models, and modes with at least one seat each")
        self.modes, self.roles, self.models = tuple(modes), tuple(roles), tuple(models)
        self.register_buffer("seats_M", torch.tensor(list(modes.values())), persistent=False)
        self.encoder = encoder or TfIdf()
        self.width, self.seed = width, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reads: nn.Linear = nn.LazyLinear(width)
            self.mode_MH, self.role_RH, self.model_LH = (
                nn.Parameter(torch.randn(len(each), width) * width**-0.5)
                for each in (self.modes, self.roles, self.models)
            )
            self.steps = nn.ModuleDict({name: nn.Linear(width, width) for name in ("mode", "role", "model")})

    def fit(
        self,
        prompts: Sequence[str],
        play: Play,
        price: float = 0.0,
        epochs: int = 30,
        draws: int = 4,
        rows: int = 64,
        learning_rate: float = 0.003,
        entropy: float = 0.05,
    ) -> Cascaded:
        """Trains on the prompts; returns itself.

        Args:
            prompts: to learn from.
            play: see `Play`; called `epochs * draws` times per prompt.
            price: utility that one unit of cost is worth.
            epochs: passes over the prompts.
            draws: S, configurations tried per prompt and pass, at least 2.
            rows: prompts per step.
            learning_rate: of Adam.
            entropy: weight of the entropy bonus at the start.
        """
        if draws < 2 or not prompts:
            raise RosterError(f"policy gradient needs prompts and two draws of each, not {len(prompts)} and {draws}")
        x_ND = self._vectors(self.encoder.fit(prompts), prompts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.reads(x_ND[:1])  # fixes its width
            optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
            for epoch in range(epochs):
                bonus = entropy * (1 - epoch / epochs)
                for at in torch.randperm(len(prompts)).split(rows):
                    self._step(at, x_ND[at], play, price, draws, bonus, optimizer)
        return self

    def _step(
        self,
        at: Tensor,
        x_ND: Tensor,
        play: Play,
        price: float,
        draws: int,
        entropy: float,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        chosen, log_B, entropy_B = self._decide(x_ND.repeat_interleave(draws, 0), greedy=False)
        at_B = at.repeat_interleave(draws).tolist()
        outcome_B2 = np.array([play(n, configuration) for n, configuration in zip(at_B, chosen, strict=True)])
        gain_NS = torch.tensor(outcome_B2[:, 0] - price * outcome_B2[:, 1], dtype=torch.float32).view(-1, draws)
        others_NS = (gain_NS.sum(1, keepdim=True) - gain_NS) / (draws - 1)
        loss = -((gain_NS - others_NS).view(-1) * log_B + entropy * entropy_B).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def choose(self, prompts: Sequence[str]) -> list[Configuration]:
        """The most probable choice at every step, for each prompt.

        Raises:
            RosterError: not fitted.
        """
        if isinstance(self.reads, nn.LazyLinear):  # becomes a plain layer once it has seen its width
            raise RosterError("a cascaded controller chooses only once it is trained: call `fit` first")
        return self._decide(self._vectors(self.encoder, prompts), greedy=True)[0]

    @staticmethod
    def _vectors(encoder: Encoder, prompts: Sequence[str]) -> Tensor:
        x_ND = torch.from_numpy(encoder.encode(prompts)).float()
        scaled_ND: Tensor = x_ND * x_ND.shape[1] ** 0.5  # encoders give length one; a layer reads entries of size one
        return scaled_ND

    def _decide(self, x_BD: Tensor, greedy: bool) -> tuple[list[Configuration], Tensor, Tensor]:
        """(configurations, their log-probabilities [B], entropies of the choices [B])."""
        state_BH = torch.tanh(self.reads(x_BD))
        mode_B, log_B, entropy_B = self._pick(state_BH, "mode", self.mode_MH, greedy)
        state_BH = state_BH + self.mode_MH[mode_B]
        seats_B = self.seats_M[mode_B]
        taken: list[NDArray[Any]] = []
        for seat in range(int(seats_B.max())):
            # Rows whose mode has fewer seats decide along, and what they decide counts nothing.
            on_B = (seat < seats_B).float()
            for name, options in (("role", self.role_RH), ("model", self.model_LH)):
                pick_B, more_B, spread_B = self._pick(state_BH, name, options, greedy)
                log_B, entropy_B = log_B + on_B * more_B, entropy_B + on_B * spread_B
                state_BH = state_BH + options[pick_B]
                taken.append(pick_B.numpy())
        made = [
            Configuration(
                self.modes[mode],
                tuple(self.roles[taken[2 * seat][b]] for seat in range(seats)),
                tuple(self.models[taken[2 * seat + 1][b]] for seat in range(seats)),
            )
            for b, (mode, seats) in enumerate(zip(mode_B.tolist(), seats_B.tolist(), strict=True))
        ]
        return made, log_B, entropy_B

    def _pick(self, state_BH: Tensor, name: str, options_OH: Tensor, greedy: bool) -> tuple[Tensor, Tensor, Tensor]:
        log_BO = (self.steps[name](torch.tanh(state_BH)) @ options_OH.T).log_softmax(1)
        pick_B = log_BO.argmax(1) if greedy else torch.multinomial(log_BO.detach().exp(), 1)[:, 0]
        return pick_B, log_BO.gather(1, pick_B[:, None])[:, 0], -(log_BO.exp() * log_BO).sum(1)
