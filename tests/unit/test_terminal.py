"""What the command prints, and where."""

import pytest

from tidegate.job_summary import summary
from tidegate.terminal import Terminal, console
from tidegate.text import printable


def test_an_answer_is_on_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """So that it can be piped, to the byte: markup in it is text, and nothing is wrapped or taken out of it."""
    terminal = Terminal()
    text = "[bold]Pa\tris.\x1b[2J " + "word " * 100
    with terminal.waiting() as say, terminal.answering():
        say("waiting")
        for piece in (text[:9], text[9:]):
            terminal.say(piece)
    assert capsys.readouterr() == (text + "\n", "")


def test_what_cannot_be_written_does_not_end_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of a pair, as where a model's tokens end in the middle of a sign."""
    terminal = Terminal()
    with terminal.answering():
        terminal.say("a\ud83db")
    assert capsys.readouterr().out == "a?b\n"


def test_an_answer_that_breaks_off_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said of the break stands on a line of its own, and not in the answer."""
    terminal = Terminal()
    with pytest.raises(ZeroDivisionError), terminal.answering():
        terminal.say("Pa")
        terminal.note("connection lost")
        raise ZeroDivisionError
    assert capsys.readouterr() == ("Pa\n", "connection lost\n")


@pytest.mark.parametrize("asked", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_what_is_no_terminal_is_taken_for_none(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """Whatever the environment has: a file with a cursor's codes in it is of no use."""
    monkeypatch.setenv(asked, "1")
    assert not console().is_terminal and not console(stderr=True).is_terminal
    assert console().color_system is None


def test_text_cannot_command_the_terminal() -> None:
    """A model's output, or a job's model name, may hold escape sequences."""
    assert printable("a\x1b[2Jb\x07\r\n\tc\x9bd é🗼") == "a[2Jb\n\tcd é🗼"
    assert printable("a\u202egpj.exe\u2069 \u200eש") == "agpj.exe \u200eש"


def test_jobs_are_listed_with_what_they_made(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a job, however long a name is."""
    job = {
        "id": "job_1",
        "status": "completed",
        "model": "org/" + "m" * 90,
        "priority": "batch",
        "created_at": 0,
    }
    Terminal().jobs([job | {"result": {"usage": {"completion_tokens": 17}}}, job | {"result": None}])
    _, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (first[0], first[-1]) == ("job_1", "17")
    assert second[-1] == "-"


def test_a_summary_says_how_long_it_took_and_what_it_used() -> None:
    """Tokens and their rate, the first one's time, waiting and running apart, memory at its peak beside what was reserved."""
    times = {"created_at": 10.0, "started_at": 10.5, "completed_at": 12.5}
    result = {"usage": {"completion_tokens": 8}}
    ended = {"status": "completed", "result": result, **times}
    assert summary(ended) == "completed, 8 tokens, 4.0 tokens/s, waited 0.5 s, ran 2.0 s"
    memory = {"estimated_bytes": 9 << 20, "peak_bytes": 2 << 20, "footprint_ratio": 1.5}
    assert summary(ended | {"memory": memory}, 0.75) == (
        "completed, 8 tokens, 4.0 tokens/s, first token after 0.8 s, waited 0.5 s, ran 2.0 s, "
        "memory at its peak 2.0 MiB, 3.0 MiB reserved"
    )
    progress = {"tokens_per_second": 5.5, "first_token_seconds": 0.25, "completion_tokens": 7}
    said = summary(ended | {"result": None, "progress": progress}, 0.75)
    assert said == "completed, 7 tokens, 5.5 tokens/s, first token after 0.2 s, waited 0.5 s, ran 2.0 s"


@pytest.mark.parametrize(
    "odd", [{}, {"progress": 3, "memory": [], "result": "x"}, {"created_at": "x", "status": None}]
)
def test_a_summary_of_what_is_not_understood_is_short(odd: dict[str, object]) -> None:
    """An API of another version may say anything."""
    assert summary(odd) == "-"
