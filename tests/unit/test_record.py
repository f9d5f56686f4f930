"""What a job's record makes of fields that whoever writes to the server may have written."""

from __future__ import annotations

from scheduler.foresight import Row
from scheduler.job import State
from scheduler.record import JobRecord, Meta


def test_no_number_in_a_jobs_fields_keeps_workers_from_the_others() -> None:
    """Less than nothing is nothing: a worker that looks at its queue must not fall over one job."""
    meta = Meta.parse(b'{"prompt_tokens": 10, "max_tokens": 20, "made_tokens": -1}')
    assert JobRecord("job_x", State.QUEUED, meta, 0.0, 0.0).row == Row(10, 20)
