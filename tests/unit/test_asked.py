"""What an engine is asked is done where workers ask such things; nonsense ends it with one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.fuzz.pipes import ASKED, framed
from tests.running import ROOT
from workers.asked import MISUNDERSTOOD, in_order, read_asked
from workers.wire import WireBroken

KINDS = {message["kind"]: message for message in ASKED}
OPTIONAL = {"kind", "cards", "prefix_cache", "frugal_seconds"}

READING = """
import queue, sys
from workers.asked import read_asked, read_forever
from workers.wire import Receiver
read_forever(Receiver(int(sys.argv[1]), read_asked), queue.SimpleQueue())
"""


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_has_its_fields(kind: str) -> None:
    """A sound message is taken; one that lacks any of its fields is not, and the field is named."""
    message = KINDS[kind]
    sent = json.dumps(message).encode()
    assert read_asked(sent) == json.loads(sent)
    for name in message.keys() - OPTIONAL:
        with pytest.raises(WireBroken, match=name):
            read_asked(json.dumps({each: value for each, value in message.items() if each != name}).encode())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("configure", {"chunk_tokens": 0}),
        ("configure", {"gap_seconds": float("nan")}),
        ("configure", {"memory_budget": "5"}),
        ("share", {"share_bytes": -1}),
        ("run", {"so_far": ["5"]}),
        ("run", {"request": []}),
        ("run", {"key": 5}),
        ("load", {"cards": [5]}),
        ("remove", {"key": None}),
    ],
)
def test_a_field_of_another_kind_is_refused(kind: str, fields: dict[str, Any]) -> None:
    """By its name, and never by what it held."""
    with pytest.raises(WireBroken, match=next(iter(fields))):
        read_asked(json.dumps(KINDS[kind] | fields).encode())


def test_a_kind_that_is_not_known_is_for_the_engine_to_pass_over() -> None:
    """It does what it knows."""
    assert read_asked(b'{"kind": "sing"}') == {"kind": "sing"}


def test_an_engine_is_configured_first_and_once() -> None:
    """Whatever else comes first, or comes again, is nonsense."""
    assert in_order([KINDS["configure"], KINDS["share"]], configured=False)
    assert not in_order([], configured=False)
    with pytest.raises(WireBroken, match="before"):
        in_order([KINDS["share"]], configured=False)
    with pytest.raises(WireBroken, match="after"):
        in_order([KINDS["configure"]], configured=True)


@pytest.mark.parametrize(
    ("data", "ended", "said"),
    [
        (b"", 0, ""),
        (framed(KINDS["configure"]), 0, ""),
        (b"\xff\xff\xff\xff", MISUNDERSTOOD, "a message of 4,294,967,295 bytes"),
        (b"\x00\x00\x00\x02[]", MISUNDERSTOOD, "a message without a kind"),
        (b"\x00\x00\x00\x02{]", MISUNDERSTOOD, "not JSON"),
        (framed(KINDS["run"] | {"so_far": ["zanzibar"]}), MISUNDERSTOOD, "so_far.0"),
    ],
)
def test_nonsense_ends_the_process_with_a_line(data: bytes, ended: int, said: str) -> None:
    """One line that says what was wrong and quotes nothing, and an exit code of its own; a pipe that ends is no fault."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, data)
    os.close(write_fd)
    command = [sys.executable, "-c", READING, str(read_fd)]
    done = subprocess.run(command, pass_fds=(read_fd,), cwd=ROOT, capture_output=True, text=True, check=False)
    os.close(read_fd)
    assert done.returncode == ended
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)
    assert "zanzibar" not in done.stderr
