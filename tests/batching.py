"""Batches as tests make them: lines, the rooms that run them, and their files as they were written."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from redis import Redis

from api.batch_endpoints import ENDPOINTS
from api.json_body import read_object
from scheduler.batch import Batch, BatchState
from scheduler.batch_progress import Progress
from scheduler.batch_rounds import Endpoint, Rounds
from scheduler.batches import Batches
from scheduler.files import Files
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings
from scheduler.stored_file import FILE_SECONDS, StoredFile
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker

CHAT = "/v1/chat/completions"


def line(number: int, text: str = "", **fields: Any) -> dict[str, Any]:
    """A line that asks for a chat of one message."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text or f"say {number}"}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": body} | fields


def jsonl(*lines: object) -> bytes:
    """Lines of a file; bytes stand as they are."""
    return b"".join(
        (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines
    )


def answer_all(worker: PretendWorker) -> list[str]:
    """Answer every job that waits, with its prompt; their prompts."""
    texts = []
    while (held := worker.try_claim()) is not None:
        text = (held.rec.request.messages or ())[-1].text
        texts.append(text)
        worker.complete(held, text)
    return texts


class Bench:
    """Everything that runs batches, in this process, by a clock that the test turns.

    Args:
        connection: the server.
        settings: the bounds.
        clock: Unix seconds.
        endpoints: by path.
    """

    def __init__(
        self,
        connection: Redis,
        settings: Settings,
        clock: Callable[[], float],
        endpoints: Mapping[str, Endpoint] = ENDPOINTS,
    ) -> None:
        self.clock = clock
        self.lifecycle = Lifecycle(connection, settings, clock)
        self.files = Files(connection, settings, clock)
        self.batches = Batches(self.lifecycle.queue, self.files, clock)
        self.rounds = Rounds(self.lifecycle, self.files, self.batches, endpoints, read_object)

    def upload(self, data: bytes, owner: str = "", seconds: int = FILE_SECONDS) -> StoredFile:
        """Store a file."""
        return self.files.upload(owner, "lines.jsonl", len(data), io.BytesIO(data).read, seconds)

    def begin(self, *lines: object, owner: str = "", **metadata: str) -> Batch:
        """Begin a batch over lines."""
        return self.batches.create(owner, CHAT, self.upload(jsonl(*lines), owner), metadata, 7200)

    def step(self, batch: Batch, most_running: int = 100) -> Batch:
        """Let a batch go on by one round."""
        self.rounds.step(batch.id, most_running, self.clock())
        return self.now(batch)

    def now(self, batch: Batch) -> Batch:
        """A batch as it is now."""
        found = self.batches.find(batch.id)
        assert found is not None
        return found

    def until(self, batch: Batch, state: BatchState, most_running: int = 100) -> Batch:
        """Let a batch go on until it came so far."""
        for _ in range(50):
            if self.now(batch).status is state:
                return self.now(batch)
            self.step(batch, most_running)
        raise AssertionError(f"{self.now(batch).status} and not {state}")

    def jobs(self, batch: Batch) -> list[str]:
        """The jobs of its running lines, in the lines' order."""
        running = Progress(self.lifecycle.queue).running(batch)
        return [job_id for each in running for job_id in each.job_ids]

    def counts(self, batch: Batch) -> tuple[int, int, int]:
        """How many lines there are, were answered, were not."""
        now = self.now(batch)
        return now.total, now.completed, now.failed

    def content(self, file_id: str | None, owner: str = "") -> bytes:
        """What a file holds."""
        assert file_id is not None
        file = self.files.get(file_id, owner)
        return b"".join(self.files.chunk(file.id, number) for number in range(file.chunks))

    def written(self, file_id: str | None, owner: str = "") -> list[dict[str, Any]]:
        """The entries of a file that a batch wrote; none where there is none."""
        if file_id is None:
            return []
        return [json.loads(each) for each in self.content(file_id, owner).splitlines()]
