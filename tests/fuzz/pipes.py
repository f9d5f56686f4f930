"""The engine's pipe, both ways: nonsense from an engine ends that engine at most; nonsense to one ends nothing else.

A worker with all its parts but a true engine has two jobs; what an input holds comes out of the engine's pipe between
two of its own messages.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from redis import Redis

from benchmarks.random_models import write_random_llama
from scheduler.job import PRIORITIES, TERMINAL
from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from scheduler.settings import Settings, load
from tests.cards import PLAIN
from tests.engines import MODEL, Talk, engine
from tests.fuzz.target import Run, Target
from tests.pretend_engine import PretendSupervisor
from tests.pretend_truth import BUDGET, Asked, World
from tests.properties.recovery import Hand
from tests.valkey import lone_valkey
from workers.asked import MISUNDERSTOOD, in_order, read_asked
from workers.runner import Runner
from workers.said import Course, read_said
from workers.wire import Receiver, WireBroken

_READING: Final = {"budget_bytes": BUDGET, "limits_bytes": {}, "steady_bytes": BUDGET, "steady_source": "set"}
_MEMORY: Final = {"active_bytes": 5, "cache_bytes": 1, "peak_bytes": 5}
_TURNS_MOST: Final = 400
JOB: Final = "JOB/1"
"""Stands in inputs for the key of the first job: its id is another every time."""


OTHER: Final = "other"
"""A model of inputs' own: the one that an engine's last job needs stays as it is."""

ASKED: Final[list[dict[str, Any]]] = [
    {
        "kind": "configure",
        "memory_budget": 1 << 30,
        "cache_limit": None,
        "prefix_cache": None,
        "chunk_tokens": 512,
        "prefill_rows": 4,
        "max_batch": 8,
        "frugal_seconds": 0.0,
        "gap_seconds": 0.1,
        "cards_folder": ".",
    },
    {"kind": "share", "share_bytes": 1 << 30},
    {"kind": "load", "model": OTHER, "source": "SOURCE", "cards": [PLAIN.to_json()]},
    {"kind": "unload", "model": OTHER},
    {
        "kind": "run",
        "key": JOB,
        "model": MODEL,
        "request": {"model": MODEL, "prompt": "a", "max_tokens": 4},
        "priority": "standard",
        "claimed_at": 1.5,
        "so_far": [5],
        "max_tokens": 4,
        "seed": 7,
        "scope": "",
    },
    {"kind": "grant", "key": JOB},
    {"kind": "remove", "key": JOB},
    {"kind": "measure"},
]
"""What a worker asks, one of each kind."""


def framed(message: Any) -> bytes:
    """A message as it goes through a pipe."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return struct.pack(">I", len(body)) + body


def _messages() -> list[dict[str, Any]]:
    step: dict[str, Any] = {"key": JOB, "tokens": [5], "text": "w5 ", "at": 1.0}
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    done = step | {"result": {"text": "w5 ", "finish_reason": "stop", "usage": usage}, "peak_bytes": 5}
    said = {"kind": "step", "memory": _MEMORY, "seconds": 0.1}
    card = PLAIN.to_json()
    loaded = {"model": "m", "card": card, "prompts": None, "memory": _MEMORY, "load_seconds": 1.0}
    refusal = {"code": "invalid_request", "message": "no", "param": "prompt"}
    extent = [1, 5, [[5, 5, 256, False]]]
    return [
        said | {"steps": [step]},
        said | {"steps": [done]},
        said | {"steps": [], "computed": {JOB: 5}, "reused": {JOB: 1}, "extents": {"m": [extent, None]}},
        {"kind": "host", "pools": {"host_total": 1 << 40}},
        {"kind": "ready", "device": "cpu", **_READING},
        {"kind": "measured", "memory": _MEMORY, **_READING},
        {"kind": "loading", "model": "m"},
        {"kind": "loaded", "probe_seconds": 1.0, **loaded},
        {"kind": "load_failed", "model": "m", "reason": "why", "unsupported": True},
        {"kind": "sized", "key": JOB, "prompt_tokens": 5, "max_tokens": 5},
        {"kind": "refused", "key": JOB, "error": refusal},
        {"kind": "account", "need_bytes": 5, "phase": "prefill"},
        {"kind": "raised", "keys": [JOB], "text": "RuntimeError: [metal::malloc] 5", "memory": _MEMORY},
        {"kind": "shed", "key": JOB},
        {"kind": "removed", "key": JOB},
        {"kind": "learnt", "card": card},
    ]


class _Stage:
    """A worker on an emptied server, with one job in its engine and one that waits."""

    def __init__(self, server: Redis, chosen: Settings) -> None:
        server.flushall()
        self.world = World()
        self.lifecycle = Lifecycle(server, chosen, self.world.clock)
        made = Runner(
            Lifecycle(server, chosen, self.world.clock),
            "worker",
            PRIORITIES,
            self.world.clock,
            engine=lambda settings: PretendSupervisor(settings, self.world),
        )
        self.hand = Hand("worker", made)
        self.turns(4)
        self.jobs = [self._submit("x00"), self._submit("x01")]
        self.turns(3)

    def _submit(self, mark: str) -> str:
        asked = Asked(mark, 20, 7, 6)
        body = {"prompt": asked.prompt, "max_tokens": asked.max_tokens, "seed": asked.seed}
        self.world.now += 1.0
        return self.lifecycle.submit(read_request({"model": PLAIN.model, **body})).id

    def turns(self, count: int) -> None:
        """Everybody goes on."""
        for _ in range(count):
            self.world.now += 1.0
            self.hand.turn()

    @property
    def ended(self) -> bool:
        """Whether every job has."""
        return all(self.lifecycle.get(job).state in TERMINAL for job in self.jobs)


@contextmanager
def _to_worker() -> Iterator[Run]:
    with lone_valkey() as (url, folder, server):
        chosen = load(redis_url=url, data_dir=folder, models=(PLAIN.model,), lease_seconds=1e6)

        def run(data: bytes) -> None:
            stage = _Stage(server, chosen)
            try:
                engine = stage.hand.supervisor.engine
                assert engine is not None
                key = f"{stage.jobs[0]}/1"
                os.write(engine._fds[1], _keyed(data, key)[:60_000])
                for _ in range(_TURNS_MOST):
                    stage.turns(1)
                    if stage.ended:
                        break
                last = stage._submit("x02")
                stage.jobs.append(last)
                for _ in range(_TURNS_MOST):
                    stage.turns(1)
                    if stage.ended:
                        break
                records = [stage.lifecycle.get(job) for job in stage.jobs]
                assert stage.ended, [rec.state for rec in records]
                assert records[2].outcome is not None
                assert records[2].outcome.result is not None, records[2].outcome
                for rec in records:
                    assert rec.outcome is not None
                    assert rec.outcome.result or (rec.outcome.error or {}).get("message")
            finally:
                stage.hand.die()

        yield run


def _keyed(data: bytes, key: str) -> bytes:
    """An input for the job at hand, its frames as long as they say where they did."""
    found = b""
    while len(data) >= 4:
        (length,) = struct.unpack(">I", data[:4])
        body, rest = data[4 : 4 + length], data[4 + length :]
        if len(body) < length:
            break
        body = body.replace(JOB.encode(), key.encode())
        found, data = found + struct.pack(">I", len(body)) + body, rest
    return found + data


@contextmanager
def _messages_to_worker() -> Iterator[Run]:
    """Takes one JSON message, framed as it should be."""
    with _to_worker() as run:
        yield lambda data: run(struct.pack(">I", len(data)) + data)


@contextmanager
def _asked() -> Iterator[Run]:
    yield _asking


@contextmanager
def _reading() -> Iterator[Run]:
    """What reads a pipe, and what knows how far an engine has come."""

    def run(data: bytes) -> None:
        receiver = Receiver(-1, read_said)
        receiver._buffer += data
        course = Course(asked="m")
        try:
            for message in receiver.whole():
                course.hear(message)
        except WireBroken:
            return

    yield run


def _asking(data: bytes) -> None:
    """What an engine reads."""
    receiver = Receiver(-1, read_asked)
    receiver._buffer += data
    try:
        in_order(receiver.whole(), configured=False)
    except WireBroken:
        return


@contextmanager
def _to_engine() -> Iterator[Run]:
    """A true engine that is asked one message more: it goes on with its jobs, or ends with a line that says why."""
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        model = write_random_llama(
            Path(folder) / "model", layers=1, hidden=16, heads=2, kv_heads=1, vocab=300
        )
        with engine(Path(folder) / "data", memory_budget=1 << 30) as talk:

            def run(data: bytes) -> None:
                talk.revive(model)
                outbox = talk.supervisor._outbox
                assert outbox is not None
                body = data.replace(b"SOURCE", str(model).encode())
                outbox._left += struct.pack(">I", len(body)) + body
                try:
                    talk.supervisor._course.asked = OTHER
                    outbox.flush()
                    talk.supervisor.send({"kind": "grant", "key": JOB})
                    talk.result(talk.run(max_tokens=2))
                except WireBroken:
                    _misunderstood(talk)

            yield run


def _misunderstood(talk: Talk) -> None:
    """See to it that the engine ended itself with a line; the next begins."""
    words = talk.supervisor._words
    death = talk.supervisor.bury()
    lines = words.lines if words else []
    talk.supervisor.start()
    talk.said.clear()
    talk.share()
    assert death.exit_code == MISUNDERSTOOD, (death, lines[-3:])
    assert len(lines) == 1, lines


def targets() -> list[Target]:
    """The frames and the messages."""
    told = [framed(message)[4:] for message in _messages()]
    frames = [framed(message) for message in _messages()]
    several = [*frames, b"".join(frames[:2]), b"".join(frames[9:12])]
    asked = [framed(message) for message in ASKED]
    return [
        Target("pipe_frames", lambda: several, _reading, pure=True),
        Target("asked_frames", lambda: asked, _asked, pure=True),
        Target("engine_messages", lambda: [each[4:] for each in asked], _to_engine),
        Target("pipe_messages", lambda: told, _messages_to_worker),
        Target("pipe_bytes", lambda: several, _to_worker),
    ]
