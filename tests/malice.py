"""What somebody who can write to the queue's server leaves there, to be unpickled, imported or called: each would say so.

A canary is a file that appears when something was run. Each trap has one of its own, which so names the trap.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis import Redis
from rq.job import Job

from scheduler.queue import JOB_FUNCTION

MODULE: Final = "planted_module"
"""A module on the path of the processes under test, which says when it is imported or one of its functions is called."""


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@dataclass
class Malice:
    """The traps on one server.

    Args:
        connection: of somebody who can write there.
        folder: where canaries appear; a module of :data:`MODULE` is put there too.
        submit: makes an ordinary job, and says its id.
    """

    connection: Redis
    folder: Path
    submit: Callable[[], str]
    jobs: dict[str, str] = field(default_factory=dict)
    """The jobs that were tampered with, by the trap's name."""

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        path = str(self.folder / "imported")
        text = f"import os\nos.makedirs({path!r}, exist_ok=True)\n"
        text += f"def run(*_, **__):\n    os.makedirs({path + '-called'!r}, exist_ok=True)\n"
        text += "from rq.job import Job\nfrom rq.worker import Worker\nclass J(Job): pass\nclass W(Worker): pass\n"
        (self.folder / f"{MODULE}.py").write_text(text)

    @property
    def done(self) -> list[str]:
        """The traps that were sprung."""
        return sorted(
            path.name for path in self.folder.iterdir() if path.name not in {f"{MODULE}.py", "__pycache__"}
        )

    def pickled(self, name: str) -> bytes:
        """Bytes that make a canary when they are unpickled."""
        return pickle.dumps(_Touch(self.folder / name))

    def plant(self) -> None:
        """Every trap that there is."""
        self._plant_pickles()
        self._plant_names()
        self._plant_fields()
        self._plant_entries()
        self._plant_records()

    def _tamper(self, name: str, **fields: bytes | str) -> str:
        job_id = self.jobs[name] = self.submit()
        self.connection.hset(Job.key_for(job_id), mapping=dict(fields))
        return job_id

    def _call(self, function: str, *args: Any, instance: Any = None, **kwargs: Any) -> bytes:
        return zlib.compress(json.dumps([function, instance, args, kwargs]).encode())

    def _plant_pickles(self) -> None:
        """In each field of a job that RQ reads by its serializer, and in each that it does not."""
        self._tamper("data", data=self.pickled("data"))
        self._tamper("data-compressed", data=zlib.compress(self.pickled("data-compressed")))
        self._tamper("meta", meta=self.pickled("meta"))
        kwargs = {"version": 1, "request": base64.b64encode(self.pickled("kwargs")).decode()}
        self._tamper("kwargs", data=self._call(JOB_FUNCTION, **kwargs))
        returned = self._tamper("return_value", status="finished")
        value = base64.b64encode(self.pickled("return_value"))
        fields: Any = {"type": "1", "created_at": "2026-01-01T00:00:00Z", "return_value": value}
        self.connection.xadd(f"rq:results:{returned}", fields)

    def _plant_names(self) -> None:
        """Functions, methods and classes that a job names, to be imported and called."""
        touch = f"mkdir {self.folder}/"
        self._tamper("os.system", data=self._call("os.system", f"{touch}os-system"))
        self._tamper(
            "eval", data=self._call("eval", f"__import__('os').mkdir({str(self.folder / 'eval')!r})")
        )
        self._tamper("module", data=self._call(f"{MODULE}.run"))
        self._tamper("instance", data=self._call("format", instance=f"{{0.__class__}}{MODULE}"))
        self._tamper("repeat", repeats_left="3", repeat_intervals="[0]", data=self._call(f"{MODULE}.run"))
        callbacks = {f"{kind}_callback_name": f"{MODULE}.run" for kind in ("success", "failure", "stopped")}
        failing = self._call(JOB_FUNCTION, version=99, request={})
        self._tamper("failing", data=failing, retries_left="0", **callbacks)
        self._tamper("intervals", data=failing, retries_left="3", retry_intervals='["evil"]')
        names = ("worker_name", "group_id", "job_class", "worker_class", "serializer", "queue_class")
        wire = base64.b64encode(self.pickled("field")).decode()
        self._tamper(
            "fields",
            **callbacks,
            **dict.fromkeys(names, f"{MODULE}.run"),
            dependency_ids=json.dumps([f"{MODULE}.run", wire]),
            exc_info=zlib.compress(self.pickled("exc_info")),
            result=self.pickled("result"),
            description=wire,
            lease="",
        )

    def _plant_fields(self) -> None:
        """What RQ reads as numbers, times, words and JSON, and is none; one of each kind, and none of a job's call."""
        wire = self.pickled("unreadable")
        deep = "[" * 100_000
        fields: tuple[tuple[str, str | bytes], ...] = (
            ("status", "evil"),
            ("status", b"\xff"),
            ("created_at", "yesterday"),
            ("timeout", "evil"),
            ("timeout", "9" * 30),
            ("result_ttl", wire),
            ("retries_left", "1e9"),
            ("retry_intervals", '["evil"]'),
            ("retry_intervals", deep),
            ("dependency_ids", wire),
            ("origin", b"\xff"),
            ("exc_info", wire),
            ("group_id", wire),
            ("enqueue_at_front", "evil"),
            ("rate_limit_concurrency", "evil"),
            ("webhooks", deep),
            ("meta", deep),
        )
        for number, (name, value) in enumerate(fields):
            self._tamper(f"{name} {number}", data=self._call(f"{MODULE}.run"), **{name: value})
        self._tamper("deep", data=deep)
        self._tamper("shape", data=b"[1]")
        self.connection.hset(Job.key_for(self._tamper("field's name", data=b"[]")), wire, wire)
        self.connection.hdel(Job.key_for(self._tamper("no data", data=b"")), "data")
        self.connection.delete(Job.key_for(self._tamper("no hash", data=b"")))

    def _plant_entries(self) -> None:
        """In a queue's list: ids of nothing, of what is no hash, and what can be none."""
        self.connection.set("rq:job:evil-text", self.pickled("entry"))
        for entry in ("evil-text", "nobody", "", "a:b", ":", "no id!", "\ud55c", "x" * 100_000):
            self.connection.rpush("rq:queue:standard", entry)

    def plant_bytes(self) -> None:
        """Names that are no text, in lists and sets: RQ's own worker ends at one."""
        for name in ("rq:queue:standard", "rq:queue:standard:intermediate"):
            self.connection.lpush(name, b"\xff", self.pickled("bytes"))
        for name in ("rq:wip:standard", "rq:canceled:standard", "rq:failed:standard"):
            self.connection.zadd(name, {b"\xff": 1, b"\xff:\xff": 2})

    def _plant_records(self) -> None:
        """Beside jobs: schedules, executions, workers, groups, names of keys, and what is said on channels."""
        wire = self.pickled("key")
        due = self.submit()
        self.jobs["scheduled"] = due
        self.connection.hset(
            Job.key_for(due), mapping={"data": self.pickled("scheduled"), "status": "scheduled"}
        )
        self.connection.lrem("rq:queue:standard", 0, due)
        self.connection.zadd("rq:scheduled:standard", {due: time.time() - 60})
        for number in (b"", wire):
            self.connection.hset(
                b"rq:execution:" + number, mapping={"job_id": wire, "created_at": wire, "worker_name": wire}
            )
        self.connection.zadd("rq:executions:" + due, {wire: time.time() + 60})
        self.connection.sadd("rq:groups", "evil")
        self.connection.sadd("rq:group:evil", due)
        cron = {
            "func_name": f"{MODULE}.run",
            "args": wire,
            "cron_jobs": json.dumps([{"func_name": f"{MODULE}.run"}]),
        }
        self.connection.hset("rq:cron_scheduler:evil", mapping=cron)
        self.connection.zadd("rq:cron_schedulers", {"evil": time.time()})
        for name in ("rq:job:evil", b"rq:job:" + wire):
            self.connection.hset(name, mapping={"data": wire, "meta": wire, "status": "queued"})
        self.connection.rpush("rq:queue:standard", "evil")

    def say(self, worker: str) -> None:
        """On every channel that a worker or an API listens to."""
        words = (
            self.pickled("channel"),
            b"\xff",
            json.dumps({"command": f"{MODULE}.run"}).encode(),
            b"[]",
            b"{}",
        )
        for channel in (f"rq:pubsub:{worker}", f"tidegate:inbox:{worker}", "tidegate:wake", "tidegate:steps"):
            for word in words:
                self.connection.publish(channel, word)
