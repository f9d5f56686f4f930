"""An RQ worker that runs many jobs at once on one engine: ``rq worker -w workers.MetalWorker``.

It keeps RQ's work loop and overrides how a job is dequeued (a claim that knows the memory; while it waits it pumps the
engine) and how it is executed (handed to the engine). RQ's records of every running job stay true.
"""

from __future__ import annotations

import contextlib
import math
import queue
import signal
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final

import structlog
from rq import Queue
from rq.command import parse_payload
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus

from scheduler import process_log, tracing
from scheduler.holding import Held
from scheduler.lifecycle import Lifecycle
from scheduler.queue import inbox_channel
from scheduler.reasons import Reason
from scheduler.settings import load
from scheduler.waiting import WAKE_CHANNEL
from workers.generation_job import GenerationJob
from workers.reporting import store_may_be_away
from workers.runner import TICK_SECONDS, Runner
from workers.steadfast import Steadfast, be_quick

log = structlog.get_logger(__name__)

_HEARTBEAT_SECONDS: Final = 15.0
_BEAT_SECONDS: Final = 5.0
_SAME_SIGNAL_SECONDS: Final = 1.0  # a pool and a terminal both send one


class MetalWorker(Steadfast, BaseWorker):
    """See the module. Settings are read from the environment when it is made."""

    def __init__(self, queues: Iterable[Any], *args: Any, **kwargs: Any) -> None:
        given = list(queues)
        if not kwargs.get("connection"):
            kwargs["connection"] = next((each.connection for each in given if isinstance(each, Queue)), None)
        # Never pickle, nor import what a job names, whatever the command line says: RQ makes queues of names by these.
        kwargs |= {"serializer": JSONSerializer, "job_class": GenerationJob}
        super().__init__([each.name if isinstance(each, Queue) else each for each in given], *args, **kwargs)
        self._runner: Runner | None = None
        self._held: Held | None = None
        self._unwanted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._next_heartbeat = self._next_beat = self._next_look = 0.0
        self._suspended = self._cold = False
        self._stop_by = math.inf

    # RQ's life of a worker

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Start the engine beside RQ's own start."""
        settings = load()
        process_log.begin(settings)
        be_quick(self.connection, settings.lease_seconds)
        lifecycle = Lifecycle(self.connection, settings)
        self._spans = lifecycle.spans = tracing.begin(settings, "tidegate-worker", self.name)
        self._runner = Runner(lifecycle, self.name, self.queue_names(), patient=self._patient)
        super().bootstrap(*args, **kwargs)
        self._install_signal_handlers()  # an engine must not be left to a signal's default
        self._runner.open()

    def teardown(self) -> None:
        """Put back what still runs, end the engine, leave."""
        runner = self._runner
        if runner is not None:
            with store_may_be_away():
                self._drain(runner)
                runner.put_back_all(Reason.WORKER_STOPPED)
                self._count_ended(runner)
            with store_may_be_away():
                runner.close()
            if self._spans is not None:
                self._spans.close()
        with store_may_be_away():
            super().teardown()

    def subscribe(self) -> None:
        """Listen to RQ's commands, to news of claimable jobs, and to cancellations."""
        super().subscribe()
        assert self.pubsub is not None
        handlers = {WAKE_CHANNEL: self._on_wake, inbox_channel(self.name): self._on_wake}
        self.pubsub.subscribe(**handlers)

    def run_maintenance_tasks(self) -> None:
        """RQ's, without its way with lost jobs: it fails them, and the runner puts them back."""
        assert self._runner is not None
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ does not annotate it
        with store_may_be_away():
            self._runner.reconcile()
            super().run_maintenance_tasks()

    # Claiming and executing

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job that fits. Until there is one: pump the engine, keep heartbeats, stop when asked."""
        runner = self._runner
        assert runner is not None
        idle_since = time.monotonic()
        while True:
            if self._stop_requested:
                return None
            if runner.refusal is not None:
                raise SystemExit(runner.refusal)  # RQ tears down, and the exit status is 1
            if (held := self._claim(runner)) is not None:
                self._held = held
                return self._rq_job(held)
            if runner.running:
                idle_since = time.monotonic()
            elif (timeout is None and self._settled(runner)) or (
                max_idle_time is not None and time.monotonic() - idle_since >= max_idle_time
            ):
                return None
            self._go_round(runner)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Hand the job that was just claimed to the engine, and return."""
        assert self._runner is not None
        assert self._held is not None
        held, self._held = self._held, None
        self._runner.launch(held)
        with store_may_be_away():
            self._become(WorkerStatus.BUSY)

    # Stopping

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """The second signal: put the jobs back at once instead of letting them finish."""
        asked = self._shutdown_requested_date
        if asked is not None and (now() - asked).total_seconds() < _SAME_SIGNAL_SECONDS:
            return
        self.log.warning("Worker %s: cold shut down", self.name)
        self._cold = True
        self._poke()

    def _install_signal_handlers(self) -> None:
        """RQ's, which installs them anew after the start; by then the first signal may have come."""
        if not self._stop_requested:
            super()._install_signal_handlers()

    def _shutdown(self) -> None:
        """Asked to stop: the loop sees it before its next claim. RQ would raise in the midst of one."""
        self._stop_requested = True
        if self._runner is not None:
            self._stop_by = time.monotonic() + self._runner.settings.shutdown_grace
        self._poke()

    def _patient(self) -> bool:
        """Whether there is time to wait for a store that does not answer."""
        return not self._cold and time.monotonic() < self._stop_by

    def _drain(self, runner: Runner) -> None:
        """Let running jobs finish, for as long as the settings allow."""
        if not self._stop_requested:
            self._stop_by = time.monotonic() + runner.settings.shutdown_grace
        while runner.running and self._patient():
            self._go_round(runner)

    # Commands, from RQ's thread; done in the loop

    def handle_payload(self, message: dict[str, Any]) -> None:
        """RQ's commands; those about jobs are about any of the running ones."""
        # Whoever sent it, the next command must still be heard.
        with contextlib.suppress(AttributeError, LookupError, RecursionError, TypeError, ValueError):
            payload = parse_payload(message)
            if payload.get("command") == "stop-job":
                self._unwanted.put(str(payload.get("job_id")))
                self._poke()
            else:
                super().handle_payload(message)

    def request_stop_execution(self, execution_id: str) -> None:
        """Stop one of the running jobs."""
        if (execution := self.executions.get(execution_id)) is not None:
            self._unwanted.put(execution.job_id)
            self._poke()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """End the engine; its jobs go on in the next one."""
        if self._runner is not None:
            self._runner.supervisor.kill()

    @property
    def horse_pid(self) -> int:
        """The engine's process id."""
        return self._runner.supervisor.pid if self._runner is not None else 0

    def check_for_suspension(self, burst: bool) -> None:
        """A suspended worker claims nothing and goes on with what runs; in burst mode it leaves."""
        with store_may_be_away():
            self._look_whether_suspended(at_once=burst)
        if burst and self._suspended and not (self._runner and self._runner.running):
            raise StopRequested

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """RQ's, which asks for one after every job; a server that is away does not end the worker."""
        if pipeline is None and time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + _BEAT_SECONDS
        with store_may_be_away():
            super().heartbeat(timeout, pipeline)

    # Details of the loop

    def _go_round(self, runner: Runner) -> None:
        """Hear the engine and the commands, keep what must be kept alive."""
        with store_may_be_away():
            runner.pump(TICK_SECONDS)
            if unwanted := [self._unwanted.get() for _ in range(self._unwanted.qsize())]:
                runner.cancel(unwanted)
            self._keep_heartbeats(runner)
        if (
            self.should_run_maintenance_tasks
        ):  # RQ's loop looks between two jobs alone, and none may ever come
            self.run_maintenance_tasks()

    def _settled(self, runner: Runner) -> bool:
        with store_may_be_away():
            return runner.settled
        return False  # nobody knows

    def _claim(self, runner: Runner) -> Held | None:
        with store_may_be_away():
            if runner.running:
                runner.listen()
            return None if self._suspended else runner.claim()
        return None

    def _keep_heartbeats(self, runner: Runner) -> None:
        """What RQ's monitor does for its one horse, for every running job."""
        held = {str(job.rec.meta.execution_id): job for job in runner.running.values()}
        self.executions = {
            key: self.executions.get(key) or Execution(key, job.rec.id, self.connection, self.name)
            for key, job in held.items()
        }
        if not held:
            self._become(WorkerStatus.IDLE)
        self._look_whether_suspended()
        moment = time.monotonic()
        if moment < self._next_heartbeat:
            return
        self._next_heartbeat = moment + min(_HEARTBEAT_SECONDS, self.job_monitoring_interval / 2)
        runner.beat(self.executions, self.job_monitoring_interval + 60)  # as RQ's monitor has it
        self._count_ended(runner)

    def _look_whether_suspended(self, *, at_once: bool = False) -> None:
        """Once a second, as RQ's own workers do."""
        moment = time.monotonic()
        if at_once or moment >= self._next_look:
            self._next_look = moment + TICK_SECONDS
            self._suspended = is_suspended(self.connection, self)

    def _count_ended(self, runner: Runner) -> None:
        """Add the jobs that ended since the last time to RQ's counters of this worker."""
        succeeded, failed = runner.ended
        with self.connection.pipeline(transaction=False) as pipeline:
            for _ in range(succeeded - self.successful_job_count):
                self.increment_successful_job_count(pipeline)
            for _ in range(failed - self.failed_job_count):
                self.increment_failed_job_count(pipeline)
            pipeline.execute()
        self.successful_job_count, self.failed_job_count = succeeded, failed

    def _become(self, state: WorkerStatus) -> None:
        if self.get_state() != state:
            self.set_state(state)

    def _rq_job(self, held: Held) -> tuple[Job, Queue]:
        assert self._runner is not None
        job = self._runner.rq_job(held)
        return job, next(each for each in self.queues if each.name == job.origin)

    def _on_wake(self, message: dict[str, Any]) -> None:
        if message["channel"] != WAKE_CHANNEL.encode():
            self._unwanted.put(message["data"].decode(errors="replace"))
        self._poke()

    def _poke(self) -> None:
        if self._runner is not None:
            self._runner.poke()
