"""What a worker claims that was beaten to a job: one a few places behind, since others are at the first ones too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scheduler.admission import Candidate, Choice, Limits, Look, claimable_row
from scheduler.ledger import Ledger

MOST_DOUBLINGS: Final = 4
"""A worker that was beaten once draws from two places, then from four; from sixteen at most."""


def places(beaten: int) -> int:
    """From how many places a worker draws that was beaten so often in one claim; one that was not has one."""
    return 1 << min(beaten, MOST_DOUBLINGS)


def step_aside(
    look: Look,
    classes: Sequence[Sequence[Candidate]],
    ledger: Ledger,
    now_seconds: float,
    limits: Limits,
    steps: int,
) -> Choice | None:
    """The job some places behind the one that is due, as if others had taken those between this moment.

    Each that is left to them counts as passed if it waits on: so it is left as often as it may be passed, and
    no oftener. The job is of the same class, and fits as it is; where any job waits for memory or a place, nobody
    steps aside, since what is due then depends on promises.

    Args:
        look: what is due.
        classes: the heads that it came from.
        ledger: the worker's account.
        now_seconds: as :func:`~scheduler.admission.choose` has it.
        limits: the operator's.
        steps: places, at most.
    """
    choice = look.choice
    if choice is None or look.first_blocked is not None:
        return choice
    due = choice.candidate
    own = next(jobs for jobs in classes if due in jobs)
    for behind in own[own.index(due) + 1 :][:steps]:
        row = claimable_row(behind, ledger, now_seconds, limits.company)
        if row is None or choice.candidate.passes >= limits.max_passes:
            break
        choice = Choice(behind, row, (*choice.passed, choice.candidate.job_id))
    return choice
