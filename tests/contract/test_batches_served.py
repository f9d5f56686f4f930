"""Files and batches under gunicorn and gevent, by the official client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from redis import Redis

from scheduler.batches import FEEDER_KEY
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from tests.batching import CHAT, jsonl, line
from tests.contract.served import serve
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="ann", max_retries=0, timeout=20) as client:
        yield client


def begin(sdk: openai.OpenAI, *lines: object) -> str:
    """Upload lines and begin a batch; its id."""
    file = sdk.files.create(file=("lines.jsonl", jsonl(*lines)), purpose="batch")
    batch = sdk.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    return batch.id


def until(sdk: openai.OpenAI, batch_id: str, status: str) -> openai.types.Batch:
    """Poll a batch until it has a status."""
    wait_until(lambda: sdk.batches.retrieve(batch_id).status == status, f"{batch_id} {status}", 30)
    return sdk.batches.retrieve(batch_id)


def entries(sdk: openai.OpenAI, file_id: str | None) -> list[dict[str, object]]:
    """What a batch wrote."""
    assert file_id is not None
    return [json.loads(each) for each in sdk.files.content(file_id).text.splitlines()]


def test_fifty_lines_with_a_bad_one(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """Forty-nine answers in the lines' order, one error, each under its name."""
    lines = [line(number, f"say {number}") for number in range(50)]
    lines[17]["body"]["temperature"] = 99
    with worker.answering():
        batch = until(sdk, begin(sdk, *lines), "completed")
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
        50,
        49,
        1,
    )
    said = entries(sdk, batch.output_file_id)
    assert [each["custom_id"] for each in said] == [f"r{number}" for number in range(50) if number != 17]
    for each in said:
        completion = openai.types.chat.ChatCompletion.model_validate(each["response"]["body"])  # type: ignore[index]
        assert completion.choices[0].message.content == f"say {str(each['custom_id'])[1:]} "
    (bad,) = entries(sdk, batch.error_file_id)
    assert bad["custom_id"] == "r17"
    assert bad["response"]["status_code"] == 400  # type: ignore[index]
    assert bad["response"]["body"]["error"]["param"] == "temperature"  # type: ignore[index]
    assert batch.usage is not None
    assert batch.usage.total_tokens == 490


def test_a_batch_is_cancelled(sdk: openai.OpenAI, worker: PretendWorker, lifecycle: Lifecycle) -> None:
    """Its lines leave the queue, and it ends."""
    batch_id = begin(sdk, *(line(number) for number in range(5)))
    wait_until(lambda: lifecycle.queue.waiting()[0] == 5, "its lines wait")
    assert sdk.batches.cancel(batch_id).status == "cancelling"
    batch = until(sdk, batch_id, "cancelled")
    assert lifecycle.queue.waiting()[0] == 0
    assert {rec.state for rec in lifecycle.page().records} == {State.CANCELLED}
    assert batch.output_file_id is None
    codes = {each["error"]["code"] for each in entries(sdk, batch.error_file_id)}  # type: ignore[index]
    assert codes == {"batch_cancelled"}


def test_files_are_kept_for_the_official_client(sdk: openai.OpenAI, connection: Redis) -> None:
    """Made, listed over pages, read, deleted; errors as it names them."""
    made = [
        sdk.files.create(
            file=b"{}\n",
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        for _ in range(3)
    ]
    assert [file.id for file in sdk.files.list(limit=2)] == [file.id for file in reversed(made)]
    assert [file.id for file in sdk.files.list(order="asc", purpose="batch")] == [file.id for file in made]
    file = sdk.files.retrieve(made[0].id)
    assert (file.expires_at or 0) - file.created_at == 3600
    assert sdk.files.content(file.id).read() == b"{}\n"
    assert sdk.files.wait_for_processing(file.id).status == "processed"
    assert sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.content(file.id)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.files.create(file=b"x", purpose="fine-tune")
    assert caught.value.param == "purpose"


def test_batches_are_listed_for_the_official_client(sdk: openai.OpenAI, connection: Redis) -> None:
    """Over pages; one that has no line to run has failed, and says where."""
    ids = [begin(sdk, b"not json") for _ in range(3)]
    assert [batch.id for batch in sdk.batches.list(limit=2)] == list(reversed(ids))
    batch = until(sdk, ids[0], "failed")
    assert batch.errors is not None
    assert [(error.code, error.line) for error in batch.errors.data or ()] == [("invalid_json_line", 1)]


def test_a_batch_goes_on_when_the_api_is_back(
    valkey_url: str, worker: PretendWorker, lifecycle: Lifecycle, tmp_path: Path
) -> None:
    """It pauses while nobody feeds it; the next process goes on by itself, and no line runs twice."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with serve(valkey_url, tmp_path / "one") as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="ann", max_retries=0) as sdk:
            batch_id = begin(sdk, *(line(number) for number in range(4)))
        wait_until(lambda: lifecycle.queue.waiting()[0] == 4, "its lines wait")
    for _ in range(4):
        worker.complete(worker.claim(), "x")
    assert not lifecycle.connection.exists(FEEDER_KEY)  # it resigned: nobody waits for its lease
    with serve(valkey_url, tmp_path / "two") as url:
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="ann", max_retries=0)
        batch = until(sdk, batch_id, "completed")
        assert len(entries(sdk, batch.output_file_id)) == 4
        sdk.close()
    assert len(lifecycle.page().records) == 4


def test_requests_are_answered_while_a_file_is_uploaded(
    url: str, sdk: openai.OpenAI, connection: Redis
) -> None:
    """Forty megabytes, as fast as they come; nobody waits for a second meanwhile."""
    slowest, answers = 0.0, 0
    data = jsonl(*(line(number) for number in range(1000))) * 250
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=url, trust_env=False, timeout=20) as http:
        made = pool.submit(sdk.files.create, file=("lines.jsonl", data), purpose="batch")
        while not made.done():
            began = time.monotonic()
            assert http.get("/healthz").status_code == 200
            slowest, answers = max(slowest, time.monotonic() - began), answers + 1
    assert made.result().bytes == len(data)
    assert answers > 5
    assert slowest < 1


def test_requests_are_answered_while_a_batch_is_read(url: str, sdk: openai.OpenAI, connection: Redis) -> None:
    """Twenty thousand lines are looked at; nobody waits for a second meanwhile."""
    data = jsonl(*(line(number) for number in range(20_000)))
    slowest = 0.0
    file = sdk.files.create(file=("lines.jsonl", data), purpose="batch")
    batch = sdk.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as http:
        while sdk.batches.retrieve(batch.id).status == "validating":
            began = time.monotonic()
            assert http.get("/healthz").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1
    sdk.batches.cancel(batch.id)
    until(sdk, batch.id, "cancelled")
