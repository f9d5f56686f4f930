"""Proof that a state machine can fail: with a planted bug it must."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from scheduler.errors import TransitionRefused


def fails(
    machine: type[RuleBasedStateMachine],
    capsys: pytest.CaptureFixture[str],
    steps: int = 30,
    **planted: object,
) -> None:
    """Run a machine with a bug planted in it, until it fails; it must.

    Args:
        machine: the machine.
        capsys: swallows what Hypothesis prints of the failure.
        steps: rules of a run.
        planted: attributes of the machine that are replaced.
    """
    broken = type("Broken", (machine,), planted)
    quick = settings(
        max_examples=2000,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, TransitionRefused, pytest.fail.Exception)):
        run_state_machine_as_test(broken, settings=quick)
    capsys.readouterr()
