"""Lean clients of a chat server: each streams its answers over a socket, and notes when text came.

The servers that are compared share the machine's cores with their clients, and one of them sends 6,000 events a
second: a client of OpenAI's package would take more of a core than the server. So these read lines and look at those
that are events; what frames them in between, HTTP's chunks, is passed over. A line is never cut by a chunk's border
where a server writes whole events, as all of these do; a text that was lost would show in the count of tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_LINE_BYTES = 1 << 22


@dataclass(slots=True)
class Streamed:
    """One answer. Times are of the monotonic clock."""

    asked_at: float
    texts_at: list[float] = field(default_factory=list)
    """When text came, one for each event that had some."""
    ended_at: float = 0.0
    text: str = ""
    tokens: int = 0
    """By the server's own count, where it gives one; else one for each event."""
    finish_reason: str = ""
    error: str = ""

    @property
    def answered(self) -> bool:
        """Whether the stream ended as a stream should, with text and a reason to end."""
        return bool(self.texts_at) and self.finish_reason in {"stop", "length"} and not self.error

    @property
    def first_seconds(self) -> float:
        """Until the first text."""
        return self.texts_at[0] - self.asked_at if self.texts_at else float("inf")

    @property
    def gaps_seconds(self) -> list[float]:
        """From text to text."""
        return [later - sooner for sooner, later in zip(self.texts_at, self.texts_at[1:], strict=False)]


def chat_body(model: str, prompt: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    """A greedy chat of one message that is streamed."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    } | more


def drive(url: str, bodies: Sequence[dict[str, Any]], concurrency: int, seconds: float) -> list[Streamed]:
    """Ask everything, so many at a time, each client its next as soon as it has its answer.

    Args:
        url: of the server.
        bodies: what is asked, in this order.
        concurrency: clients.
        seconds: that an answer may take.
    """

    async def run() -> list[Streamed]:
        waiting = list(enumerate(bodies))[::-1]
        answers: dict[int, Streamed] = {}

        async def client() -> None:
            while waiting:
                at, body = waiting.pop()
                answers[at] = await ask(url, body, seconds)

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return [answers[at] for at in range(len(bodies))]

    return asyncio.run(run())


async def ask(
    url: str, body: dict[str, Any], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Streamed:
    """Stream one answer; what goes wrong is said in it.

    Args:
        url: of the server.
        body: of ``/v1/chat/completions``.
        seconds: that it may take.
        clock: for its times.
    """
    answer = Streamed(clock())
    writer = None
    try:
        async with asyncio.timeout(seconds):
            host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
            reader, writer = await asyncio.open_connection(host, port, limit=_LINE_BYTES)
            writer.write(_request(host, port, json.dumps(body).encode()))
            await _read(reader, answer, clock)
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    answer.ended_at = clock()
    return answer


def _request(host: str, port: int, body: bytes) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _read(reader: asyncio.StreamReader, answer: Streamed, clock: Callable[[], float]) -> None:
    status = await reader.readline()
    if b" 200 " not in status:
        rest = await reader.read(4096)
        raise ValueError(f"{status.decode(errors='replace').strip()}: {rest[-500:].decode(errors='replace')}")
    pieces: list[str] = []
    counted = 0
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            break
        event = json.loads(line[6:])
        if "error" in event:
            raise ValueError(str(event["error"]))
        for choice in event.get("choices", ()):
            delta = choice.get("delta") or {}
            if text := delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
                answer.texts_at.append(clock())
                pieces.append(text)
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        counted = (event.get("usage") or {}).get("completion_tokens") or counted
    answer.text = "".join(pieces)
    answer.tokens = counted or len(pieces)
