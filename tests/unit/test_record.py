"""What a job's record makes of fields that whoever writes to the server may have written."""

from __future__ import annotations

from scheduler.foresight import Row
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.record import JobRecord, Meta


def test_no_number_in_a_jobs_fields_keeps_workers_from_the_others() -> None:
    """Less than nothing is nothing: a worker that looks at its queue must not fall over one job."""
    meta = Meta.parse(b'{"prompt_tokens": 10, "max_tokens": 20, "made_tokens": -1}')
    assert JobRecord("job_x", State.QUEUED, meta, 0.0, 0.0).row == Row(10, 20)


def test_what_a_job_of_an_earlier_release_made_is_in_its_result() -> None:
    """Its fields count the attempts before its last alone."""
    meta = Meta.parse(b'{"attempt": 1, "prompt_tokens": 4, "ended_as": "completed", "ended_at": 9.0}')
    outcome = Outcome(State.COMPLETED, {"usage": {"completion_tokens": 7}})
    said = JobRecord("job_x", State.COMPLETED, meta, 0.0, 0.0, outcome=outcome).view()["progress"]
    assert (said["completion_tokens"], said["tokens_per_second"], said["first_token_seconds"]) == (
        7,
        None,
        None,
    )
