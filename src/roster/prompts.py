"""Prompts: a text or a chat, and the one way in which both become tokens.

Wherever roster reads a prompt (the command line, data files, the examples on cards, Python) it is a text or a list of
messages. Where the tokenizer has a chat template, prompts are rendered with it: a text is what a user says first, and
the model is about to answer. Without one, or with `template=False`, a text is read as it stands, and messages are
refused. What happens to the tokens afterwards is not this module's business.

Shape legend: B prompts, S tokens of the longest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from typing_extensions import TypedDict

from roster.errors import RosterError

if TYPE_CHECKING:
    from torch import Tensor

RAW = "raw"
"""What stands for "no chat template" where a template is named by its digest."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Rendering:
    """How prompts become tokens of one tokenizer.

    Attributes:
        tokenizer: of the base.
        template: False reads texts as they stand, whatever template the tokenizer has.
    """

    tokenizer: Any
    template: bool = True

    @classmethod
    def of(cls, tokenizer: Any) -> Rendering:
        """A tokenizer's rendering with its template; a `Rendering` is left as it is."""
        return tokenizer if isinstance(tokenizer, Rendering) else cls(tokenizer)

    @cached_property
    def templated(self) -> bool:
        """Whether prompts go through a chat template."""
        return self.template and bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def digest(self) -> str:
        """Names the template: the start of its SHA-256, or `RAW`."""
        if not self.templated:
            return RAW
        return hashlib.sha256(self.tokenizer.get_chat_template().encode()).hexdigest()[:16]

    def text(self, prompt: Prompt) -> str:
        """What the model reads, as text.

        Raises:
            RosterError: nothing is asked, a text that is rendered already, messages without a template, or messages
                that the template refuses.
        """
        if isinstance(prompt, str):
            return self._rendered([{"role": "user", "content": self._unrendered(prompt)}]) if self.templated else prompt
        if not self.templated:
            why = "the tokenizer has no chat template" if self.template else "it is left out (--no-template)"
            raise RosterError(f"a prompt is a list of messages, which only a chat template can render: {why}")
        if not prompt or prompt[-1].get("role") == "assistant":
            raise RosterError("a chat must end with a turn that is to be answered, not with the assistant's")
        return self._rendered(prompt)

    def ids(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens; a template brings its own special tokens, a raw text gets the tokenizer's."""
        text = self.text(prompt)
        found = self.tokenizer(text, add_special_tokens=False) if self.templated else self.tokenizer(text)
        return list(found["input_ids"])

    def inputs(self, prompts: Sequence[Prompt], side: str = "left") -> dict[str, Tensor]:
        """input_ids and attention_mask [B, S] of several prompts, padded on one side."""
        return padded([self.ids(prompt) for prompt in prompts], self.pad_token_id, side)

    def pair(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of a prompt and of the answer wanted, with what ends it: the template's end of a turn.

        Raises:
            RosterError: also when the tokenizer has no end-of-sequence token.
        """
        if self.tokenizer.eos_token_id is None:
            raise RosterError("the tokenizer has no end-of-sequence token, so answers could not be seen to end")
        told = self._turn(prompt, answer) if self.templated else answer
        ids = list(self.tokenizer(told, add_special_tokens=False)["input_ids"])
        end = self.tokenizer.eos_token_id
        return self.ids(prompt), ids if self.templated and ids[-1:] == [end] else [*ids, end]

    @property
    def pad_token_id(self) -> int:
        """What fills up rows; masked, so that any token serves."""
        ids = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        return next((each for each in ids if each is not None), 0)

    def _rendered(self, messages: Sequence[Message], answering: bool = True) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=answering, continue_final_message=False
                )
            )
        except TemplateError as error:
            raise RosterError(f"the chat template refuses the messages: {error}") from None

    def _turn(self, prompt: Prompt, answer: str) -> str:
        """The answer as the template writes the assistant's turn, up to the end of it."""
        asked: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        whole = self._rendered([*asked, {"role": "assistant", "content": answer}], answering=False)
        before = self.text(prompt)
        # Some templates open an answer with what a finished turn does not keep (an empty thought).
        return whole[len(before) :].rstrip() if whole.startswith(before) else answer

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """The special tokens that the template itself writes around a text."""
        around = self._rendered([{"role": "user", "content": "."}])
        return tuple(each for each in self.tokenizer.all_special_tokens if each and each in around)

    def _unrendered(self, text: str) -> str:
        mark = next((each for each in self._marks if each in text), None)
        if mark is not None:
            raise RosterError(
                f"the prompt holds {mark!r}, which the chat template writes itself: give the text alone or messages, "
                "or leave the template out (--no-template, template=False)"
            )
        return text


def words(prompt: Prompt) -> str:
    """What a prompt says, without roles."""
    return prompt if isinstance(prompt, str) else " ".join(turn["content"] for turn in prompt)


def padded(rows: Sequence[Sequence[int]], pad: int, side: str = "left") -> dict[str, Tensor]:
    """input_ids and attention_mask [B, S] of rows of tokens.

    Args:
        rows: token ids.
        pad: what fills the shorter ones up.
        side: where: "left" or "right".
    """
    import torch

    S = max(len(row) for row in rows)
    ids_BS = torch.full((len(rows), S), pad)
    mask_BS = torch.zeros(len(rows), S, dtype=torch.long)
    for row, ids in enumerate(rows):
        where = slice(S - len(ids), S) if side == "left" else slice(0, len(ids))
        ids_BS[row, where], mask_BS[row, where] = torch.tensor(ids, dtype=torch.long), 1
    return {"input_ids": ids_BS, "attention_mask": mask_BS}
