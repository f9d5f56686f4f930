"""Clients of a chat server: OpenAI's own package, all at once or one after another, each streaming its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import openai


@dataclass(frozen=True, slots=True)
class Asked:
    """What the clients ask: each one prompt, ``max_tokens`` long an answer, greedily."""

    url: str
    model: str
    max_tokens: int
    seconds: float
    """How long a client waits for its answer's end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request."""

    answered: bool
    """Whether the stream ended as a stream should, with text and a reason to end."""

    error: str = ""
    first_seconds: float = 0.0
    """Until the first text."""

    pieces: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """All answers, and how long the last took."""

    answers: tuple[Answer, ...]
    seconds: float

    @property
    def share(self) -> float:
        """Of those who asked, who were answered."""
        return sum(answer.answered for answer in self.answers) / len(self.answers)

    @property
    def errors(self) -> dict[str, int]:
        """What went wrong, and how often."""
        said = [answer.error for answer in self.answers if not answer.answered]
        return {error: said.count(error) for error in sorted(set(said))}


def ask(asked: Asked, prompts: Sequence[str], *, together: bool) -> Round:
    """Ask all prompts, one client each, together or one after another."""
    return asyncio.run(_ask(asked, prompts, together=together))


async def _ask(asked: Asked, prompts: Sequence[str], *, together: bool) -> Round:
    # What a user of the package has, but for the proxies of this machine's environment.
    web = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with web, openai.AsyncOpenAI(base_url=f"{asked.url}/v1", api_key="none", http_client=web) as client:
        started = time.monotonic()
        if together:
            answers = await asyncio.gather(*(_stream(client, asked, prompt) for prompt in prompts))
        else:
            answers = [await _stream(client, asked, prompt) for prompt in prompts]
        return Round(tuple(answers), time.monotonic() - started)


async def _stream(client: openai.AsyncOpenAI, asked: Asked, prompt: str) -> Answer:
    started, first, pieces, reason = time.monotonic(), 0.0, 0, None
    try:
        async with asyncio.timeout(asked.seconds):
            stream = await client.chat.completions.create(
                model=asked.model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=asked.max_tokens,
                temperature=0,
                stream=True,
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    if choice.delta.content:
                        first = first or time.monotonic() - started
                        pieces += 1
                    reason = choice.finish_reason or reason
    except Exception as error:  # noqa: BLE001  # whatever the package raises is what its user gets
        return Answer(False, type(error).__name__, first, pieces)
    answered = pieces > 0 and reason in {"length", "stop"}
    return Answer(answered, "" if answered else f"ended without an answer: {reason}", first, pieces)
