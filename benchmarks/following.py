"""Clients that each submit one job and follow its stream over HTTP: what each was sent, when, and what is wrong with it."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tidegate.sse import EventReader

SILENCE_SECONDS: Final = 120.0
_ENDS: Final = frozenset({"completed", "incomplete", "failed", "cancelled", "error"})


@dataclass(frozen=True, slots=True)
class Sent:
    """One event as it came: monotonic seconds, its number in the job's log, its kind, its data."""

    at: float
    number: int
    kind: str
    data: dict[str, Any]


@dataclass(slots=True)
class Story:
    """Everything that one client was sent."""

    sent: list[Sent] = field(default_factory=list)
    tokens: int = 0
    """How many came; a token is a byte of the text."""
    done: bool = False
    """Whether the stream ended with ``[DONE]``."""

    @property
    def fresh(self) -> list[Sent]:
        """The events, without those whose number had come before."""
        return [
            each for at, each in enumerate(self.sent) if at == 0 or each.number > self.sent[at - 1].number
        ]

    @property
    def text(self) -> str:
        """What the deltas make."""
        return "".join(each.data["text"] for each in self.fresh if each.kind == "delta")

    @property
    def ending(self) -> tuple[str, Any]:
        """The kind of its end, and the result that came with it; a silent end is one of its own."""
        last = self.sent[-1] if self.sent else None
        if last is None or last.kind not in _ENDS or not self.done:
            return "silence", None
        return last.kind, last.data.get("result")

    def starts(self) -> list[Sent]:
        """Its attempts' beginnings, in order."""
        return [each for each in self.sent if each.kind == "started"]

    def next_token_at(self, start: Sent) -> float | None:
        """When the first text after an attempt's beginning came."""
        return next((each.at for each in self.sent if each.kind == "delta" and each.at >= start.at), None)


@dataclass(frozen=True, slots=True)
class Difference:
    """What one client was sent beside what it is sent where nothing happens."""

    lost_tokens: int
    duplicated_tokens: int
    changed: bool
    failed: bool


def compare(calm: Story, seen: Story) -> Difference:
    """What is wrong with a stream; nothing where it says the same under numbers without a gap or a repeat."""
    matcher = difflib.SequenceMatcher(None, calm.text, seen.text, autojunk=False)
    alike = (
        len(calm.text)
        if calm.text == seen.text
        else sum(block.size for block in matcher.get_matching_blocks())
    )
    numbered = [each.number for each in seen.sent] == list(range(1, len(seen.sent) + 1))
    return Difference(
        lost_tokens=len(calm.text) - alike,
        duplicated_tokens=seen.tokens - alike,
        changed=seen.text != calm.text or seen.ending != calm.ending or not numbered,
        failed=seen.ending[0] != calm.ending[0],
    )


class Crowd:
    """Several clients at once, each in a thread of its own.

    Args:
        url: of the API.
        bodies: of the jobs.
        headers: that they send with everything.
    """

    def __init__(
        self, url: str, bodies: Sequence[dict[str, Any]], headers: Mapping[str, str] | None = None
    ) -> None:
        self.stories = [Story() for _ in bodies]
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=SILENCE_SECONDS, headers=headers)
        self._threads = [
            threading.Thread(target=self._follow, args=(body, story), daemon=True)
            for body, story in zip(bodies, self.stories, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def wait_until(self, true_of: Callable[[Story], bool], *, every: bool) -> None:
        """Wait until something is true of every story, or of one.

        Raises:
            TimeoutError: it never was.
        """
        until = time.monotonic() + SILENCE_SECONDS
        while not (all if every else any)(map(true_of, self.stories)):
            if time.monotonic() > until:
                raise TimeoutError(f"the streams got nowhere: {[story.sent[-1:] for story in self.stories]}")
            time.sleep(0.005)

    def stay(self) -> list[Story]:
        """Wait for every stream's end."""
        for thread in self._threads:
            thread.join()
        self._http.close()
        return self.stories

    def _follow(self, body: dict[str, Any], story: Story) -> None:
        reader = EventReader()
        with self._http.stream("POST", "/v1/jobs", json=body | {"stream": True}) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_raw():
                now = time.monotonic()
                for event in reader.feed(chunk):
                    if event.data == "[DONE]":
                        story.done = True
                    else:
                        story.sent.append(Sent(now, int(event.id or 0), event.name, event.json()))
                        story.tokens += len(story.sent[-1].data.get("text", ""))
