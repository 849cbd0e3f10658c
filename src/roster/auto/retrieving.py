"""Retrieving adapters for a prompt: by how much it resembles the mean of each task's example prompts.

What rival methods share. They differ in how many they take, in the weights that those get, and in whose examples count
as one task's.

Shape legend: B batch rows, N example prompts, D width, C tasks, E experts, K on duty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.adapters.mixing import Surroundings
from roster.auto.features import features_of, mean, turn_of
from roster.auto.turns import NO_TOKEN, header_of
from roster.context import Context
from roster.errors import RosterError
from roster.routed.one_block import OneBlock
from roster.routed.taps import blocks_of

DEPTH = 1 / 3
"""Of the base's blocks, behind which prompts are read where nobody names a block."""


class Retriever(OneBlock):
    """Decides by the nearest means of examples.

    Args:
        num_experts: E.
        top_k: tasks per prompt.
        temperature: of the softmax over the cosines of those that are chosen; None weighs all of them alike.
    """

    sized_by_file = frozenset({"mean_CD", "center_D", "expert_C", "header_H"})
    mean_CD: Tensor
    center_D: Tensor
    expert_C: Tensor
    header_H: Tensor

    def __init__(self, num_experts: int, top_k: int, temperature: float | None):
        super().__init__()
        self.top_k, self.temperature = min(top_k, num_experts), temperature
        self.register_buffer("mean_CD", torch.zeros(0, 0))
        self.register_buffer("center_D", torch.zeros(0))
        self.register_buffer("expert_C", torch.zeros(0, dtype=torch.long))
        self.register_buffer("header_H", torch.zeros(1, dtype=torch.long))

    def learn(
        self, features_ND: Tensor, task_N: Sequence[int], expert_C: Sequence[int], place: tuple[int, Tensor]
    ) -> None:
        """Takes over examples.

        Args:
            features_ND: of all example prompts.
            task_N: whose each is.
            expert_C: who serves each task.
            place: the block that was read, and the header of a user's turn (see `roster.auto.turns`).
        """
        unit_ND = F.normalize(features_ND.float(), dim=1)
        index_N = torch.tensor(task_N)
        mean_CD = torch.stack([unit_ND[index_N == task].mean(0) for task in range(len(expert_C))])
        center_D = mean_CD.mean(0)
        self.register_buffer("mean_CD", F.normalize(mean_CD - center_D, dim=1))
        self.register_buffer("center_D", center_D)
        self.register_buffer("expert_C", torch.tensor(expert_C))
        self.register_buffer("header_H", place[1])
        self.read_behind(place[0])

    def features(self, hidden: Mapping[int, Tensor], context: Context) -> Tensor:
        """The mean over the prompt's last turn, [B, D]."""
        (hidden_BSD,) = hidden.values()
        prompt_BS = context.prompt_mask(hidden_BSD.device)
        features_BD = mean(hidden_BSD, turn_of(context.input_ids_BS, prompt_BS, self.header_H))
        return features_BD.to(self.mean_CD.device)

    def forward(self, features_BD: Tensor) -> Tensor:
        """The decision [B, 2, K]."""
        z_BD = F.normalize(F.normalize(features_BD.float(), dim=1) - self.center_D, dim=1)
        top_BK, task_BK = (z_BD @ self.mean_CD.T).topk(min(self.top_k, len(self.mean_CD)), dim=1)
        if self.temperature is None:
            weight_BK = torch.full_like(top_BK, 1 / top_BK.shape[1])
        else:
            weight_BK = (top_BK / self.temperature).softmax(1)
        decision_B2K = torch.stack([self.expert_C[task_BK].float(), weight_BK], dim=1)
        return F.pad(decision_B2K, (0, self.top_k - top_BK.shape[1]))


def learn_from(
    part: Retriever, surroundings: Surroundings, tasks: Mapping[int, Sequence[int]], layer: int | None, slug: str
) -> None:
    """Has a retriever read the examples of some tasks.

    Args:
        part: the retriever.
        surroundings: of the mixture; every expert's card has examples.
        tasks: the expert that serves each task, and those whose examples are the task's.
        layer: the block, counted from 1; None is a third of the depth.
        slug: of the recipe, for messages.

    Raises:
        RosterError: no tokenizer, or no such block.
    """
    if surroundings.rendering is None:
        raise RosterError(f"{slug} reads the experts' example prompts and needs the base's tokenizer: pass tokenizer=")
    library, depth = surroundings.library, len(blocks_of(surroundings.model))
    block = max(1, round(DEPTH * depth)) if layer is None else layer
    if not 1 <= block <= depth:
        raise RosterError(f"{slug}: the base has {depth} blocks, counted from 1; there is no layer {layer}")
    header_H = torch.tensor(header_of(surroundings.rendering) or [NO_TOKEN], dtype=torch.long)
    owned = [
        (task, prompt)
        for task, experts in enumerate(tasks.values())
        for expert in experts
        for prompt in library[library.names[expert]].card.examples
    ]
    prompts = [prompt for _, prompt in owned]
    features_NPD = features_of(surroundings.model, surroundings.rendering, header_H, prompts, [(block, "mean")])
    part.learn(features_NPD[:, 0], [task for task, _ in owned], list(tasks), (block, header_H))
