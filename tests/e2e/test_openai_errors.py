"""What goes wrong as the official client's users meet it: its classes of errors, its retries, keys, lost connections."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import openai
import pytest

from tests.e2e.cutting import losing_the_first
from tests.e2e.test_openai import GREEDY, lines, upload
from tests.e2e.test_openai_responses import ASKED
from tests.e2e.whole import MOST_QUEUED, Whole
from tests.waiting import wait_until

LONG: Any = GREEDY | {"max_tokens": 1500}


@pytest.fixture
def tag() -> Any:
    """Fields by which a test knows its own jobs."""
    return {"metadata": {"test": uuid4().hex}}


def jobs(sdk: openai.OpenAI, tag: Any) -> list[dict[str, Any]]:
    """A test's own jobs, newest first; the client reaches routes that OpenAI has not, too."""
    found: Any = sdk.get("/jobs", cast_to=object)
    return [job for job in found["data"] if job["metadata"] == tag["metadata"]]


def told(error: openai.APIStatusError) -> tuple[int, str | None, str | None]:
    """What a user branches by."""
    return error.status_code, error.code, error.response.headers.get("x-should-retry")


@pytest.mark.parametrize(
    ("fields", "kind", "expected", "param"),
    [
        ({"temperature": 9}, openai.BadRequestError, (400, "invalid_request", "false"), "temperature"),
        ({"model": "other"}, openai.NotFoundError, (404, "model_not_found", "false"), "model"),
        ({"max_tokens": 1_000_000}, openai.APIStatusError, (413, "memory_never_fits", "false"), None),
    ],
)
def test_what_cannot_succeed_is_not_tried_again(
    sdk: openai.OpenAI,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    expected: tuple[int, str, str],
    param: str | None,
) -> None:
    """Under the client's own class for its status; nothing about memory speaks of a context."""
    with pytest.raises(kind) as caught:
        sdk.with_options(max_retries=5).chat.completions.create(**GREEDY | fields)
    assert told(caught.value) == expected
    assert caught.value.param == param
    assert "context" not in caught.value.message and "too long" not in caught.value.message


def test_a_key_used_for_another_request_is_unprocessable(sdk: openai.OpenAI) -> None:
    """The same request finds its job."""
    headers = {"Idempotency-Key": uuid4().hex}
    first = sdk.responses.create(**ASKED, background=True, extra_headers=headers)
    assert sdk.responses.create(**ASKED, background=True, extra_headers=headers).id == first.id
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        sdk.responses.create(**ASKED | {"input": "other"}, background=True, extra_headers=headers)
    assert told(caught.value) == (422, "idempotency_mismatch", "false")


def test_a_chat_that_another_cancelled_is_a_conflict(sdk: openai.OpenAI, tag: Any) -> None:
    """And is not begun anew by the client's retry."""

    def cancel() -> None:
        wait_until(lambda: jobs(sdk, tag), "the job")
        sdk.post(f"/jobs/{jobs(sdk, tag)[0]['id']}/cancel", cast_to=object)

    with beside(cancel), pytest.raises(openai.ConflictError) as caught:
        sdk.with_options(max_retries=2).chat.completions.create(**LONG | {"max_tokens": 100_000}, **tag)
    assert told(caught.value) == (409, "cancelled", "false")
    assert [job["status"] for job in jobs(sdk, tag)] == ["cancelled"]


@contextmanager
def beside(what: Any) -> Iterator[None]:
    """Something is done while the block waits."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


@contextmanager
def on_retry(what: Callable[[], object]) -> Iterator[None]:
    """Something is done when the client says that it will try again."""

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Retrying request"):
                what()

    log, heard = logging.getLogger("openai"), Heard()
    before = log.level
    log.addHandler(heard)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(heard)
        log.setLevel(before)


def test_a_wrong_key_is_an_authentication_error(sdk: openai.OpenAI) -> None:
    """On every route, and it is not tried again."""
    with pytest.raises(openai.AuthenticationError) as caught:
        sdk.with_options(api_key="tg-wrong", max_retries=2).chat.completions.create(**GREEDY)
    assert told(caught.value) == (401, "unauthorized", "false")
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="tg-wrong").models.list()


def test_a_key_may_do_what_it_may(sdk: openai.OpenAI, running: Whole) -> None:
    """Another class of jobs than its own is a permission error."""
    night = sdk.with_options(api_key=running.key("night", "--priority", "batch"))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        night.chat.completions.create(**GREEDY)
    assert told(caught.value) == (403, "forbidden", "false")
    assert night.chat.completions.create(**GREEDY, service_tier="flex").service_tier == "flex"


def test_a_quota_is_a_rate_limit(sdk: openai.OpenAI, running: Whole) -> None:
    """With the seconds after which there is room again."""
    frugal = sdk.with_options(api_key=running.key("frugal", "--tokens-per-minute", "3000"))
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(3):
            frugal.responses.create(**ASKED | {"max_output_tokens": 1400}, background=True)
    assert (caught.value.status_code, caught.value.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120


def test_anothers_things_are_not_found(sdk: openai.OpenAI, running: Whole, tag: Any) -> None:
    """Nor listed: responses, files, batches, jobs."""
    other = sdk.with_options(api_key=running.key("other"))
    said = sdk.responses.create(**ASKED, background=True, **tag)
    file = upload(sdk, lines(1))
    batch = sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    for look in (
        lambda: other.responses.retrieve(said.id),
        lambda: other.responses.cancel(said.id),
        lambda: other.responses.delete(said.id),
        lambda: other.responses.input_items.list(said.id),
        lambda: other.responses.create(**ASKED, previous_response_id=said.id),
        lambda: other.files.retrieve(file.id),
        lambda: other.files.content(file.id),
        lambda: other.files.delete(file.id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.get(f"/jobs/{said.id.replace('resp_', 'job_')}", cast_to=object),
    ):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as caught:
            look()
        assert "not" in (caught.value.code or "") or caught.value.param == "previous_response_id"
    assert file.id not in [each.id for each in other.files.list()]
    assert batch.id not in [each.id for each in other.batches.list()]
    assert jobs(other, tag) == [] != jobs(sdk, tag)


def test_without_a_worker_it_is_an_internal_server_error(sdk: openai.OpenAI, running: Whole) -> None:
    """A 503 that says when to come back; once the worker is heard again, all is well."""
    with running.worker_paused():
        wait_until(lambda: not running.has_worker(), "its lease lapses")
        with pytest.raises(openai.InternalServerError) as caught:
            sdk.chat.completions.create(**GREEDY)
        assert (caught.value.status_code, caught.value.code) == (503, "no_worker")
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120
    assert sdk.chat.completions.create(**GREEDY).choices[0].message.content


def test_the_client_succeeds_by_itself_after_a_503(sdk: openai.OpenAI, running: Whole, tag: Any) -> None:
    """The queue was full; it was emptied once the client had been refused, and its retry comes when it was told to."""
    short: Any = ASKED | {"max_output_tokens": 1}
    sdk.chat.completions.create(**GREEDY)
    wait_until(running.has_pace, "the worker tells its pace")
    with running.worker_paused() as worker:
        with pytest.raises(openai.InternalServerError) as full:
            for _ in range(MOST_QUEUED + 1):
                sdk.responses.create(**short, background=True)
        assert (full.value.status_code, full.value.code) == (503, "queue_full")
        with on_retry(lambda: worker.send_signal(signal.SIGCONT)):
            raw = sdk.with_options(max_retries=3).chat.completions.with_raw_response.create(**GREEDY, **tag)
    assert raw.parse().choices[0].message.content
    assert raw.retries_taken >= 1
    assert len(jobs(sdk, tag)) == 1


def test_a_retry_after_a_lost_connection_finds_its_job(sdk: openai.OpenAI, running: Whole, tag: Any) -> None:
    """A chat that was under way goes on; what the first try was about to be told, the second one is."""
    with losing_the_first(running.url, 0.4) as url:
        retrying = sdk.with_options(base_url=url, max_retries=2)
        raw = retrying.chat.completions.with_raw_response.create(**LONG, **tag)
    assert raw.retries_taken == 1
    assert raw.headers["idempotent-replayed"] == "true"
    said = raw.parse()
    assert said.usage is not None and said.usage.completion_tokens == 1500
    assert [(job["status"], job["attempt"]) for job in jobs(sdk, tag)] == [("incomplete", 1)]


def test_a_retry_finds_its_response_in_the_background(sdk: openai.OpenAI, running: Whole, tag: Any) -> None:
    """Whose id was lost with the connection."""
    with losing_the_first(running.url, 0.4) as url:
        retrying = sdk.with_options(base_url=url, max_retries=2)
        said = retrying.responses.create(**ASKED, background=True, **tag)
    assert [job["id"].replace("job_", "resp_") for job in jobs(sdk, tag)] == [said.id]


def test_a_client_that_leaves_stops_its_job(sdk: openai.OpenAI, tag: Any) -> None:
    """In the middle of a stream, or because it waited as long as it wanted to."""
    endless: Any = GREEDY | {"max_tokens": 100_000}
    with sdk.chat.completions.create(**endless, **tag, stream=True) as stream:
        next(iter(stream))
    with pytest.raises(openai.APITimeoutError):
        sdk.with_options(timeout=0.5).chat.completions.create(**endless, **tag)
    wait_until(lambda: [job["status"] for job in jobs(sdk, tag)] == ["cancelled"] * 2, "both stopped", 20)


def test_an_error_in_a_stream_is_raised(sdk: openai.OpenAI, tag: Any) -> None:
    """With its code, after the text that came before it."""
    endless: Any = GREEDY | {"max_tokens": 100_000}
    stream = sdk.chat.completions.create(**endless, **tag, stream=True, extra_body={"run_timeout": 1})
    text = ""
    with stream, pytest.raises(openai.APIError) as caught:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text
    assert caught.value.code == "run_timeout"
