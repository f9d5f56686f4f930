"""What a job is told that waits for its model to be loaded."""

from __future__ import annotations

import pytest

from scheduler.lifecycle import Lifecycle
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit


@pytest.mark.parametrize(
    ("engine", "cards", "known"), [("measuring", {}, False), ("loading", {}, False), ("ready", None, True)]
)
def test_while_a_model_is_made_ready_no_time_is_promised(
    lifecycle: Lifecycle,
    worker: PretendWorker,
    submit: Submit,
    engine: str,
    cards: dict[str, object] | None,
    known: bool,
) -> None:
    """Nobody knows how long loading and measuring take, and it is not nothing; a position there is all the same."""
    fields = {} if cards is None else {"cards": cards}
    worker.report(engine=f"{engine} {MODEL}", **fields)
    rec = submit()
    queue = lifecycle.view(rec)["queue"]
    assert queue["position"] == 1
    assert (queue["eta_seconds"] is not None) == known
