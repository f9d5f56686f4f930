"""What others wrote in the place of a job's log, or of its hash: that job alone suffers."""

from __future__ import annotations

import pytest
from redis import Redis
from rq.job import Job

from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.strays import mend
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.test_other_hands import claiming


@pytest.mark.parametrize(
    ("kind", "data"), [(b"\xff", "{}"), ("delta", "{"), ("delta", '{"tokens": [-1]}'), ("delta", "5")]
)
def test_a_job_whose_log_others_wrote_ends_with_an_error_and_the_next_runs(
    connection: Redis,
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    kind: str | bytes,
    data: str,
) -> None:
    """Nobody knows what it has so far, and no worker falls over it."""
    broken, sound = submit(), submit()
    connection.xadd(f"tidegate:events:{broken.id}", {"kind": kind, "data": data}, "2-0")
    claims, ledger = claiming(lifecycle, worker)
    held = claims.claim(ledger, None) or claims.claim(ledger, None)
    assert held is not None
    assert held.rec.id == sound.id
    ended = lifecycle.get(broken.id)
    assert ended.outcome is not None and ended.outcome.error is not None
    assert (ended.state, ended.outcome.error["message"]) == (
        State.FAILED,
        "entry 2-0 of the job's log cannot be read",
    )


def test_a_job_whose_keys_have_another_type_stands_in_nobodys_way(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Of its hash or its log: it is passed over, and those behind it run."""
    hash_, log, sound = submit(), submit(), submit()
    connection.set(Job.key_for(hash_.id), "rubbish")
    connection.set(f"tidegate:events:{log.id}", "rubbish")
    claims, ledger = claiming(lifecycle, worker)
    held = next(filter(None, (claims.claim(ledger, None) for _ in range(3))))
    assert held.rec.id == sound.id
    mend(lifecycle.queue)
    with pytest.raises(ClientError, match="no job"):
        lifecycle.get(hash_.id)
    lifecycle.delete(log.id)
    connection.delete(Job.key_for(hash_.id))
    mend(lifecycle.queue)
