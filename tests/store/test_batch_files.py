"""Files that batches should not be given: what of them runs, what is told, and what they cost whoever reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis

from scheduler import batch_rounds
from scheduler.batch import BatchState
from scheduler.batch_lines import NUMBERED_MOST
from scheduler.errors import ClientError
from scheduler.file_keys import OWNERS_KEY, owned_key
from tests.batching import CHAT, Bench, answer_all, jsonl, line
from tests.pretend_worker import PretendWorker
from tests.store.conftest import BenchOf

ANN, BOB = "0" * 16, "1" * 16


def written(bench: Bench, data: bytes, worker: PretendWorker) -> tuple[list[str], list[dict[str, Any]]]:
    """What came of a batch over a file: the lines that were answered, and the entries of the others."""
    batch = bench.batches.create("", CHAT, bench.upload(data), None, 7200)
    for _ in range(6):
        bench.step(batch)
        answer_all(worker)
    ended = bench.now(batch)
    assert ended.ended, ended.status
    return [each["custom_id"] for each in bench.written(ended.output_file)], bench.written(ended.error_file)


def test_a_file_as_other_systems_write_it(bench: Bench, worker: PretendWorker) -> None:
    """A mark at its beginning, two characters at a line's end, blank lines, none at the end of the last."""
    data = (
        b"\xef\xbb\xbf" + jsonl(line(0), b"", b" \t", line(1)).replace(b"\n", b"\r\n") + jsonl(line(2))[:-1]
    )
    assert written(bench, data, worker) == (["r0", "r1", "r2"], [])


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xfe{}",
        b'{"custom_id": "\xe4"}',
        b"NaN",
        b'{"custom_id": NaN}',
        b'{"custom_id": "a", "body": {"temperature": Infinity}}',
        b'{"custom_id": "\\ud800"}',
        b'{"custom_id": "a\\u0000"}',
        b"[" * 5000,
        b'{"a":' * 5000,
        b"[]",
        b"1" * 5000,
        b"{}" * 2,
        b'\xef\xbb\xbf{"custom_id": "late mark"}',
    ],
    ids=range(13),
)
def test_a_line_that_is_no_request_costs_only_itself(bench: Bench, worker: PretendWorker, bad: bytes) -> None:
    """It is told by its number, and never quoted; the others are answered."""
    ids, errors = written(bench, jsonl(line(0), bad, line(2)), worker)
    assert ids == ["r0", "r2"]
    (entry,) = errors
    assert (entry["custom_id"], entry["response"]["status_code"]) == (None, 400)
    assert "line 2" in json.dumps(entry)


def test_a_line_that_is_longer_than_any_body_is_not_read_whole(
    bench_of: BenchOf, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413; no more of it is in memory than shows that."""
    kept: list[int] = []
    read = batch_rounds.read_line

    def measured(raw: Any, *rest: Any) -> Any:
        kept.append(len(raw.text))
        return read(raw, *rest)

    monkeypatch.setattr(batch_rounds, "read_line", measured)
    bench = bench_of(max_body_bytes=1000)
    ids, errors = written(bench, jsonl(line(0), b"x" * (3 << 20), line(2)), worker)
    assert ids == ["r0", "r2"]
    assert [entry["response"]["status_code"] for entry in errors] == [413]
    assert max(kept) < 1 << 19


def test_a_file_of_newlines_is_soon_seen_through(bench: Bench, worker: PretendWorker) -> None:
    """It fails as one with too many lines, however little room it took."""
    batch = bench.batches.create(
        "", CHAT, bench.upload(b"\n" * (NUMBERED_MOST + 5) + jsonl(line(0))), None, 7200
    )
    ended = bench.until(batch, BatchState.FAILED)
    assert [error.code for error in ended.errors] == ["too_many_lines"]


def test_a_keys_files_have_a_bound_of_their_own(bench_of: BenchOf, connection: Redis) -> None:
    """503 that says whose; another key's have room, and what is deleted gives it back."""
    bench = bench_of(max_files_bytes_per_key=4000)
    noise = bytes(range(256)) * 6
    first = bench.upload(noise, ANN)
    with pytest.raises(ClientError) as caught:
        for _ in range(9):
            bench.upload(noise, ANN)
    assert (caught.value.code, caught.value.numbers["limit_bytes"]) == ("storage_full", 4000)
    assert "3.9 KiB are taken by files of this API key" in caught.value.message
    bench.upload(noise, BOB)
    bench.files.delete(first)
    bench.upload(b"x", ANN)
    for owner in (ANN, BOB):
        for file in bench.files.page(owner, limit=99).files:
            bench.files.delete(file)
    assert not connection.exists(OWNERS_KEY, owned_key(ANN), owned_key(None))


def test_a_file_larger_than_all_the_room_of_a_key_never_has_any(bench_of: BenchOf, connection: Redis) -> None:
    """Nothing is stored of it."""
    bench = bench_of(max_files_bytes_per_key=1500)
    with pytest.raises(ClientError):
        bench.upload(b"x" * 1000, ANN)
    assert connection.dbsize() == 0
