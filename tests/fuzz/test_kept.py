"""Every input that is kept does no harm any more, and some fresh ones do none; `make fuzz` draws for as long as one likes."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as fuzz
from tests.fuzz.every import TARGETS
from tests.fuzz.mutation import mutated
from tests.fuzz.shrinking import smallest
from tests.fuzz.target import CORPUS, Target

PURE = [target for target in TARGETS if target.pure]
ELSEWHERE = {"sockets"}
"""Where a server is running anyway: tests/contract/test_raw_requests.py."""

SERVED = [target for target in TARGETS if not target.pure and target.kept() and target.name not in ELSEWHERE]


@pytest.mark.parametrize("target", PURE, ids=lambda target: target.name)
def test_bad_input_meets_the_error_that_its_reader_may_give(target: Target) -> None:
    """What is kept, what is good, and fresh changes of both."""
    known = [*target.seeds(), *target.kept()]
    with target.open() as run:
        for data in known:
            run(data)

        @settings(max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.integers(0, 1 << 64))
        def drawn(number: int) -> None:
            run(mutated(Random(number), known))

        drawn()


@pytest.mark.parametrize("target", SERVED, ids=lambda target: target.name)
def test_what_did_harm_once_does_none(target: Target) -> None:
    """With a server, the API or a worker behind it."""
    with target.open() as run:
        for data in target.kept():
            run(data)


def test_every_kept_input_has_its_target() -> None:
    """A target that was renamed must not leave its inputs unread."""
    assert {folder.name for folder in CORPUS.iterdir()} <= {target.name for target in TARGETS}
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_the_command_tells_what_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON line: inputs, how many are kept, failures."""
    assert fuzz.main(["step", "--seconds", "0.2", "--seed", "5"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["step"]["failures"] == 0
    assert told["step"]["inputs"] > told["step"]["corpus"] > 0


def test_the_command_sees_and_keeps_what_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader that raises what it may not is told of, and its input is kept."""
    monkeypatch.setattr("tests.fuzz.target.CORPUS", tmp_path)
    monkeypatch.setattr("tests.fuzz.stored.events.parse_step", lambda _: 1 / 0)
    assert fuzz.main(["step", "--seconds", "0.2", "--seed", "5"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["step"]["failures"] > 0
    assert "ZeroDivisionError" in said.err
    assert list((tmp_path / "step").iterdir())  # type: ignore[operator]


def test_what_fails_is_made_small() -> None:
    """As long as it fails alike; a failure of another kind is another's."""

    def run(data: bytes) -> None:
        if b"(" not in data:
            raise KeyError
        assert not (b"x" in data and b"y" in data)

    assert smallest(b"a(bc" * 50 + b"xdefy" + b"gh" * 50, run) == b"(xy"
