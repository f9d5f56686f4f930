"""Files on the server: stored whole or not at all, bounded, listed, deleted, lapsed."""

from __future__ import annotations

import io
import os

import pytest
from redis import Redis

from scheduler.errors import ClientError, StoreUnavailable
from scheduler.file_keys import BYTES_KEY, ENDS_KEY, OWNERS_KEY, SIZES_KEY, data_key, file_key
from scheduler.files import Files
from scheduler.owner import owner_of
from scheduler.stored_file import CHUNK_BYTES, StoredFile, pack, unpack
from tests.batching import Bench
from tests.store.conftest import BenchOf
from tests.waiting import Clock

ANN, BOB = owner_of("Bearer ann"), owner_of("Bearer bob")
DAY = 86_400
ACCOUNT = (SIZES_KEY, ENDS_KEY, BYTES_KEY)


def content(files: Files, file: StoredFile) -> bytes:
    """All of a file."""
    return b"".join(files.chunk(file.id, number) for number in range(file.chunks))


def taken(connection: Redis) -> int:
    """What all files take, as it is counted."""
    total = int(connection.get(BYTES_KEY) or 0)  # type: ignore[arg-type]
    assert total == sum(int(slip.split(b" ")[0]) for slip in connection.hvals(SIZES_KEY))  # type: ignore[union-attr]
    assert total == sum(score for _, score in connection.zrange(OWNERS_KEY, 0, -1, withscores=True))  # type: ignore[union-attr,misc]
    return total


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_a_file_is_read_as_it_was_stored(connection: Redis, bench: Bench, size: int) -> None:
    """In chunks, each a command of its own, compressed; every key lapses."""
    data = os.urandom(size // 2) + b"a" * (size - size // 2)
    file = bench.upload(data, ANN)
    assert bench.files.get(file.id, ANN) == file
    assert content(bench.files, file) == data
    assert connection.hlen(data_key(file.id)) == file.chunks == -(-size // CHUNK_BYTES)
    assert taken(connection) < size * 0.7 + 2048
    assert all(0 < connection.ttl(key) <= 30 * DAY for key in connection.scan_iter())  # type: ignore[operator]


def test_a_file_is_its_owners_alone(bench: Bench) -> None:
    """To anybody else it is not there, as one that never was."""
    file = bench.upload(b"x", ANN)
    told = []
    for owner, file_id in ((BOB, file.id), ("", file.id), (ANN, "file-" + "0" * 26), (ANN, "x" * 999)):
        with pytest.raises(ClientError) as caught:
            bench.files.get(file_id, owner)
        told.append((caught.value.code, caught.value.message.replace(file_id[:64], "")))
    assert set(told) == {("not_found", "no file ''")}
    assert bench.files.page(BOB, limit=9).files == ()
    assert bench.files.page(ANN, limit=9).files == (file,)


def test_a_file_over_the_bound_is_refused(bench_of: BenchOf, connection: Redis) -> None:
    """413 with the bound, before anything is stored; one of just that size is taken."""
    bench = bench_of(max_file_bytes=1000)
    with pytest.raises(ClientError) as caught:
        bench.upload(b"x" * 1001)
    assert (caught.value.row.status, caught.value.numbers["limit_bytes"]) == (413, 1000)
    assert connection.dbsize() == 0
    bench.upload(b"x" * 1000)


def test_all_files_have_a_bound_in_common(bench_of: BenchOf, connection: Redis) -> None:
    """503 with what is taken and the bound; deleting makes room."""
    bench = bench_of(max_files_bytes=4000)
    first = bench.upload(os.urandom(900), ANN)
    bench.upload(os.urandom(900), BOB)
    before = taken(connection)
    with pytest.raises(ClientError) as caught:
        bench.upload(b"x", BOB)
    assert (caught.value.code, caught.value.row.status) == ("storage_full", 503)
    assert "3.8 KiB of 3.9 KiB are taken" in caught.value.message
    assert taken(connection) == before
    bench.files.delete(first)
    bench.upload(b"x", BOB)


def test_what_is_being_uploaded_counts(bench_of: BenchOf) -> None:
    """Two at once stay within the bound together."""
    bench = bench_of(max_files_bytes=4000)
    refusals = []

    def read(count: int) -> bytes:
        with pytest.raises(ClientError) as caught:
            bench.upload(b"x" * 1500)
        refusals.append(caught.value.code)
        return b"y" * 1500

    bench.files.upload("", "slow", 1500, read, DAY)
    assert refusals == ["storage_full"]
    bench.upload(b"x" * 1500)  # compressed, the first takes next to nothing


def test_an_upload_that_breaks_off_leaves_nothing(bench_of: BenchOf, connection: Redis, clock: Clock) -> None:
    """Nobody sees it; what it reserved is free again after ten minutes."""
    bench = bench_of(max_files_bytes=CHUNK_BYTES * 3)

    def read(count: int, left: list[bytes] = [b"x" * CHUNK_BYTES]) -> bytes:  # noqa: B006 (once)
        if not left:
            raise StoreUnavailable("gone")
        return left.pop()

    with pytest.raises(StoreUnavailable):
        bench.files.upload(ANN, "broken", CHUNK_BYTES * 2, read, DAY)
    assert bench.files.page(ANN, limit=9).files == ()
    assert all(0 < connection.ttl(key) <= 600 for key in connection.scan_iter())  # type: ignore[operator]
    with pytest.raises(ClientError):
        bench.upload(b"x" * CHUNK_BYTES * 2)
    clock.now += 601
    bench.upload(b"x" * CHUNK_BYTES * 2)


def test_an_upload_that_takes_too_long_is_refused(bench: Bench, clock: Clock, connection: Redis) -> None:
    """What it reserved went to others."""

    def read(count: int) -> bytes:
        clock.now += 601
        bench.files.tidy()
        return b"x"

    with pytest.raises(ClientError) as caught:
        bench.files.upload("", "slow", 1, read, DAY)
    assert caught.value.code == "storage_full"
    assert taken(connection) == 0


def test_a_deleted_file_is_gone(connection: Redis, bench: Bench) -> None:
    """With all that was known of it; once more changes nothing."""
    file = bench.upload(b"x" * 100, ANN)
    bench.files.delete(file)
    bench.files.delete(file)
    for look in (lambda: bench.files.get(file.id, ANN), lambda: bench.files.chunk(file.id, 0)):
        with pytest.raises(ClientError) as caught:
            look()
        assert caught.value.code == "not_found"
    assert taken(connection) == 0
    assert not connection.exists(file_key(file.id), data_key(file.id), SIZES_KEY, ENDS_KEY)


def test_a_file_lapses(connection: Redis, bench: Bench, clock: Clock) -> None:
    """Seen no more from then on; the next upload counts without it."""
    file, kept = bench.upload(b"x" * 100, ANN, seconds=3600), bench.upload(b"y", ANN)
    clock.now += 3599
    assert bench.files.get(file.id, ANN)
    clock.now += 1
    with pytest.raises(ClientError):
        bench.files.get(file.id, ANN)
    assert bench.files.page(ANN, limit=9).files == (kept,)
    more = bench.upload(b"z", ANN)
    assert {name.decode() for name in connection.hkeys(SIZES_KEY)} == {kept.id, more.id}  # type: ignore[union-attr]
    assert not connection.exists(file_key(file.id))


def test_a_file_that_the_server_dropped_is_forgotten(connection: Redis, bench: Bench, clock: Clock) -> None:
    """The list goes on without it; the account too, from the time it was to lapse."""
    file, kept = bench.upload(b"x", ANN, seconds=3600), bench.upload(b"y", ANN)
    connection.delete(file_key(file.id), data_key(file.id))
    assert bench.files.page(ANN, limit=9).files == (kept,)
    assert connection.zcard(f"tidegate:files:of:{ANN}") == 1
    clock.now += 3601
    bench.files.tidy()
    assert connection.hlen(SIZES_KEY) == 1
    assert taken(connection)


def test_files_are_listed_in_pages(bench: Bench, clock: Clock) -> None:
    """Newest first or last, from behind a cursor, of one purpose."""
    files = []
    for _ in range(5):
        clock.now += 1
        files.append(bench.upload(b"x"))
    newest = list(reversed(files))
    page = bench.files.page("", limit=2)
    assert (list(page.files), page.has_more) == (newest[:2], True)
    page = bench.files.page("", limit=3, after=newest[1].id)
    assert (list(page.files), page.has_more) == (newest[2:], False)
    page = bench.files.page("", limit=2, after=files[0].id, order="asc")
    assert (list(page.files), page.has_more) == (files[1:3], True)
    assert bench.files.page("", limit=9, purpose="batch").files == tuple(newest)
    assert bench.files.page("", limit=9, purpose="batch_output").files == ()


def test_a_file_in_use_stays(connection: Redis, bench: Bench, clock: Clock) -> None:
    """It is neither deleted nor lapses before its batch ended."""
    file = bench.upload(b"{}", ANN, seconds=3600)
    batch = bench.batches.create(ANN, "/v1/chat/completions", file, None, 7200)
    with pytest.raises(ClientError) as caught:
        bench.files.delete(file)
    assert (caught.value.code, caught.value.row.status) == ("invalid_request", 400)
    clock.now += 3601
    bench.files.tidy()
    assert content(bench.files, bench.files.get(file.id, ANN)) == b"{}"
    assert connection.ttl(data_key(file.id)) > DAY  # type: ignore[operator]
    bench.step(batch)
    with pytest.raises(ClientError):
        bench.files.get(file.id, ANN)
    bench.files.tidy()
    assert not connection.exists(file_key(file.id), data_key(file.id))


@pytest.mark.parametrize(
    "planted", [{"size_bytes": "x"}, {"owner": "x"}, {"purpose": "vision"}, {"expires_at": "soon"}]
)
def test_what_others_wrote_is_no_file(connection: Redis, bench: Bench, planted: dict[str, str]) -> None:
    """It is not found, and left out of lists."""
    file = bench.upload(b"x")
    connection.hset(file_key(file.id), mapping=planted)
    with pytest.raises(ClientError) as caught:
        bench.files.get(file.id, planted.get("owner", ""))
    assert caught.value.code == "not_found"
    assert bench.files.page("", limit=9).files == ()


@pytest.mark.parametrize("stored", [b"", b"junk", pack(b"x" * (CHUNK_BYTES + 1)), pack(b"cut short")[:-2]])
def test_what_others_wrote_is_no_chunk(connection: Redis, bench: Bench, stored: bytes) -> None:
    """However small it looks."""
    file = bench.upload(b"x")
    connection.hset(data_key(file.id), "0", stored)  # type: ignore[arg-type]
    with pytest.raises(ClientError):
        bench.files.chunk(file.id, 0)
    with pytest.raises(ValueError, match="chunk"):
        unpack(stored)


def test_an_upload_reads_no_more_than_it_was_told(bench: Bench) -> None:
    """A chunk at a time."""
    asked: list[int] = []
    data = io.BytesIO(b"x" * (CHUNK_BYTES + 5))

    def read(count: int) -> bytes:
        asked.append(count)
        return data.read(count)

    bench.files.upload("", "x", CHUNK_BYTES + 5, read, DAY)
    assert asked == [CHUNK_BYTES, CHUNK_BYTES]
