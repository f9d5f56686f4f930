"""The engine: the process that owns MLX. It loads, generates and frees, all in its main thread.

Started by :mod:`workers.supervisor` as ``python -m workers.engine READ_FD WRITE_FD``. It ends when the
pipe from its parent does. A thread of its own reads the pipe, so that the parent's death is seen even
while MLX computes.
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from scheduler.errors import ClientError, ModelUnsupported, ModelUnusable
from workers import gauge
from workers.asked import read_asked, read_forever
from workers.batch import ModelBatch
from workers.budget import Budget, free
from workers.engine_job import JobStep, RunningJob, make_job
from workers.environment import CUDA_BUFFER_BYTES
from workers.guard import Action, check, youngest_of_lowest
from workers.kept_cards import card_for, keep_card
from workers.models import load_model, prompt_shape
from workers.prefixes import Prefixes
from workers.residency import weights_on_disk
from workers.telling import Telling
from workers.wire import Message, Receiver, Sender

_SHAPE: Final = ("chunk_tokens", "prefill_rows", "max_batch", "gap_seconds")
_CACHE_SHARE: Final = 16
_CACHE_MOST: Final = 1 << 30
_MUCH: Final = 32


class Engine:
    """Serves one worker.

    Args:
        send: tells the worker.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._telling = Telling(send)
        self._batches: dict[str, ModelBatch] = {}
        self._ungranted: dict[str, tuple[ModelBatch, RunningJob]] = {}
        self._budget = Budget(None)
        self._cache_limit: int | None = None
        self._prefixes = Prefixes(self._budget)
        self._shape: dict[str, Any] = {}
        self._cards_folder = Path()
        self._device = ""
        self._does: dict[str, Callable[[Message], None]] = {
            "configure": self._configure,
            "share": lambda said: self._take_share(said["share_bytes"]),
            "load": lambda said: self._load(said["model"], said["source"], said.get("cards", ())),
            "unload": lambda said: self._unload(said["model"]),
            "run": self._run,
            "grant": lambda said: self._grant(said["key"]),
            "remove": lambda said: self._remove(said["key"], asked=True),
            "measure": self._measure,
        }

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return any(len(batch) for batch in self._batches.values())

    def handle(self, message: Message) -> None:
        """Do what the worker asks."""
        if (do := self._does.get(message["kind"])) is not None:  # what is not known is not done
            do(message)

    def step(self) -> None:
        """One step of every batch, guarded; at most one message for all of them."""
        began = time.monotonic()
        if (reading := self._budget.refresh(began)) is not None:
            self._send({"kind": "measured", "memory": self._prefixes.heed(reading), **reading})
        steps: list[JobStep] = []
        told: dict[str, Any] = {"computed": {}, "reused": {}, "extents": {}}
        peak = 0
        for name, batch in self._batches.items():
            if not len(batch):
                continue
            keys = batch.keys
            try:
                if self._guard(batch):
                    weights = sum(other.loaded.weights_bytes for other in self._batches.values())
                    steps += batch.step(0 if self._budget.frugal else self._budget.now_bytes, weights)
                    told["computed"] |= batch.computed
                    told["reused"] |= batch.reused
                    peak = max(peak, batch.peak_bytes)
                    if (changed := batch.told_extents()) is not None:
                        told["extents"][name] = changed
            except Exception as error:  # noqa: BLE001 - MLX raises RuntimeError, ValueError and others
                self._give_up(batch, error, keys)
        told["seconds"] = round(time.monotonic() - began, 6)
        self._telling.tell(steps, self._prefixes.in_use, self._untold, peak_bytes=peak, **told)
        self._tell_learnt(steps)

    def _untold(self) -> list[JobStep]:
        return [step for batch in self._batches.values() for step in batch.untold()]

    def _tell_learnt(self, steps: Sequence[JobStep]) -> None:
        """Where a job ended: what its batch's steps taught of the model."""
        if any(step.result for step in steps):
            for batch in self._batches.values():
                if batch.learnt():
                    keep_card(batch.card, self._cards_folder)
                    self._send({"kind": "learnt", "card": batch.card.to_json()})

    def _configure(self, message: Message) -> None:
        self._device = gauge.device_name()
        self._budget = Budget(message["memory_budget"], own_memory=not self._device.startswith("cuda"))
        self._budget.ran_out(message.get("frugal_seconds", 0.0))
        self._prefixes = Prefixes(self._budget, message.get("prefix_cache"))
        self._cache_limit = message["cache_limit"]
        self._shape = {name: message[name] for name in _SHAPE}
        self._cards_folder = Path(message["cards_folder"])
        self._send({"kind": "host", "pools": gauge.read_pools()})

    def _take_share(self, share_bytes: int) -> None:
        """Begin, with what the host's other workers leave; once."""
        if self._budget.share_bytes is not None:
            return
        self._budget.share_bytes = share_bytes
        reading = self._budget.read(time.monotonic())
        # Of what stays: a passing reading's share would stay for ever.
        usual = min(_CACHE_MOST, reading["steady_bytes"] // _CACHE_SHARE)
        mx.set_cache_limit(usual if self._cache_limit is None else self._cache_limit)
        self._send({"kind": "ready", "device": self._device, **reading})

    def _load(self, name: str, source: str, kept: Sequence[dict[str, Any]]) -> None:
        started = time.monotonic()
        self._send({"kind": "loading", "model": name})
        self._prefixes.make_room(weights_on_disk(source))
        try:
            loaded = load_model(name, source)
            loaded_at = time.monotonic()
            self._send({"kind": "measuring", "model": name})
            self._budget.read(loaded_at)
            card = card_for(
                loaded,
                source,
                self._device,
                self._cards_folder,
                kept,
                chunk_tokens=self._shape["chunk_tokens"],
                prefill_rows=self._shape["prefill_rows"],
                for_good=self._budget.now_bytes >= self._budget.steady_bytes // 2,
                room_bytes=max(0, self._budget.now_bytes - self._budget.used_bytes()),
                load_seconds=loaded_at - started,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
            gc.collect()
            mx.clear_cache()
            reason = str(error) if isinstance(error, ModelUnusable) else f"{type(error).__name__}: {error}"
            unsupported = isinstance(error, ModelUnsupported)
            self._send({"kind": "load_failed", "model": name, "reason": reason, "unsupported": unsupported})
            return
        held = CUDA_BUFFER_BYTES if self._device.startswith("cuda") else 0
        shape = self._shape | {"late_errors": not self._device.startswith("cpu"), "held_bytes": held}
        self._batches[name] = ModelBatch(loaded, card, **shape, prefixes=self._prefixes)
        seconds = {"load_seconds": loaded_at - started, "probe_seconds": time.monotonic() - loaded_at}
        told = {"card": card.to_json(), "prompts": prompt_shape(loaded), "memory": self._prefixes.in_use()}
        self._send({"kind": "loaded", "model": name, **told, **seconds})

    def _unload(self, name: str) -> None:
        batch = self._batches.get(name)
        if batch is not None and not len(batch):
            del self._batches[name], batch
            self._prefixes.forget(name)
            free()

    def _run(self, message: Message) -> None:
        key, batch = message["key"], self._batches.get(message["model"])
        self._send({"kind": "counting", "key": key})  # before it can die of that
        try:
            if batch is None:
                raise ClientError("internal_error", f"{message['model']} is not loaded")
            job = make_job(message, batch.loaded)
        except Exception as error:  # noqa: BLE001 - one job's odd text must not end the others
            unread = ClientError("internal_error", f"the prompt could not be read: {type(error).__name__}")
            refusal = error if isinstance(error, ClientError) else unread
            self._send({"kind": "refused", "key": key, "error": refusal.body()})
            return
        self._telling.catch_up(self._prefixes.in_use, self._untold)
        counts = {"prompt_tokens": len(job.prompt), "max_tokens": job.max_tokens}
        self._send({"kind": "sized", "key": key} | counts)
        self._ungranted[key] = (batch, job)

    def _grant(self, key: str) -> None:
        batch, job = self._ungranted.pop(key, (None, None))
        if batch is None or job is None:
            return
        keys = [*batch.keys, key]
        try:
            done = batch.add(job)
        except Exception as error:  # noqa: BLE001 - as in a step
            self._give_up(batch, error, keys)
            return
        if done is not None:
            self._telling.tell([done], self._prefixes.in_use, self._untold)

    def _remove(self, key: str, *, asked: bool = False) -> None:
        self._ungranted.pop(key, None)
        for batch in self._batches.values():
            keys = [each for each in batch.keys if each != key]
            try:
                if batch.remove(key) and not len(batch):
                    batch.abandon()
                    free()
            except Exception as error:  # noqa: BLE001 - as in a step
                self._give_up(batch, error, keys)
        if asked:
            self._send({"kind": "removed", "key": key})

    def _measure(self, _: Message) -> None:
        """Read anew what the host can give, and keep no more than that."""
        reading = self._budget.read(time.monotonic())
        self._send({"kind": "measured", "memory": self._prefixes.heed(reading), **reading})

    def _guard(self, batch: ModelBatch) -> bool:
        """Make room for a batch's next step; False where it has no job left to step."""
        dropped, others = False, [each for each in self._batches.values() if each is not batch]
        while len(batch):
            jobs = sum(each.running for each in self._batches.values())
            used, budget = self._prefixes.used_bytes, self._budget.limit_bytes(jobs)
            growth = batch.foresee(budget - used, others)
            if self._prefixes.within(budget - growth):
                continue  # the step's prompts may have begun with what was dropped
            done = dropped or self._budget.dropped(jobs)
            caches = mx.get_cache_memory() + self._prefixes.kept_bytes
            action = check(used, caches, growth, budget, jobs, dropped=done)
            if action is Action.GO:
                self._keep_account(batch, growth)
                return True
            if action is Action.SHED:
                victim = youngest_of_lowest([load for each in self._batches.values() for load in each.loads])
                self._send({"kind": "shed", "key": victim.key})
                self._remove(victim.key)
            dropped = True
            self._budget.drop_caches()
        return False

    def _keep_account(self, batch: ModelBatch, growth_bytes: int) -> None:
        """Before a step that takes much, say so: it is the last word of an engine that dies of it."""
        if batch.prompts or growth_bytes > self._budget.now_bytes // _MUCH:
            phase = "prefill" if batch.prompts else "decode"
            need = mx.get_active_memory() + growth_bytes
            self._send({"kind": "account", "need_bytes": need, "phase": phase})

    def _give_up(self, batch: ModelBatch, error: Exception, keys: list[str]) -> None:
        """Tell of every job that was there when MLX raised, whatever became of it since."""
        text = f"{type(error).__name__}: {error}"
        memory = self._prefixes.in_use()
        batch.abandon()
        self._prefixes.shrink(0)
        self._budget.ran_out()
        error.__traceback__ = None  # its frames hold the failed step's arrays
        try:
            free()
        except RuntimeError as again:  # an error can surface a second time, and say more
            text = f"{text}\n{again}"
            mx.clear_cache()
        self._send({"kind": "raised", "keys": keys, "text": text[:4000], "memory": memory})


def main(read_fd: int, write_fd: int) -> None:
    """Serve until the pipe ends."""
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=read_forever, args=(Receiver(read_fd, read_asked), inbox), daemon=True).start()
    engine = Engine(Sender(write_fd).send)
    while True:
        try:
            engine.handle(inbox.get(block=not engine.busy))
            continue
        except queue.Empty:
            pass
        engine.step()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
