"""A real engine for tests, spoken with as a worker speaks with it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scheduler.card import ModelCard
from scheduler.settings import load
from workers.supervisor import Supervisor
from workers.wire import Message, WireBroken

MODEL = "tiny"

_MEASURED: dict[str, Message] = {}
"""Cards that engines have measured, by fingerprint: told to the next engine, as a worker tells those in Redis."""


class Talk:
    """One engine, and everything that it said."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.said: list[Message] = []
        self._count = 0

    def revive(self, source: Path) -> None:
        """See to it that the engine lives, its model loaded."""
        try:
            while select.select([self.supervisor.fileno()], [], [], 0)[0]:
                self.said += self.supervisor.receive()
        except WireBroken:
            self.supervisor.bury()
            self.supervisor.start()
            self.said.clear()
            self.share()
        if not self.of("loaded", model=MODEL):
            self.load(source)
        self.said = [message for message in self.said if message["kind"] in {"loaded", "load_failed"}]

    def share(self) -> None:
        """Give the engine its whole host, or what was set, as a worker does that has the host alone."""
        self.until(lambda: self.of("host"), "what there is")
        whole = min(self.of("host")[-1]["pools"].values())
        setting = self.supervisor.settings.memory_budget
        self.supervisor.send({"kind": "share", "share_bytes": whole if setting is None else setting})
        self.until(lambda: self.of("ready"), "ready")

    def drain(self) -> None:
        """Remove every job that a test left behind."""
        for number in range(self._count + 1):
            self.supervisor.send({"kind": "remove", "key": f"job_{number}/1"})

    def until(self, there: Callable[[], object], what: str, seconds: float = 40.0) -> None:
        """Listen until something was said."""
        deadline = time.monotonic() + seconds
        while not there():
            left = deadline - time.monotonic()
            assert left > 0, f"the engine did not say {what}; last words: {self.said[-3:]}"
            if select.select([self.supervisor.fileno()], [], [], left)[0]:
                self.said += self.supervisor.receive()

    def of(self, kind: str, **fields: Any) -> list[Message]:
        """The messages of a kind with these fields."""
        wanted = {"kind": kind, **fields}.items()
        return [
            message
            for message in self.said
            if wanted <= {k: v for k, v in message.items() if k in dict(wanted)}.items()
        ]

    def load(self, source: Path, name: str = MODEL) -> ModelCard:
        """Load a model; its card."""
        kept = [*_MEASURED.values()]
        self.supervisor.send({"kind": "load", "model": name, "source": str(source), "cards": kept})
        self.until(
            lambda: self.of("loaded", model=name) or self.of("load_failed", model=name), f"{name} loaded"
        )
        fields = self.of("loaded", model=name)[-1]["card"]
        _MEASURED.setdefault(fields["fingerprint"], fields)
        return ModelCard.from_json(fields)

    def run(
        self,
        *,
        so_far: Sequence[int] = (),
        seed: int = 7,
        priority: str = "standard",
        claimed_at: float = 0.0,
        max_tokens: int = 32,
        scope: str = "",
        **request: Any,
    ) -> str:
        """Start a job, its memory granted; its key."""
        self._count += 1
        key = f"job_{self._count}/1"
        asked = {"model": MODEL, "temperature": 0} | request
        if "messages" not in asked:
            asked.setdefault("prompt", "Hello there")
        self.supervisor.send(
            {
                "kind": "run",
                "key": key,
                "model": asked["model"],
                "request": asked,
                "priority": priority,
                "claimed_at": claimed_at,
                "so_far": list(so_far),
                "max_tokens": max_tokens,
                "seed": seed,
                "scope": scope,
            }
        )
        self.supervisor.send({"kind": "grant", "key": key})
        return key

    def steps(self, key: str) -> list[Message]:
        """What came for a job."""
        return [step for message in self.of("step") for step in message["steps"] if step["key"] == key]

    def tokens(self, key: str) -> list[int]:
        """Its tokens so far, those of earlier attempts left out."""
        return [token for step in self.steps(key) for token in step.get("tokens", ())]

    def sent(self, key: str) -> str:
        """Its text as its client saw it, that of earlier attempts left out."""
        return "".join(step.get("text", "") for step in self.steps(key))

    def result(self, key: str) -> dict[str, Any]:
        """Wait for its result."""
        self.until(
            lambda: (
                any("result" in step for step in self.steps(key)[-1:])
                or self.of("raised")
                or self.of("refused", key=key)
            ),
            f"{key}'s result",
        )
        assert not self.of("raised"), self.of("raised")
        assert not self.of("refused", key=key), self.of("refused", key=key)
        result: dict[str, Any] = self.steps(key)[-1]["result"]
        return result

    def refusal(self, key: str) -> dict[str, Any]:
        """Wait for its refusal."""
        self.until(lambda: self.of("refused", key=key), f"{key} refused")
        error: dict[str, Any] = self.of("refused", key=key)[0]["error"]
        return error


@contextmanager
def engine(folder: Path, **settings: Any) -> Iterator[Talk]:
    """An engine that was told its budget, and keeps no prompts unless it is told to; it is ended whatever happens."""
    chosen = {"data_dir": folder, "blas_preload": "off", "prefill_chunk": 64, "prefix_cache": 0} | settings
    supervisor = Supervisor(load(**chosen))
    supervisor.start()
    try:
        talk = Talk(supervisor)
        talk.share()
        yield talk
    finally:
        supervisor.stop()
