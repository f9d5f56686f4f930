"""The one error table, and what clients are told of memory."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest

import scheduler
from scheduler.blame import Failure, Fault, judge_failure
from scheduler.errors import TABLE, ClientError, clamp_retry_after, gib, so_many
from scheduler.foresight import Row
from scheduler.record import Meta
from scheduler.refusals import never_fits, not_served
from scheduler.verdict import Decision, WorkerView, judge
from tests.pretend_worker import CARD

ROOT = Path(scheduler.__file__).parents[1]
CONTRACT = {
    "invalid_request": (400, False),
    "unauthorized": (401, False),
    "forbidden": (403, False),
    "not_found": (404, False),
    "model_not_found": (404, False),
    "idempotency_mismatch": (422, False),
    "memory_never_fits": (413, False),
    "rate_limit_exceeded": (429, True),
    "queue_full": (503, True),
    "no_worker": (503, True),
    "queue_timeout": (503, True),
    "storage_full": (503, True),
    "insufficient_memory": (503, True),
    "worker_killed": (500, False),
    "internal_error": (500, False),
    "engine_timeout": (504, True),
    "run_timeout": (504, False),
}
HISTORY_IS_DELETED_FOR = ("context length", "maximum context", "too long")


@pytest.mark.parametrize("code", CONTRACT)
def test_the_table_says_what_the_contract_says(code: str) -> None:
    """Status and whether a retry can help, code by code (DESIGN, the contract)."""
    assert (TABLE[code].status, TABLE[code].retryable) == CONTRACT[code]


def test_every_code_in_the_source_has_a_row() -> None:
    """Nobody raises a ClientError, or is given a code, that the table does not have."""
    used: dict[str, str] = {}
    for room in ("api", "scheduler", "workers"):
        for path in (ROOT / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                called = (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id == "ClientError"
                )
                if called and node.args and isinstance(node.args[0], ast.Constant):
                    used[str(node.args[0].value)] = path.name
    assert len(used) > 8
    assert {code: name for code, name in used.items() if code not in TABLE} == {}


@pytest.mark.parametrize("code", TABLE)
def test_only_what_a_retry_can_mend_says_when(code: str) -> None:
    """``retry_after`` stands in the body exactly where the row says that a retry can help."""
    body = ClientError(code, "why", retry_after=7).body()
    assert body.get("retry_after") == (7 if TABLE[code].retryable else None)
    assert body["retryable"] is TABLE[code].retryable
    assert ("retry_after" in body) is TABLE[code].retryable


def test_an_unknown_code_cannot_be_raised() -> None:
    """A code without a row is a bug found where it is raised."""
    with pytest.raises(KeyError):
        ClientError("teapot", "short and stout")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, 1),
        (0, 1),
        (-5, 1),
        (0.2, 1),
        (1, 1),
        (1.0001, 2),
        (11.9, 12),
        (119.5, 120),
        (120, 120),
        (120.5, 120),
        (1e300, 120),
        (math.inf, 120),
        (-math.inf, 1),
    ],
)
def test_retry_after_is_whole_seconds_from_1_to_120(seconds: float | None, said: int) -> None:
    """Never sooner than asked, never more than the OpenAI client heeds, whatever was computed."""
    assert clamp_retry_after(seconds) == said
    assert isinstance(clamp_retry_after(seconds), int)


def test_retry_after_survives_nonsense() -> None:
    """A rate that was not a number still gives a Retry-After, not a second error."""
    assert 1 <= clamp_retry_after(math.nan) <= 120


@pytest.mark.parametrize("code", TABLE)
def test_an_error_is_read_back_from_its_body(code: str) -> None:
    """Through JSON and back: the body says all that there is to say."""
    error = ClientError(
        code, "why ünï", param="a.b", retry_after=33.3, limit_bytes=5, source="a host", none=None
    )
    again = ClientError.from_body(json.loads(json.dumps(error.body())))
    assert again.body() == error.body()
    assert (str(again), again.code, again.param, again.numbers) == ("why ünï", code, "a.b", error.numbers)


@pytest.mark.parametrize(
    "body", [{}, {"code": "from_the_future", "message": "m"}, {"code": None}, {"code": 5}]
)
def test_a_body_of_another_version_reads_as_internal_error(body: dict[str, object]) -> None:
    """An unknown code is nobody's fault but ours, and is not retried."""
    assert ClientError.from_body(body).code == "internal_error"


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("died", [True, False])
def test_memory_is_never_called_context(fault: Fault, *, died: bool) -> None:
    """Clients match those words and throw history away; whatever ended the job, they are not said."""
    failure = Failure(fault, died=died, company=1, limit_bytes=1 << 30)
    verdict = judge_failure(Meta(failures=9, estimated_bytes=1 << 40), failure, 3, 5.0)
    messages = [str(verdict)] if isinstance(verdict, ClientError) else []
    messages.append(never_fits("job_x", 10 << 30, 5 << 30).message)
    assert not [m for m in messages for words in HISTORY_IS_DELETED_FOR if words in m.lower()]


def test_no_message_in_the_source_has_words_that_delete_history() -> None:
    """Not in any string of the rooms that can reach a client, except to say that they are not said."""
    found = []
    for room in ("scheduler", "workers"):
        for path in (ROOT / room).glob("*.py"):
            tree = ast.parse(path.read_text())
            documented = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in documented
                ):
                    found += [f"{path.name}: {w}" for w in HISTORY_IS_DELETED_FOR if w in node.value.lower()]
    assert found == []


def test_memory_messages_give_both_numbers() -> None:
    """What is needed and what there is, for people in the text and for programs beside it."""
    error = never_fits("job_7f3", 23 << 30, 18 << 30)
    assert error.message == "job_7f3 needs 23.0 GiB of memory; the largest budget here is 18.0 GiB"
    assert error.numbers == {"estimated_bytes": 23 << 30, "limit_bytes": 18 << 30}
    assert error.row.status == 413


def test_never_fits_and_fits_later_look_different() -> None:
    """413 without a retry for what no worker could hold; nothing of the sort for what only waits."""
    small = WorkerView("w", CARD.weights_bytes, 512, frozenset({CARD.model}), {CARD.model: CARD})
    assert judge([small], CARD.model, Row(1, 1)).decision is Decision.NEVER_FITS
    assert not TABLE["memory_never_fits"].retryable
    assert TABLE["insufficient_memory"].retryable
    assert TABLE["memory_never_fits"].status != TABLE["insufficient_memory"].status


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 20, "3.0 MiB"),
        (23 << 30, "23.0 GiB"),
        (-2 << 30, "-2.0 GiB"),
    ],
)
def test_bytes_are_said_as_people_read_them(count: int, text: str) -> None:
    """In powers of 1,024, with their unit."""
    assert gib(count) == text


@pytest.mark.parametrize(
    ("served", "said"),
    [
        ((), "none is"),
        (("b", "a"), "served: a, b"),
        (("f", "e", "d", "c", "b", "a"), "served: a, b, c, d and 2 more"),
    ],
)
def test_a_model_that_is_not_served_comes_with_some_that_are(served: tuple[str, ...], said: str) -> None:
    """A few names, for whoever misspelt one; the list is elsewhere."""
    error = not_served("gpt-4o", served)
    assert error.message == f"the model 'gpt-4o' is not served here; {said}"
    assert (error.code, error.param) == ("model_not_found", "model")


def test_no_name_makes_a_message_long() -> None:
    """Neither the client's nor an operator's."""
    assert len(not_served("x" * 10_000, ["y" * 10_000] * 9).message) < 2000


def test_one_is_not_several() -> None:
    """As people count."""
    assert [so_many(count, "job") for count in (0, 1, 2, 1200)] == ["0 jobs", "1 job", "2 jobs", "1,200 jobs"]
