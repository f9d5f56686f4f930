"""A pretended engine: it speaks as :mod:`workers.engine` does, and its memory ends where its world says it does.

Everything of the worker is real, its supervisor too; only the process is pretended, and takes its turns when a
test says so.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scheduler.job import PRIORITIES
from scheduler.settings import Settings
from tests.cards import PLAIN
from tests.last_words import IGNORED, RESOURCES, End
from tests.pretend_truth import Asked, World, slots, word
from workers.supervisor import Supervisor
from workers.wire import Message, Receiver, Sender, WireBroken

_pids = itertools.count(1 << 22)


@dataclass(slots=True)
class _Job:
    """One in the batch."""

    key: str
    asked: Asked
    so_far: list[int]
    order: tuple[int, float]
    logprobs: bool
    computed: int = 0
    made: int = 0

    @property
    def known(self) -> int:
        """What is computed before it decodes."""
        return self.asked.size + len(self.so_far)

    @property
    def decodes(self) -> bool:
        return self.computed >= self.known

    @property
    def position(self) -> int:
        return len(self.so_far) + self.made

    @property
    def length(self) -> int:
        return self.computed + self.made


class PretendEngine:
    """Stands for an engine's process: what :class:`~workers.supervisor.Supervisor` asks of one, and its turns.

    Args:
        world: what it meets.
        read_fd: whence it hears; its own.
        write_fd: where it speaks; its own.
    """

    def __init__(self, world: World, read_fd: int, write_fd: int) -> None:
        self.pid, self.exit_code = next(_pids), None
        reading, self._words_fd = os.pipe()
        self.stderr = os.fdopen(reading, "rb")
        self.hung = False
        self._world, self._fds = world, (read_fd, write_fd)
        self._receiver, self._send = Receiver(read_fd), Sender(write_fd).send
        self._sized: dict[str, _Job] = {}
        self._jobs: dict[str, _Job] = {}
        self._shape: dict[str, Any] = {}
        self._budget = self._steps = 0
        self._loaded = self._ruined = self._regrouped = False

    # As a process

    exit_code: int | None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code: whoever waits for one that lives has closed its pipe."""
        self._die(0)
        assert self.exit_code is not None
        return self.exit_code

    def kill(self) -> None:
        """End it at once."""
        self._die(-signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """End it by a signal."""
        self._die(-number)

    def _die(self, exit_code: int, words: str = "") -> None:
        if self.exit_code is None:
            self.exit_code = exit_code
            os.write(self._words_fd, words.encode())
            for each in (self._words_fd, *self._fds):
                os.close(each)

    # As an engine

    @property
    def busy(self) -> bool:
        """Whether it computes."""
        return self.exit_code is None and not self.hung and bool(self._jobs)

    def turn(self) -> None:
        """Hear what was said, and make one step."""
        try:
            while self.exit_code is None and not self.hung and select.select([self._fds[0]], [], [], 0)[0]:
                for message in self._receiver.read():
                    getattr(self, f"_on_{message['kind']}")(message)
        except WireBroken:
            self._die(0)
        if self.busy:
            self._step()

    def _on_configure(self, message: Message) -> None:
        self._shape = message
        self._send({"kind": "host", "pools": {"host_total": 1 << 40}})

    def _on_share(self, message: Message) -> None:
        self._budget = message["share_bytes"]
        self._send({"kind": "ready", "device": self._world.device, **self._reading(self._budget)})

    def _reading(self, budget_bytes: int) -> Message:
        limits = {"host_share": self._budget}
        steady = {"steady_bytes": self._budget, "steady_source": "host_share"}
        return {"budget_bytes": budget_bytes, "limits_bytes": limits, **steady}

    def _on_measure(self, _: Message) -> None:
        reading = self._reading(min(self._budget, self._world.reading_bytes))
        self._send({"kind": "measured", "memory": self._memory(), **reading})

    def _on_load(self, message: Message) -> None:
        name = message["model"]
        self._loaded = True
        card = replace(PLAIN, model=name, device=self._world.device)
        self._send({"kind": "loading", "model": name})
        self._send({"kind": "measuring", "model": name})
        told = {"card": card.to_json(), "prompts": None, "memory": self._memory()}
        self._send({"kind": "loaded", "model": name, **told, "load_seconds": 1.0, "probe_seconds": 1.0})

    def _on_run(self, message: Message) -> None:
        request = message["request"]
        prompt, stop = request["prompt"], tuple(request.get("stop", ()))
        asked = Asked(prompt[:3], len(prompt), message["seed"], message["max_tokens"], stop)
        order = PRIORITIES.index(message["priority"]), message["claimed_at"]
        key, logprobs = message["key"], request.get("logprobs") is not None
        self._send({"kind": "counting", "key": key})
        self._sized[key] = _Job(key, asked, list(message["so_far"]), order, logprobs)
        sizes = {"prompt_tokens": asked.size, "max_tokens": asked.max_tokens}
        self._send({"kind": "sized", "key": key, **sizes})

    def _on_grant(self, message: Message) -> None:
        job = self._sized.pop(message["key"], None)
        if job is None:
            return
        stopped = any(job.asked.cut(token) is not None for token in job.so_far)
        if stopped or job.position >= job.asked.max_tokens:
            self._tell([self._ended(job, {"key": job.key}, "stop" if stopped else "length")])
        else:
            self._jobs[job.key] = job

    def _on_remove(self, message: Message) -> None:
        self._drop(message["key"])
        self._send({"kind": "removed", "key": message["key"]})

    def _drop(self, key: str) -> None:
        self._sized.pop(key, None)
        self._regrouped = self._jobs.pop(key, None) is not None or self._regrouped

    def _on_unload(self, _: Message) -> None:
        self._loaded = bool(self._jobs)

    # A step

    @property
    def _prompts(self) -> list[_Job]:
        """Those whose prompts are computed now."""
        return [job for job in self._jobs.values() if not job.decodes][: self._shape["prefill_rows"]]

    @property
    def _decoding(self) -> list[_Job]:
        return [job for job in self._jobs.values() if job.decodes]

    def _next(self, job: _Job) -> int:
        """How long a job is after the next step."""
        if job.decodes:
            return job.length + 1
        return min(job.known, job.computed + int(self._shape["chunk_tokens"]))

    def _bytes(self, length: Callable[[_Job], int]) -> int:
        """The model and two rectangles: rows as many as there are, each as long as the longest."""
        parts = [[length(job) for job in part] for part in (self._prompts, self._decoding)]
        tokens = sum(len(part) * slots(max(part)) for part in parts if part)
        return PLAIN.weights_bytes * self._loaded + PLAIN.caches[0].bytes_per_token * tokens

    def _memory(self) -> dict[str, int]:
        active = self._bytes(lambda job: job.length)
        return {"active_bytes": active, "cache_bytes": 0, "peak_bytes": active}

    def _step(self) -> None:
        while len(self._jobs) > 1 and (self._world.sheds or self._bytes(self._next) > self._budget):
            self._world.sheds = max(0, self._world.sheds - 1)
            victim = max(self._jobs.values(), key=lambda job: job.order)
            self._send({"kind": "shed", "key": victim.key})
            self._drop(victim.key)
        need = self._bytes(self._next)
        if self._prompts:
            self._send({"kind": "account", "need_bytes": need})
        self._steps += 1
        end, foreign = self._failure(need)
        if end is None:
            self._go_on()
            return
        if foreign:
            self._world.befell(self._jobs, end.fault)
        self._fail(end)

    def _failure(self, need_bytes: int) -> tuple[End | None, bool]:
        """What befalls the next step, and whether no job of the batch is to blame for it."""
        if self._ruined:
            return IGNORED, True
        if self._world.troubles:
            return self._world.troubles.popleft(), True
        for job in self._decoding:
            does = job.asked.does
            if does is not None and job.position >= job.asked.at:
                return does, False
        if self._steps > self._world.buffers:
            return RESOURCES, True
        return (self._world.run_out() if need_bytes > self._world.limit_bytes else None), False

    def _fail(self, end: End) -> None:
        if end.exit_code is not None:
            self._die(end.exit_code, end.words)
        elif end.silent:
            self.hung = True
        else:
            keys, memory = list(self._jobs), self._memory()
            self._jobs.clear()
            self._ruined = "Command buffer" in end.words
            self._send({"kind": "raised", "keys": keys, "text": end.words, "memory": memory})

    def _go_on(self) -> None:
        decoding = self._decoding
        computed: dict[str, int] = {}
        for job in self._prompts:
            job.computed = computed[job.key] = self._next(job)
        steps = [self._decode(job) for job in decoding]
        self._tell(steps, computed)

    def _decode(self, job: _Job) -> Message:
        token = job.asked.token(job.position)
        step: Message = {"key": job.key}
        if token is None:
            return self._ended(job, step, "stop")
        job.made += 1
        cut = job.asked.cut(token)
        step |= {"tokens": [token], "text": word(token)[:cut]}
        if job.logprobs:
            step["logprobs"] = [{"token": word(token), "logprob": -1.0, "bytes": []}]
        if cut is not None or job.position >= job.asked.max_tokens:
            return self._ended(job, step, "stop" if cut is not None else "length")
        return step

    def _ended(self, job: _Job, step: Message, reason: str) -> Message:
        """A job's last step: what it brought, and the result, made of all that it and earlier attempts made."""
        made = [*job.so_far, *(job.asked.token(at) or 0 for at in range(len(job.so_far), job.position))]
        text = "".join(word(token)[: job.asked.cut(token)] for token in made)
        prompt, completion = job.asked.size, job.position
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        self._drop(job.key)
        return step | {"result": {"text": text, "finish_reason": reason, "usage": usage}, "peak_bytes": 1}

    def _tell(self, steps: list[Message], computed: dict[str, int] | None = None) -> None:
        said: Message = {"kind": "step", "memory": self._memory()}
        said["steps"] = [
            {name: each for name, each in step.items() if each} | {"at": self._world.now} for step in steps
        ]
        if computed:
            said["computed"] = computed
        if computed or self._regrouped:
            said["extents"] = {PLAIN.model: [self._extent(self._prompts), self._extent(self._decoding)]}
            self._regrouped = False
        self._send(said | {"seconds": 0.02})

    @staticmethod
    def _extent(jobs: list[_Job]) -> list[Any] | None:
        begun = [job.length for job in jobs if job.length]
        if not begun:
            return None
        longest = max(begun)
        return [len(begun), longest, [[longest, longest, slots(longest), False]]]


class PretendSupervisor(Supervisor):
    """A supervisor whose engines are pretended.

    Args:
        settings: the worker's.
        world: what its engines meet; its clock is the supervisor's.
    """

    def __init__(self, settings: Settings, world: World) -> None:
        super().__init__(settings, world.clock)
        self.world = world

    @property
    def engine(self) -> PretendEngine | None:
        """The one that runs."""
        process: Any = self._process
        return process

    def _spawn(self, read_fd: int, write_fd: int) -> Any:
        return PretendEngine(self.world, os.dup(read_fd), os.dup(write_fd))
