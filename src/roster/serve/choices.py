"""What a request gets: one answer, or `n` of them, as one object of OpenAI's or as a stream whose chunks say which.

Every answer is a job of its own (`roster.serve.answers`): they are at work in one batch and end when they end.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from roster.gateway.errors import ApiError
from roster.gateway.sse import DONE, KEEP_ALIVE, event
from roster.serve.answers import Answer, Server
from roster.serve.jobs import Finish
from roster.serve.mixture import Asked

KEEP_ALIVE_SECONDS = 15.0
"""Of silence in a stream, after which a comment tells the client that it goes on."""


class Choices:
    """All answers to a request; whoever has them closes them.

    Args:
        server: what requests share.
        asked: the request.

    Raises:
        ApiError: as many requests wait as may.
    """

    def __init__(self, server: Server, asked: Asked) -> None:
        self._server, self._asked = server, asked
        self.id = f"{'chatcmpl' if asked.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._answers: list[Answer] = []
        try:
            for index in range(asked.count):
                self._answers.append(Answer(server, _nth(asked, index)))
        except ApiError:
            self.close()
            raise

    def close(self) -> None:
        """Lets the engine go on without them."""
        for answer in self._answers:
            answer.close()

    async def whole(self) -> dict[str, Any]:
        """The answers as one object.

        Raises:
            ApiError: the model failed.
        """
        texts = [""] * len(self._answers)
        async for index, piece in _merged([answer.texts() for answer in self._answers]):
            texts[index] += piece or ""
        choices = []
        for index, (answer, text) in enumerate(zip(self._answers, texts, strict=True)):
            said = {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
            choices.append({"index": index, "finish_reason": answer.finish, "logprobs": None} | said)
        kind = "chat.completion" if self._asked.chat else "text_completion"
        return self._frame(kind) | {"choices": choices, "usage": self._usage(), "roster": self._extension()}

    async def stream(self) -> AsyncIterator[bytes]:
        """The answers as server-sent events; closes them."""
        try:
            if self._asked.chat:
                for index in range(len(self._answers)):
                    yield event(self._chunk(index, {"role": "assistant", "content": ""}))
            async for index, text in _merged([answer.texts(KEEP_ALIVE_SECONDS) for answer in self._answers]):
                yield KEEP_ALIVE if text is None else event(self._chunk(index, {"content": text}))
            for index, answer in enumerate(self._answers):
                yield event(self._chunk(index, {}, answer.finish))
            yield event(self._last())
            yield event(DONE)
        except ApiError as error:
            yield event(error.body())
        finally:
            self.close()

    def _last(self) -> dict[str, Any]:
        """The chunk that tells the usage, if that was asked for, and who was on duty."""
        told = self._chunk(0, {}) | {"roster": self._extension()}
        return told | {"choices": [], "usage": self._usage()} if self._asked.usage else told

    def _chunk(self, index: int, delta: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
        chat = self._asked.chat
        said = {"delta": delta} if chat else {"text": delta.get("content", ""), "logprobs": None}
        choice = {"index": index, "finish_reason": finish} | said
        return self._frame("chat.completion.chunk" if chat else "text_completion") | {"choices": [choice]}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._asked.model}

    def _usage(self) -> dict[str, int]:
        prompt, written = len(self._asked.ids), sum(answer.tokens for answer in self._answers)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def _extension(self) -> dict[str, Any]:
        # All read the same prompt, so that the same experts are on duty for it.
        return self._server.mixture.extension(self.id, self._asked, self._answers[0].weights)


def _nth(asked: Asked, index: int) -> Asked:
    """The request for one of its answers: each draws by a seed of its own."""
    seed = asked.sampling.seed
    return asked if seed is None else replace(asked, sampling=replace(asked.sampling, seed=(seed + index) % 2**63))


async def _merged(texts: Sequence[AsyncIterator[str | None]]) -> AsyncIterator[tuple[int, str | None]]:
    """(which, piece) of several texts, as they come."""
    if len(texts) == 1:
        async for piece in texts[0]:
            yield 0, piece
        return
    coming = {asyncio.ensure_future(anext(text)): index for index, text in enumerate(texts)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda each: coming[each]):
                index = coming.pop(task)
                try:
                    piece = task.result()
                except StopAsyncIteration:
                    continue
                coming[asyncio.ensure_future(anext(texts[index]))] = index
                yield index, piece
    finally:
        for task in coming:
            task.cancel()
