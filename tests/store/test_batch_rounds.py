"""A batch's lines run once, and what is wrong with one costs only it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from scheduler.batch import BatchState
from scheduler.errors import ClientError
from scheduler.owner import owner_of
from tests.batching import CHAT, Bench, answer_all, jsonl, line
from tests.conftest import MODEL
from tests.pretend_worker import CARD, PretendWorker

ANN = owner_of("Bearer ann")


def test_a_batch_runs_its_lines_as_jobs_of_its_class(bench: Bench, worker: PretendWorker) -> None:
    """With what the API notes of each; the answers come in the lines' order, and it has ended."""
    batch = bench.begin(*(line(number) for number in range(3)), owner=ANN, a="b")
    assert (batch.status, bench.counts(batch)) == (BatchState.VALIDATING, (0, 0, 0))
    assert bench.step(batch).status is BatchState.IN_PROGRESS
    bench.step(batch)
    jobs = [bench.lifecycle.get(each) for each in bench.jobs(batch)]
    assert {(rec.meta.priority, rec.meta.owner) for rec in jobs} == {("batch", ANN)}
    notes = [rec.envelope["note"]["batch"] for rec in jobs]
    assert notes == [{"id": batch.id, "line": number} for number in (1, 2, 3)]
    assert answer_all(worker) == ["say 0", "say 1", "say 2"]
    batch = bench.until(batch, BatchState.COMPLETED)
    assert (bench.counts(batch), batch.model, batch.metadata) == ((3, 3, 0), MODEL, {"a": "b"})
    assert (batch.input_tokens, batch.output_tokens) == (21, 9)
    assert batch.error_file is None
    said = bench.written(batch.output_file, ANN)
    assert [each["custom_id"] for each in said] == ["r0", "r1", "r2"]
    assert {each["response"]["request_id"] for each in said} == {rec.id for rec in jobs}
    texts = [each["response"]["body"]["choices"][0]["message"]["content"] for each in said]
    assert texts == ["say 0", "say 1", "say 2"]
    assert bench.batches.active() == []
    file = bench.files.get(batch.output_file or "", ANN)
    assert (file.purpose, file.filename, file.expires_at) == (
        "batch_output",
        f"{batch.id}_output.jsonl",
        file.created_at + 7200,
    )


BAD = {
    "a body that its route refuses": (line(1, body={"model": MODEL, "messages": []}), 400),
    "a field that its route does not have": (line(1, body={"model": MODEL, "messages": [], "n": 5}), 400),
    "another model": (line(1, body={"model": "other", "messages": [{"role": "user", "content": "a"}]}), 404),
    "a stream": (
        line(1, body={"model": MODEL, "messages": [{"role": "user", "content": "a"}], "stream": True}),
        400,
    ),
    "more than ever fits": (line(1, "word " * 400_000), 413),
    "no JSON": (b"not json", 400),
    "no name": (line(1, custom_id=None), 400),
    "the name of another": (line(1, custom_id="r0"), 400),
    "another route": (line(1, url="/v1/embeddings"), 400),
    "another method": (line(1, method="GET"), 400),
    "no body": (line(1, body=None), 400),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_costs_only_itself(bench: Bench, worker: PretendWorker, name: str) -> None:
    """It ends in the error file with its own status; the others are answered."""
    worker.report(budget_bytes=CARD.weights_bytes + (50 << 20))
    bad, status = BAD[name]
    batch = bench.begin(line(0), bad, line(2))
    bench.step(batch)
    bench.step(batch)
    assert answer_all(worker) == ["say 0", "say 2"]
    batch = bench.until(batch, BatchState.COMPLETED)
    assert bench.counts(batch) == (3, 2, 1)
    assert [each["custom_id"] for each in bench.written(batch.output_file)] == ["r0", "r2"]
    (told,) = bench.written(batch.error_file)
    assert told["response"]["status_code"] == status
    assert told["response"]["body"]["error"]["status"] == status
    assert told["error"] is None


def test_a_line_whose_job_fails_is_told_with_the_jobs_error(bench: Bench, worker: PretendWorker) -> None:
    """Its own status; a job that others cancelled is told too."""
    batch = bench.begin(line(0), line(1), line(2))
    bench.step(batch)
    bench.step(batch)
    error = ClientError("insufficient_memory", "insufficient memory", retry_after=1)
    worker.fail(worker.claim(), error)
    bench.lifecycle.cancel(bench.jobs(batch)[2])
    answer_all(worker)
    batch = bench.until(batch, BatchState.COMPLETED)
    failed = bench.written(batch.error_file)
    assert [(each["custom_id"], each["response"]["status_code"]) for each in failed] == [
        ("r0", 503),
        ("r2", 409),
    ]
    assert failed[0]["response"]["body"]["error"] == error.body()


def test_a_job_that_is_gone_is_told_as_lost(connection: Redis, bench: Bench, worker: PretendWorker) -> None:
    """Others emptied the queue: the line is in the error file, and the batch ends."""
    batch = bench.begin(line(0), line(1))
    bench.step(batch)
    bench.step(batch)
    gone = bench.jobs(batch)[1]
    worker.complete(worker.claim(gone), "x")
    connection.delete(f"rq:job:{gone}", f"rq:results:{gone}")
    answer_all(worker)
    batch = bench.until(batch, BatchState.COMPLETED)
    (told,) = bench.written(batch.error_file)
    assert (told["custom_id"], told["response"]["status_code"]) == ("r1", 500)
    assert gone in told["response"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        (b"", [("empty_file", None)]),
        (b"\n  \n", [("empty_file", None)]),
        (b"x\n\n[]", [("invalid_json_line", 1), ("invalid_json_line", 3)]),
        (jsonl(line(1, url="/v1/other")), [("mismatched_url", 1)]),
        (b"\n" + jsonl(line(1)) * 50_001, [("too_many_lines", None)]),
    ],
    ids=["empty", "blank", "no JSON", "another route", "too many"],
)
def test_a_file_without_a_line_to_run_fails(
    bench: Bench, data: bytes, errors: list[tuple[str, int | None]]
) -> None:
    """With the numbers of its lines and what is wrong; nothing ran."""
    batch = bench.batches.create("", CHAT, bench.upload(data), None, 7200)
    batch = bench.step(batch)
    assert batch.status is BatchState.FAILED
    assert [(error.code, error.line) for error in batch.errors] == errors
    assert (batch.view()["failed_at"], batch.output_file, batch.error_file) == (
        int(bench.clock()),
        None,
        None,
    )
    assert bench.lifecycle.page().records == ()
    assert bench.batches.active() == []


def test_a_failed_batch_tells_a_hundred_faults(bench: Bench) -> None:
    """No more, however many lines there are."""
    batch = bench.step(bench.begin(*[b"x"] * 300))
    assert (batch.status, len(batch.errors)) == (BatchState.FAILED, 100)


def test_a_batch_whose_input_is_lost_ends(connection: Redis, bench: Bench, worker: PretendWorker) -> None:
    """With the answers that there are; the lines that nobody can name are counted as failed."""
    batch = bench.begin(*(line(number) for number in range(4)))
    bench.step(batch)
    bench.step(batch, most_running=2)
    answer_all(worker)
    connection.delete(f"tidegate:file:{batch.input_file_id}:data")
    batch = bench.until(batch, BatchState.COMPLETED)
    assert (bench.counts(batch), len(bench.written(batch.output_file))) == ((4, 2, 2), 2)


@pytest.mark.parametrize("planted", [b"", b"7", b"[1, 2]", b'["job_x", "r0"]', b"[" * 99_999])
def test_what_others_write_among_running_lines_is_let_be(
    connection: Redis, bench: Bench, worker: PretendWorker, planted: bytes
) -> None:
    """The batch ends all the same."""
    batch = bench.begin(line(0))
    bench.step(batch)
    bench.step(batch)
    connection.hset(f"tidegate:batch:{batch.id}:running", "9", planted)  # type: ignore[arg-type]
    connection.hset(f"tidegate:batch:{batch.id}:results", "1", b"junk")  # type: ignore[arg-type]
    answer_all(worker)
    assert bench.counts(bench.until(batch, BatchState.COMPLETED)) == (1, 1, 0)


def test_a_batch_that_another_moved_is_let_be(bench: Bench, worker: PretendWorker) -> None:
    """What was read before moves nothing, and takes no line again."""
    batch = bench.begin(line(0), line(1))
    bench.step(batch)
    seen = bench.now(batch)
    bench.step(batch)
    assert not bench.rounds._feed(seen, 5)
    assert bench.lifecycle.queue.waiting()[0] == 2
    answer_all(worker)
    bench.until(batch, BatchState.COMPLETED)
    stale = replace(seen, status=BatchState.FINALIZING)
    before = len(bench.files.page("", limit=99).files)
    assert not bench.rounds._ending.write(stale, ())
    assert len(bench.files.page("", limit=99).files) == before
