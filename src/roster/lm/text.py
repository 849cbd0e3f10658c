"""Which text of a request a decision sees: one rule for logs, reports, tuned policies and the gateway.

    last-user      the last message of the role "user" that has text (the default)
    all-user       all messages of that role, one below the other
    conversation   everything: the system prompt, earlier turns, answers and what tools returned

Where no message of a user has text, all three are the whole conversation. Of a message in parts, the texts count, one
below the other; pictures and sounds do not. A request without messages (a completion) is its prompt under every rule.

A router is asked about what it was trained on, so the rule is part of the records and of the policy's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from roster.errors import RosterError, nearest

TextRule = Literal["last-user", "all-user", "conversation"]
RULES: tuple[TextRule, ...] = get_args(TextRule)
DEFAULT: TextRule = "last-user"

Content = str | Sequence[Mapping[str, Any]] | None
"""Of a message: a text, or parts of which some have a text."""


def text_rule(name: str) -> TextRule:
    """The rule of that name; RosterError when there is none."""
    for rule in RULES:
        if rule == name:
            return rule
    raise RosterError(f"unknown text {name!r}: {nearest(name, RULES)}")


def request_text(messages: Iterable[tuple[str, Content]], rule: TextRule = DEFAULT) -> str:
    """What a decision about a chat sees.

    Args:
        messages: (role, content) of each, the oldest first.
        rule: see the file's head.
    """
    said = [(role, content_text(content)) for role, content in messages]
    users = [text for role, text in said if role == "user" and text]
    if rule == "last-user":
        users = users[-1:]
    if rule == "conversation" or not users:
        return readable("\n".join(text for _, text in said))
    return readable("\n".join(users))


@dataclass(frozen=True)
class Said:
    """A request as text.

    Attributes:
        messages: (role, content) of each; of a request that is no chat, one of the role "user".
    """

    messages: tuple[tuple[str, Content], ...]

    @classmethod
    def plain(cls, prompt: str) -> Said:
        """A request that is no chat."""
        return cls((("user", prompt),))

    def under(self, rule: TextRule) -> str:
        """What a decision sees of it."""
        return request_text(self.messages, rule)

    @property
    def whole(self) -> str:
        """What the models read of it."""
        return self.under("conversation")


def content_text(content: Content) -> str:
    """What a model reads of a message, without pictures and sounds."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = (part.get("text") for part in content)
    return "\n".join(text for text in texts if isinstance(text, str))


def readable(text: str) -> str:
    """A text without lone surrogates, which JSON can say and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
