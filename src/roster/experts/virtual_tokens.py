"""Virtual tokens: learnt vectors that stand before a row's own embeddings, as soft prompts do (Lester et al., 2021,
arXiv:2104.08691).

Such an expert cannot be weighed: a row has it as a whole, or not at all. Rows of one batch may have different ones, of
different lengths, and none; each row's stand directly before its first real token, wherever its padding is.

Shape legend: B batch rows, S tokens of a call, L = S and the virtual tokens of the row that has most, E experts, N
virtual tokens of all experts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError

IGNORED = -100


class VirtualTokens(nn.Module):
    """The soft prompts among the experts.

    Args:
        prompts: of each expert, [its virtual tokens, D]; None for experts of another kind.

    Attributes:
        most: virtual tokens of the longest.
    """

    vectors_ND: Tensor
    first_E: Tensor
    count_E: Tensor

    def __init__(self, prompts: Sequence[Tensor | None]):
        super().__init__()
        counts = [0 if each is None else len(each) for each in prompts]
        self.most = max(counts)
        count_E = torch.tensor(counts)
        found = [each.detach() for each in prompts if each is not None]
        widest = torch.float32 if len({each.dtype for each in found}) > 1 else found[0].dtype
        # The experts' own files hold them: a mixture's folder does not hold them twice.
        self.register_buffer("vectors_ND", torch.cat([each.to(widest) for each in found]), persistent=False)
        self.register_buffer("first_E", count_E.cumsum(0) - count_E, persistent=False)
        self.register_buffer("count_E", count_E, persistent=False)

    def put_before(self, inputs: dict[str, Any], embed: nn.Module, gates_BE: Tensor) -> int:
        """Puts the virtual tokens of every row into a call's inputs, in place.

        Args:
            inputs: input_ids or inputs_embeds, and, where there are any, attention_mask, labels, prompt_mask and places
                in logits_to_keep; the ids give way to embeddings.
            embed: the base's embeddings.
            gates_BE: who serves each row; a soft prompt with any weight is there as a whole.

        Returns:
            By how much the rows are longer now; 0 where no row has virtual tokens, and nothing was changed.

        Raises:
            RosterError: a row with two soft prompts, or an attention mask that does not tell tokens from padding.
        """
        soft_BE = (gates_BE != 0) & (self.count_E > 0)
        if soft_BE.device.type == "cpu" and bool((soft_BE.sum(1) > 1).any()):
            raise RosterError("a row can have one soft prompt, and these gates give it several")
        expert_B = soft_BE.int().argmax(1)
        count_B = torch.where(soft_BE.any(1), self.count_E[expert_B], 0)
        # On a device, finding out which is the longest would mean waiting for it.
        longer = int(count_B.max()) if count_B.device.type == "cpu" else self.most
        if longer == 0:
            return 0
        x_BSD = inputs.get("inputs_embeds")
        x_BSD = embed(inputs["input_ids"]) if x_BSD is None else x_BSD
        mask_BS = inputs.get("attention_mask")
        if mask_BS is None:
            mask_BS = torch.ones(x_BSD.shape[:2], dtype=torch.long, device=x_BSD.device)
        if not isinstance(mask_BS, Tensor) or mask_BS.shape != x_BSD.shape[:2]:
            raise RosterError("soft prompts need an attention mask of [batch, tokens], or none")
        begin_B1 = longer + mask_BS.int().argmax(1, keepdim=True)
        column_L = torch.arange(longer + x_BSD.shape[1], device=x_BSD.device)
        place_BL = column_L - (begin_B1 - count_B[:, None])
        virtual_BL = (place_BL >= 0) & (column_L < begin_B1)
        vector_BL = (self.first_E[expert_B][:, None] + place_BL).clamp(0, len(self.vectors_ND) - 1)
        x_BLD = F.pad(x_BSD, (0, 0, longer, 0))
        x_BLD = torch.where(virtual_BL[..., None], self.vectors_ND[vector_BL].to(x_BLD), x_BLD)
        inputs.pop("input_ids", None)
        inputs["inputs_embeds"] = x_BLD
        inputs["attention_mask"] = F.pad(mask_BS.long(), (longer, 0)).masked_fill(virtual_BL, 1)
        if inputs.get("labels") is not None:
            labels_BL = F.pad(inputs["labels"], (longer, 0), value=IGNORED)
            # A first token counts behind virtual tokens; a row that has none is to count as it does without company.
            alone_B1 = (count_B[:, None] == 0) & (begin_B1 == longer)
            inputs["labels"] = labels_BL.masked_fill(alone_B1 & (column_L == longer), IGNORED)
        if inputs.get("prompt_mask") is not None:
            inputs["prompt_mask"] = F.pad(inputs["prompt_mask"].bool(), (longer, 0), value=True)
        if isinstance(kept := inputs.get("logits_to_keep"), Tensor):
            inputs["logits_to_keep"] = kept + longer
        return longer


def positions(mask_BL: Tensor) -> Tensor:
    """The position of each token among the real ones of its row, [B, L]."""
    return (mask_BL.cumsum(1) - 1).clamp_min(0)


def own_tokens(output: Any, length: int) -> Any:
    """A model's output without what it says behind virtual tokens: logits and hidden states of the last S places."""
    for name in ("logits", "last_hidden_state"):
        if isinstance(value := output.get(name), Tensor):
            output[name] = value[:, -length:]
    if isinstance(states := output.get("hidden_states"), tuple):
        output["hidden_states"] = tuple(each[:, -length:] for each in states)
    return output
