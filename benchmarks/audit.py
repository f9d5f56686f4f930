"""The audit of a queue on which everything has ended: what was lost, doubled, changed or left behind.

Each rule is a small function that answers findings in words. Those about single jobs are in
:mod:`benchmarks.audit_jobs`, those about what must be gone from the server in :mod:`benchmarks.audit_store`, those about
files and processes in :mod:`benchmarks.audit_host`. ``benchmarks.key_leaks`` has the rules that the tests' own check
for left keys uses.

The figures count what is wrong once for each job, key, file or process, in each column::

    accepted   jobs that a client was told of
    lost       of them, those without a terminal state, last event or result, or whose client never heard of the end
    doubled    those that ended twice, have two results, ran on after their end, or had an event twice; and jobs on the
               server that no client was told of, since a submission that came twice made two
    changed    those whose stream, log, result or polled answers are not the undisturbed run's
    leaked     reservations, leases, locks, keys, registry entries, files and processes that nobody holds any more
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis import Redis

from benchmarks.audit_host import Traces, host_findings
from benchmarks.audit_jobs import Accepted, job_findings
from benchmarks.audit_store import LEASES, read_stored, store_findings
from benchmarks.findings import Column, Finding
from scheduler import fleet
from scheduler.job import TERMINAL
from scheduler.queue import JOBS_KEY

_POLL_SECONDS = 0.05


def audit(connection: Redis, accepted: Sequence[Accepted], *traces: Traces) -> list[Finding]:
    """Everything that is wrong.

    Args:
        connection: a client of the server that answers bytes; nobody else uses the server any more.
        accepted: every job that a client was told of, and what it saw of it.
        traces: what to look for on each host.
    """
    stored = read_stored(connection, [each.job_id for each in accepted])
    found = [finding for each in accepted for finding in job_findings(each, stored[each.job_id])]
    found += store_findings(connection, stored)
    for each in traces:
        found += host_findings(each)
    return found


def figures(accepted: Sequence[Accepted], findings: Iterable[Finding]) -> dict[str, int]:
    """The line's figures: what was accepted, and how much is wrong, by column."""
    wrong = {(finding.column, finding.subject) for finding in findings}
    told = {column.value: sum(each == column for each, _ in wrong) for column in Column}
    return {"accepted": len(accepted), **told}


def tell(findings: Iterable[Finding]) -> None:
    """Say what is wrong, on standard error."""
    for finding in findings:
        print(f"{finding.column.value}: {finding.subject}: {finding.words}", file=sys.stderr)


def wait_for_ends(connection: Redis, seconds: float) -> bool:
    """Wait until every job on the server has ended, or time is up; whether it has."""
    terminal = {state.value for state in TERMINAL}

    def ended() -> bool:
        every: Any = connection.zrange(JOBS_KEY, 0, -1)
        stored = read_stored(connection, [job_id.decode() for job_id in every])
        return all(each.state in terminal for each in stored.values())

    return _wait(ended, seconds)


def wait_for_leases(connection: Redis, seconds: float) -> bool:
    """Wait until the leases of workers that were killed have lapsed, or time is up; whether they have.

    The server takes a name off the list of workers when somebody reads it: this reads it.
    """

    def lapsed() -> bool:
        fleet.live_workers(connection)
        return not any(True for pattern in LEASES for _ in connection.scan_iter(pattern, count=1000))

    return _wait(lapsed, seconds)


def _wait(so: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not so():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True
