"""MoWE's own claim: word experts remember more facts than a dense block or a learned top-1 mixture of equal cost; and a
word's facts lie in its expert.

Toy: 400 words times 4 relations, each pair with one of 32 answers drawn at random. A word and a relation are embedded
(8 numbers, trained), one block reads their sum, and a linear head answers. All three blocks use 32 hidden units per
question; both mixtures have a dense part and the same 25 experts.

Shape legend: T questions, D width, V words, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.balance import LoadBalancing
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.dense import Dense, Sum
from roster.moe.layer import MoE
from roster.router import Router
from roster.score import Linear, TokenTable
from roster.score.token_id import even_buckets
from roster.select import TopK

WORDS, RELATIONS, ANSWERS, WIDTH, HIDDEN, EXPERTS, STEPS = 400, 4, 32, 8, 32, 25, 2000


class Recall(nn.Module):
    """Answers questions by one block."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.word, self.relation = nn.Embedding(WORDS, WIDTH), nn.Embedding(RELATIONS, WIDTH)
        self.block, self.norm, self.head = block, nn.RMSNorm(WIDTH), nn.Linear(WIDTH, ANSWERS)

    def forward(self, word_T: Tensor, relation_T: Tensor, context: Context) -> Tensor:
        """Logits [T, answers]."""
        x_1TD = (self.word(word_T) + self.relation(relation_T))[None]
        return self.head(self.norm(x_1TD + self.block(x_1TD, context))[0])


def check(seed: int) -> dict[str, float]:
    """Shares of facts answered, and what taking one expert away does to its own words and to the others."""
    torch.manual_seed(seed)
    answer_VN = torch.randint(0, ANSWERS, (WORDS, RELATIONS))
    table = TokenTable(even_buckets([1] * WORDS, EXPERTS, seed), EXPERTS)
    blocks = {
        "dense": lambda: Dense(SwiGLU(1, WIDTH, HIDDEN)),
        "top-1": lambda: _mixture(Router(Linear(WIDTH, EXPERTS), TopK(1, "all"), [LoadBalancing(0.01)])),
        "MoWE": lambda: _mixture(Router(table, TopK(1))),
    }
    figures, model = {}, None
    for name, make in blocks.items():
        torch.manual_seed(seed)
        model = Recall(make())
        figures[name] = float(_train(model, answer_VN).float().mean())
    before_VN = _right(model, answer_VN)
    with torch.no_grad():
        for weights in model.block.blocks[1].experts.parameters():
            weights[0] = 0.0
    after_VN, own_V = _right(model, answer_VN), table.expert_V == 0
    figures["its expert taken away: own words, before"] = float(before_VN[own_V].float().mean())
    figures["its expert taken away: own words, after"] = float(after_VN[own_V].float().mean())
    figures["its expert taken away: other words changed"] = float((before_VN != after_VN)[~own_V].float().mean())
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed MoWE answers most, and taking an expert away at least halves its own words' facts and changes no
    other's."""
    return all(
        each["MoWE"] > max(each["dense"], each["top-1"])
        and each["its expert taken away: own words, after"] < each["its expert taken away: own words, before"] / 2
        and each["its expert taken away: other words changed"] == 0.0
        for each in figures
    )


def _mixture(router: Router) -> nn.Module:
    return Sum(Dense(SwiGLU(1, WIDTH, HIDDEN * 3 // 4)), MoE(router, SwiGLU(EXPERTS, WIDTH, HIDDEN // 4)))


def _train(model: Recall, answer_VN: Tensor) -> Tensor:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(STEPS):
        word_T, relation_T = torch.randint(0, WORDS, (256,)), torch.randint(0, RELATIONS, (256,))
        context = Context(1, 256, input_ids_BS=word_T[None])
        loss = F.cross_entropy(model(word_T, relation_T, context), answer_VN[word_T, relation_T])
        loss = loss + sum(context.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return _right(model, answer_VN)


@torch.no_grad()
def _right(model: Recall, answer_VN: Tensor) -> Tensor:
    """Which facts the model knows, bool [V, relations]."""
    word_T = torch.arange(WORDS).repeat_interleave(RELATIONS)
    relation_T = torch.arange(RELATIONS).repeat(WORDS)
    logits = model(word_T, relation_T, Context(1, len(word_T), input_ids_BS=word_T[None]))
    return logits.argmax(1).view(WORDS, RELATIONS) == answer_VN
