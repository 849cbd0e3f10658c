"""The judge: the part of a routed model that knows the adapters and decides on prompts. Nothing in it trains.

Adapters that cannot be told apart (the same examples, or examples that are taken for one another) are one class, for
which one of them stands.

Shape legend: B batch rows, S tokens, N examples, F features, C classes of adapters, M = C + 1 with nobody's, E experts,
K = 2 on duty, H header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.auto.calibration import NEVER
from roster.auto.choosing import Tried
from roster.auto.classes import placed
from roster.auto.features import POOLINGS, features_of, turn_of
from roster.auto.nearest import FROM_CLASSES, Nearest
from roster.context import Context
from roster.prompts import Prompt, Rendering
from roster.routed.settling import Settling

ON_DUTY = 2
_POOLINGS = tuple(POOLINGS)


@dataclass(frozen=True)
class Knowledge:
    """What a judge knows, as it is saved.

    Attributes:
        header_H: tokens in front of what a user says.
        place_2: the block, counted from 1, and the index of the pooling.
        center_F, whiten_FF, means_FM: see `roster.auto.classes`; of plain means, whiten_FF is a single 1; the
            last mean is nobody's. Means are columns: so one prompt among thousands is decided in a third of the time.
        expert_C: who stands for each class.
        class_E: of each expert.
        example_NF: features of the examples, in half precision.
        expert_N, index_N: whose example each is, and its number on the card.
        general_GF: features of the general prompts that abstention was calibrated on.
        limits_4: temperature, threshold, floor and margin, see `roster.auto.calibration`.
    """

    header_H: Tensor
    place_2: Tensor
    center_F: Tensor
    whiten_FF: Tensor
    means_FM: Tensor
    expert_C: Tensor
    class_E: Tensor
    example_NF: Tensor
    expert_N: Tensor
    index_N: Tensor
    general_GF: Tensor
    limits_4: Tensor

    @property
    def whitens(self) -> Tensor | None:
        """What centred features are multiplied by; None for plain means."""
        return self.whiten_FF if len(self.whiten_FF) == len(self.center_F) else None

    @property
    def class_N(self) -> Tensor:
        """The class of each example."""
        return self.class_E[self.expert_N]


class Judge(Settling):
    """Decides by the nearest class mean, or leaves a prompt to the base.

    Args:
        num_experts: E. What the judge knows comes from `learn`, or from a file.

    Attributes:
        tried: the candidates that were compared when it learned; not kept in files.
        blocks: behind which block hidden states are read, counted from 1.
        pooling: how a turn's hidden states become one vector; see `roster.auto.features`.
        mixes: whether the second best adapter may serve along.
    """

    header_H: Tensor
    place_2: Tensor
    center_F: Tensor
    whiten_FF: Tensor
    means_FM: Tensor
    expert_C: Tensor
    limits_4: Tensor
    blocks: tuple[int, ...]
    pooling: str
    mixes: bool

    sized_by_file: ClassVar[frozenset[str]] = frozenset(Knowledge.__dataclass_fields__)
    """Buffers whose shapes a folder knows, and nothing before it."""

    def __init__(self, num_experts: int):
        super().__init__()
        self.tried: list[Tried] = []
        self.num_experts = num_experts
        none, index = torch.zeros(0), torch.zeros(0, dtype=torch.long)
        states = none.view(0, 0).half()
        self.learn(
            Knowledge(
                index, torch.ones(2, dtype=torch.long), none, none.view(0, 0), none.view(0, 0), index,
                torch.zeros(num_experts, dtype=torch.long), states, index, index, states, torch.ones(4),
            )
        )  # fmt: skip

    def learn(self, knowledge: Knowledge) -> None:
        """Takes over what was found out."""
        for name, tensor in vars(knowledge).items():
            self.register_buffer(name, tensor)
        self.settle()

    def settle(self) -> None:
        """Looks up once what every prompt asks for: reading a number off a device would mean waiting for it."""
        block, pooling = self.place_2.tolist()
        self.blocks, self.pooling = (block,), _POOLINGS[pooling]
        self.mixes = float(self.limits_4[3]) < NEVER
        self._nearest: tuple[int, Nearest] | None = None

    @property
    def knowledge(self) -> Knowledge:
        """What it knows now."""
        return Knowledge(**{name: self.get_buffer(name) for name in Knowledge.__dataclass_fields__})

    def features(self, hidden: Mapping[int, Tensor], context: Context) -> Tensor:
        """[B, F] from the hidden states [B, S, D] of a call whose prompts are to be decided on."""
        (block,) = self.blocks
        prompt_BS = context.prompt_mask(hidden[block].device)
        turn_BS = turn_of(context.input_ids_BS, prompt_BS, self.header_H)
        features_BF = POOLINGS[self.pooling](hidden[block], turn_BS)
        return features_BF.to(self.center_F.device)

    def read(self, model: Any, rendering: Rendering, prompts: Sequence[Prompt]) -> Tensor:
        """[N, F] of prompts, in half precision.

        Args:
            model: the base, with nothing attached.
            rendering: how prompts become tokens.
            prompts: N of them.
        """
        (block,) = self.blocks
        return features_of(model, rendering, self.header_H, prompts, [(block, self.pooling)])[:, 0]

    def scores(self, features_BF: Tensor) -> Tensor:
        """The cosine to every class, [B, M]; the last is nobody's."""
        return self._placed(features_BF) @ self.means_FM

    def forward(self, features_BF: Tensor) -> Tensor:
        """The decision [B, 2, K]: experts, and their weights; zeros leave a row to the base."""
        # Weights of two that serve along depend on every class's score; the best one's does not.
        if self.mixes or self.means_FM.device.type != "cpu" or self.means_FM.shape[1] < FROM_CLASSES:
            return self.decide(self.scores(features_BF))
        z_BF, nearest = self._placed(features_BF), self._search()
        best_BK, class_BK = nearest.best(z_BF, ON_DUTY)
        return self._decision(best_BK, class_BK, nearest.last(z_BF), F.one_hot(class_BK.new_zeros(len(z_BF)), ON_DUTY))

    def decide(self, scores_BM: Tensor) -> Tensor:
        """The decision [B, 2, K] for scores."""
        temperature, margin = self.limits_4[0], self.limits_4[3]
        best_BK, class_BK = scores_BM[:, :-1].topk(min(ON_DUTY, scores_BM.shape[1] - 1), dim=1)
        chance_BK = (scores_BM / temperature).softmax(1).gather(1, class_BK)
        shared_BK = chance_BK * torch.cat([torch.ones_like(chance_BK[:, :1]), (chance_BK[:, 1:] >= margin).float()], 1)
        weight_BK = shared_BK / shared_BK.sum(1, keepdim=True).clamp_min(1e-12)
        return self._decision(best_BK, class_BK, scores_BM[:, -1], weight_BK)

    def _decision(self, best_BK: Tensor, class_BK: Tensor, nobody_B: Tensor, weight_BK: Tensor) -> Tensor:
        """The weights of those who serve, where they are believed."""
        threshold, floor = self.limits_4[1], self.limits_4[2]
        believed_B = (best_BK[:, 0] - nobody_B >= threshold) & (best_BK[:, 0] >= floor)
        weight_BK = weight_BK * believed_B[:, None]
        # Where nobody serves it is always the same nobody: decisions are compared from turn to turn.
        expert_BK = self.expert_C[class_BK].masked_fill(weight_BK == 0, 0)
        decision_B2K = torch.stack([expert_BK.float(), weight_BK.float()], dim=1)
        return F.pad(decision_B2K, (0, ON_DUTY - class_BK.shape[1]))

    def _placed(self, features_BF: Tensor) -> Tensor:
        whitens = self.whiten_FF if len(self.whiten_FF) == len(self.center_F) else None
        return placed(features_BF, self.center_F, whitens)

    def _search(self) -> Nearest:
        """The means as the search among many wants them; made when they are first asked for."""
        where = self.means_FM.data_ptr()
        if self._nearest is None or self._nearest[0] != where:
            self._nearest = where, Nearest.of(self.means_FM)
        return self._nearest[1]
