"""A batch's end: what is known of its lines written into its two files, and told in one swap.

The files are there with the batch's last move, or not at all: what was written by one who died lapses, and
the next one writes anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from scheduler.batch import Batch, BatchEvent, BatchState
from scheduler.batch_lines import Fault, Line, RawLine, unfinished
from scheduler.batch_progress import Progress, Running
from scheduler.batches import Batches
from scheduler.files import Files
from scheduler.stored_file import CHUNK_BYTES, StoredFile, new_file_id
from scheduler.swap import Guard, Swap

_PAGE = 128


class Ending:
    """Ends batches.

    Args:
        files: the store of files.
        batches: the store of batches.
        progress: their lines.
        line: what a line of a batch's input asks.
        lines: the lines of a batch's input, from a byte and a number on.
        breathe: called often; lets others run.
    """

    def __init__(
        self,
        files: Files,
        batches: Batches,
        progress: Progress,
        line: Callable[[Batch, RawLine], Line | Fault],
        lines: Callable[[Batch, int, int], Iterator[RawLine]],
        breathe: Callable[[], None],
    ) -> None:
        self._files, self._batches, self._progress = files, batches, progress
        self._line, self._lines, self._breathe = line, lines, breathe

    def write(self, batch: Batch, running: Sequence[Running]) -> bool:
        """Write a batch's files and end it; False where another did, or it moved.

        Args:
            batch: as it was read.
            running: its lines that are given up.
        """
        output = _Writer(self._files, batch, "output")
        errors = _Writer(self._files, batch, "error")
        for succeeded, entry in self._entries(batch, running):
            (output if succeeded else errors).add(entry)
            self._breathe()
        event = BatchEvent.WRITE
        if batch.status is BatchState.FINALIZING and batch.closed:
            event = BatchEvent.WRITE_LATE
        fields: dict[str, str | int] = {"failed": batch.total - output.count}
        keeps: list[Swap] = []
        for name, writer in (("output_file", output), ("error_file", errors)):
            if writer.count:
                fields[name] = writer.id
                keeps.append(writer.kept(Guard((), 1 + len(keeps), "done")))
        return self._batches.move(batch, event, *keeps, **fields)

    def _entries(self, batch: Batch, running: Sequence[Running]) -> Iterator[tuple[bool, bytes]]:
        """What is written of each line, in their order."""
        given_up = {each.number: each.custom_id for each in running}
        for start in range(1, batch.next_line, _PAGE):
            numbers = range(start, min(start + _PAGE, batch.next_line))
            for number, known in zip(numbers, self._progress.results(batch, numbers), strict=True):
                if known is not None:
                    yield known
                elif number in given_up:
                    yield False, _unfinished(batch, number, given_up[number])
        rest = self._lines(batch, batch.offset, batch.next_line) if batch.looked_at else iter(())
        while lines := list(islice(rest, _PAGE)):
            results = self._progress.results(batch, [raw.number for raw in lines])
            for raw, known in zip(lines, results, strict=True):
                line = self._line(batch, raw)
                if known is not None:
                    yield known
                elif isinstance(line, Line):
                    yield False, _unfinished(batch, raw.number, line.custom_id)


class _Writer:
    """A file as it is written."""

    def __init__(self, files: Files, batch: Batch, name: str) -> None:
        self._files, self._batch, self._name = files, batch, name
        self.id = new_file_id(files.now())
        self.count = 0
        self._pending = bytearray()
        self._size_bytes = self._stored_bytes = self._chunks = 0

    def add(self, entry: bytes) -> None:
        """Write a line."""
        self.count += 1
        self._pending += entry
        self._pending += b"\n"
        while len(self._pending) >= CHUNK_BYTES:
            self._flush()

    def kept(self, guard: Guard) -> Swap:
        """The swap by which the file is there."""
        while self._pending:
            self._flush()
        now = self._files.now()
        file = StoredFile(
            self.id,
            self._batch.owner,
            f"{self._batch.id}_{self._name}.jsonl",
            "batch_output",
            self._size_bytes,
            now,
            now + self._batch.output_seconds,
        )
        return self._files.keep_swap(file, self._stored_bytes, guard)

    def _flush(self) -> None:
        chunk = bytes(self._pending[:CHUNK_BYTES])
        del self._pending[:CHUNK_BYTES]
        self._stored_bytes += self._files.write(self.id, self._chunks, chunk)
        self._chunks += 1
        self._size_bytes += len(chunk)


def _unfinished(batch: Batch, number: int, custom_id: str) -> bytes:
    entry = unfinished(batch.id, number, custom_id, expired=batch.closed)
    return json.dumps(entry.body, separators=(",", ":")).encode()
