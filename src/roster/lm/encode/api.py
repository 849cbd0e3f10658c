"""Vectors from any server with OpenAI's `/v1/embeddings`: a provider's, or vLLM, Ollama, llama.cpp on the same machine.

Prompts go out in batches, each row is kept on disk as soon as it has been paid for (`remembered`), and the `openai`
client repeats what failed for a moment, heeding `Retry-After`. The key is read from the environment and never stored.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode.base import Encoder, normalised
from roster.lm.encode.remembered import Remembered


class EmbeddingAPI(Encoder):
    """A model behind an address.

    Args:
        model: as the server calls it.
        url: ends in /v1, as a rule.
        key_variable: the environment variable that holds the key; a server without keys takes any.
        dimensions: asked of models that can shorten their vectors; None for all they have.
        batch: prompts per request.
        most_characters: of a prompt; what is longer is cut, because servers refuse what their model cannot read.
        retries: of a request that failed for a moment (429, 5xx, no connection), with growing pauses.
        timeout: seconds, of one request.
    """

    def __init__(
        self,
        model: str,
        url: str = "https://api.openai.com/v1",
        key_variable: str = "OPENAI_API_KEY",
        dimensions: int | None = None,
        batch: int = 128,
        most_characters: int = 20_000,
        retries: int = 5,
        timeout: float = 60.0,
    ):
        self.model, self.url, self.key_variable, self.dimensions = model, url, key_variable, dimensions
        self.batch, self.most_characters, self.retries, self.timeout = batch, most_characters, retries, timeout
        self._client: Any = None

    def fit(self, prompts: Sequence[str]) -> EmbeddingAPI:
        """Embeds the first prompt, so that a wrong address, key or model is noticed before any work."""
        self.encode(list(prompts)[:1])
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, D].

        Raises:
            RosterError: the server refuses, does not answer, or gives something else than one vector per prompt.
        """
        if not len(prompts):
            raise RosterError(f"the encoder {self.model!r} was given no prompts")
        # A space stands for nothing at all, which servers refuse.
        texts = [prompt[: self.most_characters] or " " for prompt in prompts]
        kept = Remembered(f"openai {self.url} {self.model} {self.dimensions or ''}")
        rows = kept.find(texts)
        new = list(dict.fromkeys(text for text in texts if text not in rows))
        for start in range(0, len(new), self.batch):
            part = new[start : start + self.batch]
            found = dict(zip(part, normalised(self._ask(part)), strict=True))
            kept.keep(found)
            rows |= found
        return np.stack([rows[text] for text in texts])

    def _ask(self, texts: list[str]) -> NDArray[np.float64]:
        import openai

        more = {} if self.dimensions is None else {"dimensions": self.dimensions}
        try:
            answer = self._connected().embeddings.create(model=self.model, input=texts, **more)
            data = sorted(answer.data, key=lambda each: int(each.index))
            x_ND = np.array([each.embedding for each in data], dtype=float)
        except openai.OpenAIError as error:
            raise RosterError(f"the encoder {self.model!r} at {self.url}: {error}; {self._advice(error)}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise RosterError(f"the encoder {self.model!r} at {self.url} gave no vectors: {error}") from None
        if x_ND.ndim != 2 or len(x_ND) != len(texts) or not np.isfinite(x_ND).all():
            raise RosterError(
                f"the encoder {self.model!r} at {self.url} gave {len(x_ND)} vectors for {len(texts)} texts"
            )
        return x_ND

    def _advice(self, error: Exception) -> str:
        import openai

        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"is the key in {self.key_variable} right?"
        if isinstance(error, openai.NotFoundError):
            return "does the server have this model, and does the address end in /v1?"
        if isinstance(error, openai.APIConnectionError):
            return "is the server running at this address?"
        return "what was embedded before is kept; call again to go on"

    def _connected(self) -> Any:
        if self._client is None:
            try:
                import openai
            except ImportError:
                raise RosterError(
                    f"the encoder {self.model!r} at {self.url} needs an extra: pip install 'roster-moe[embeddings]'"
                ) from None
            key = os.environ.get(self.key_variable) or "none"
            self._client = openai.OpenAI(api_key=key, base_url=self.url, max_retries=self.retries, timeout=self.timeout)
        return self._client
