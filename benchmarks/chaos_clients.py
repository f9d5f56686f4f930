"""Clients that live through chaos as good clients do: they try again until they know how their job ended.

Each submits a job under an ``Idempotency-Key`` until an API says that it is accepted, then follows its stream, going on
after the last event that it saw at whichever API answers, or polls it; some cancel it. What each saw is kept for
the audit. An answer that no client should get, such as a 500, is kept as well.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from benchmarks.audit_jobs import Accepted
from benchmarks.findings import Column, Finding
from benchmarks.following import Sent, Story
from scheduler.job import TERMINAL
from tidegate.sse import EventReader

_TERMINAL: Final = frozenset(state.value for state in TERMINAL)
_TIMEOUT: Final = httpx.Timeout(4.0)
_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 0.5
_AGAIN: Final = frozenset({429, 502, 503, 504})
"""Answers that ask a client to come again."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A job that clients have: its body, the undisturbed answer, and with which errors it may end as well."""

    body: Mapping[str, Any]
    calm: Story
    errors: frozenset[str] = frozenset()
    cancels: float = 0.0
    """How often its client cancels it, as a share."""


@dataclass(slots=True)
class Witness:
    """What all clients saw."""

    accepted: list[Accepted] = field(default_factory=list)
    surprises: list[Finding] = field(default_factory=list)
    outages: int = 0
    """Requests that failed, or were told to come again."""


class Client:
    """One client, which has one errand after another; ``run`` is for a thread of its own.

    Args:
        urls: of the APIs.
        errands: of which it draws.
        witness: where it tells.
        draw: its chance.
        over: whether to begin no more errands.
        until: monotonic seconds; when it gives up what it is at.
        headers: that it sends with everything.
    """

    def __init__(
        self,
        urls: Sequence[str],
        errands: Sequence[Errand],
        witness: Witness,
        draw: random.Random,
        over: threading.Event,
        until: Callable[[], float],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._urls, self._errands, self._witness = urls, errands, witness
        self._draw, self._over, self._until = draw, over, until
        self._http = httpx.Client(trust_env=False, timeout=_TIMEOUT, headers=headers)

    def run(self) -> None:
        """Have errands until it is over."""
        while not self._over.is_set():
            self._have(self._draw.choice(self._errands))
            self._over.wait(self._draw.uniform(0.0, 0.3))
        self._http.close()

    def _have(self, errand: Errand) -> None:
        key = f"{self._draw.getrandbits(128):032x}"
        body = {**errand.body, "metadata": {"submission": key}}
        said = self._insist("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": key})
        if said is None:
            self._surprise(Column.LOST, f"submission {key}", "it was never answered")
            return
        job = Accepted(said["id"], errand.calm, errors=errand.errors)
        self._witness.accepted.append(job)
        steady = not errand.errors and not errand.cancels
        if steady and self._draw.random() < 0.2:  # its client is not sure that it was heard
            again = self._insist("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": key})
            if again is not None and again["id"] != job.job_id:
                job.other_ids.append(again["id"])
        cancel_at = self._draw.choice((0, 0, 2, 5)) if self._draw.random() < errand.cancels else None
        if self._draw.random() < 0.7:
            self._follow(job, cancel_at)
            self._poll(job, None, once=True)
        else:
            self._poll(job, cancel_at)

    def _follow(self, job: Accepted, cancel_at: int | None) -> None:
        """Read its stream to the end, over as many connections as it takes."""
        job.story = story = Story()
        while not story.done and time.monotonic() < self._until():
            leaves_after = self._draw.choice((1, 3, 8)) if self._draw.random() < 0.2 else None
            last = {"Last-Event-ID": str(story.sent[-1].number)} if story.sent else {}
            try:
                with self._http.stream(
                    "GET", f"{self._url()}/v1/jobs/{job.job_id}/stream", headers=last
                ) as answer:
                    if answer.status_code != 200:
                        answer.read()
                        if not self._to_come_again(answer):
                            return
                        continue
                    self._read(job, story, answer, cancel_at, leaves_after)
            except httpx.HTTPError:
                self._rest()

    def _read(
        self,
        job: Accepted,
        story: Story,
        answer: httpx.Response,
        cancel_at: int | None,
        leaves_after: int | None,
    ) -> None:
        reader, came = EventReader(), 0
        for chunk in answer.iter_raw():
            for event in reader.feed(chunk):
                if event.data == "[DONE]":
                    story.done = True
                    return
                if event.id is None:
                    self._surprise(
                        Column.CHANGED, job.job_id, f"its stream said {event.name}: {event.data[:200]}"
                    )
                    continue
                story.sent.append(Sent(time.monotonic(), int(event.id), event.name, event.json()))
                came += 1
            if cancel_at is not None and not job.cancelled and len(story.sent) >= cancel_at:
                self._cancel(job)
            if leaves_after is not None and came >= leaves_after:
                return
        if not story.done:
            self._rest()

    def _poll(self, job: Accepted, cancel_at: int | None, *, once: bool = False) -> None:
        while time.monotonic() < self._until():
            if cancel_at is not None and not job.cancelled and len(job.answers) * 2 >= cancel_at:
                self._cancel(job)
            wait = self._draw.choice((0, 0.5, 1))
            said = self._insist("GET", f"/v1/jobs/{job.job_id}?wait={wait}")
            if said is None:
                return
            job.answers.append(said)
            if once or said["status"] in _TERMINAL:
                return

    def _cancel(self, job: Accepted) -> None:
        job.cancelled = True
        said = self._insist("POST", f"/v1/jobs/{job.job_id}/cancel")
        if said is not None and said["status"] in _TERMINAL:
            job.answers.append(said)

    def _insist(self, method: str, path: str, **more: Any) -> dict[str, Any] | None:
        """Ask until there is an answer; None where it is none that helps, or time is up."""
        while time.monotonic() < self._until():
            try:
                answer = self._http.request(method, self._url() + path, **more)
            except httpx.HTTPError:
                self._rest()
                continue
            if answer.is_success:
                said: dict[str, Any] = answer.json()
                return said
            if not self._to_come_again(answer):
                return None
        return None

    def _to_come_again(self, answer: httpx.Response) -> bool:
        """Whether an answer that is no success asks for another try; rests before it."""
        if answer.status_code not in _AGAIN:
            request = answer.request
            words = f"it was answered {answer.status_code}: {answer.text[:300]}"
            self._surprise(Column.CHANGED, f"{request.method} {request.url.path}", words)
            if answer.status_code < 500:
                return False
        self._rest(float(answer.headers.get("Retry-After", _PAUSE_SECONDS)))
        return True

    def _rest(self, seconds: float = _PAUSE_SECONDS) -> None:
        self._witness.outages += 1
        time.sleep(min(seconds, _LONGEST_PAUSE_SECONDS) * self._draw.uniform(0.5, 1.0))

    def _url(self) -> str:
        return self._draw.choice(self._urls)

    def _surprise(self, column: Column, subject: str, words: str) -> None:
        self._witness.surprises.append(Finding(column, subject, words))
