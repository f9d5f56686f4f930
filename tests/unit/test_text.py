"""From tokens to text: stop words, cut characters, and the same text however a job was interrupted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.utils import load_tokenizer

from benchmarks.random_models import write_random_llama
from workers.text import JobText, section_left_open


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A token is a byte."""
    return load_tokenizer(
        write_random_llama(tmp_path_factory.mktemp("model"), layers=1, hidden=8, heads=1, kv_heads=1)
    )


class Marked:
    """A tokenizer whose model marks its reasoning and its tool calls."""

    has_thinking, think_start, think_end = True, "<think>", "</think>"
    has_tool_calling, tool_call_start, tool_call_end = True, "<tool>", "</tool>"
    structural_markers: tuple[str, ...] = ()
    response_transitions: dict[str, Any] = {}

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def detokenizer(self) -> Any:
        return self._tokenizer.detokenizer

    def tool_parser(self, text: str, tools: Any) -> Any:
        return json.loads(text)


def shown(text: JobText, tokens: list[int], *, finish: bool = True) -> tuple[list[str], bool]:
    """What a client is sent, piece by piece, token by token; and whether a stop word ended it."""
    pieces: list[str] = []
    for token in tokens:
        piece = text.feed([token])
        pieces.append(piece.text)
        if piece.stopped:
            return pieces, True
    if finish:
        piece = text.finish()
        pieces.append(piece.text)
        return pieces, piece.stopped
    return pieces, False


def whole(tokenizer: Any, data: str, *stop: str) -> tuple[str, bool]:
    text = JobText(tokenizer, stop)
    pieces, stopped = shown(text, list(data.encode()))
    assert "".join(pieces) == text.text
    return text.text, stopped


@pytest.mark.parametrize(
    ("data", "stop", "text", "stopped"),
    [
        ("one STOP two", ["STOP"], "one ", True),
        ("one STOP", ["STOP"], "one ", True),
        ("STOP", ["STOP"], "", True),
        ("one STO", ["STOP"], "one STO", False),
        ("one STOx STOP", ["STOP"], "one STOx ", True),
        ("SSTOP", ["STOP"], "S", True),
        ("STSTOP!", ["STOP"], "ST", True),
        ("a\n\nb", ["\n\n"], "a", True),
        ("a\n", ["\n\n"], "a\n", False),
        ("first b then a", ["a", "b"], "first ", True),
        ("xabcd", ["abcd", "bc"], "xa", True),
        ("潮が満ちる。終", ["。終"], "潮が満ちる", True),
        ("🌊🌊 é", ["🌋"], "🌊🌊 é", False),
        ("aaa", ["aaaa"], "aaa", False),
        ("", ["x"], "", False),
    ],
)
def test_a_stop_word_ends_the_text_before_it(
    tokenizer: Any, data: str, stop: list[str], text: str, stopped: bool
) -> None:
    """Whether it comes whole, byte by byte, at the start, at the very end, or only seems to come."""
    assert whole(tokenizer, data, *stop) == (text, stopped)


def test_nothing_of_a_stop_word_is_ever_shown(tokenizer: Any) -> None:
    """What may become one is held back, and shown as soon as it can not."""
    text = JobText(tokenizer, ["STOP"])
    assert shown(text, list(b"a STOx"), finish=False)[0] == ["a", "", " ", "", "", "STOx"]


def test_a_cut_character_is_held_back(tokenizer: Any) -> None:
    """The four bytes of a wave show nothing until the fourth."""
    pieces, _ = shown(JobText(tokenizer, ()), list("a🌊b".encode()))
    assert "".join(pieces) == "a🌊b"
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_end_within_a_character_does_not_raise(tokenizer: Any) -> None:
    """What is left of it is shown as a replacement character, or not at all."""
    text = JobText(tokenizer, ())
    pieces, _ = shown(text, list("a🌊".encode())[:-1])
    assert "".join(pieces) == text.text
    assert text.text.rstrip("\ufffd") == "a"


@given(st.text(alphabet="ab \n", max_size=40), st.text(alphabet="ab \n", min_size=1, max_size=4))
def test_the_text_is_what_stands_before_the_first_stop_word(tokenizer: Any, data: str, stop: str) -> None:
    """As Python's own partition says. (mlx-lm drops a space before the first word.)"""
    before, found, _ = data.removeprefix(" ").partition(stop)
    assert whole(tokenizer, data, stop) == (before, bool(found))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_any_text_comes_back_whole(tokenizer: Any, data: str) -> None:
    """Every character that UTF-8 can write, but for mlx-lm's two exceptions: NUL, and a first space."""
    assert whole(tokenizer, data) == (data.removeprefix(" "), False)


@given(
    st.one_of(st.text(alphabet="ab 🌊é", max_size=12).map(str.encode), st.binary(max_size=12)),
    st.lists(st.text(alphabet="ab 🌊é", min_size=1, max_size=3), max_size=3),
)
def test_an_interrupted_text_is_the_undisturbed_one(tokenizer: Any, data: bytes, stop: list[str]) -> None:
    """For every point of interruption: what was sent before, and what the next attempt sends after it
    read the same tokens again, make together what an undisturbed job sends; a stop is met in both.
    """
    tokens = list(data)
    calm = JobText(tokenizer, stop)
    pieces, stopped = shown(calm, tokens)
    used = len(pieces) if stopped and len(pieces) <= len(tokens) else len(tokens)
    for cut in range(used + 1):
        before = "".join(pieces[:cut])
        again = JobText(tokenizer, stop)
        replayed = again.feed(tokens[:cut])
        assert again.text == replayed.text == before
        if replayed.stopped:
            assert stopped and before == calm.text
            continue
        after, stopped_again = shown(again, tokens[cut:])
        assert before + "".join(after) == again.text == calm.text
        assert stopped_again is stopped


def test_reasoning_is_told_apart(tokenizer: Any) -> None:
    """Its markers are shown nowhere, and a stop word inside it does not end the job."""
    text = JobText(Marked(tokenizer), ["STOP"])
    pieces, stopped = shown(text, list(b"<think>why STOP</think>so STOP no"))
    assert ("".join(pieces), text.text, text.reasoning, stopped) == ("so ", "so ", "why STOP", True)


CALL = {"name": "look", "arguments": {"at": "é"}}


@pytest.mark.parametrize("closing", ["</tool>", ""])
def test_a_tool_call_is_read(tokenizer: Any, closing: str) -> None:
    """In OpenAI's form; closed by its marker, or by the text's end."""
    text = JobText(Marked(tokenizer), ())
    shown(text, list(f"hm <tool>{json.dumps(CALL)}{closing}".encode()))
    (call,), refused = text.tool_calls(())
    assert (text.text, refused) == ("hm ", "")
    assert call["function"] == {"name": "look", "arguments": '{"at": "é"}'}
    assert call["type"] == "function" and call["id"].startswith("call_")


class Lenient(Marked):
    """One whose parser makes a call of whatever is there."""

    def tool_parser(self, text: str, tools: Any) -> Any:
        return {"name": "delete", "arguments": {"path": text}}


def test_a_call_that_was_cut_is_text(tokenizer: Any) -> None:
    """A lenient parser would make a call of its half; those before it are calls."""
    text = JobText(Lenient(tokenizer), ())
    text.feed(list(b"<tool>/tmp/a</tool><tool>/tm"))
    text.finish(cut=True)
    (call,), refused = text.tool_calls(())
    assert json.loads(call["function"]["arguments"]) == {"path": "/tmp/a"}
    assert (text.text, refused) == ("/tm", "/tm")


def test_two_tool_calls_are_read_apart(tokenizer: Any) -> None:
    """Each with an id of its own."""
    text = JobText(Marked(tokenizer), ())
    shown(text, list(f"<tool>{json.dumps(CALL)}</tool><tool>{json.dumps(CALL)}</tool>".encode()))
    calls, _ = text.tool_calls(())
    assert len({call["id"] for call in calls}) == 2


@pytest.mark.parametrize(
    "block",
    [
        "not json",
        "[1, 2]",
        '"word"',
        "null",
        '{"name": null, "arguments": null}',
        '{"name": "f", "arguments": null}',
    ],
)
def test_a_tool_call_that_cannot_be_read_does_not_raise(tokenizer: Any, block: str) -> None:
    """Whatever the model wrote and its parser made of it, the job still ends with a result."""
    text = JobText(Marked(tokenizer), ())
    shown(text, list(f"<tool>{block}</tool>".encode()))
    calls, refused = text.tool_calls(())
    assert all(isinstance(call["function"]["name"], str) for call in calls)
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)
    assert calls or refused == block


@pytest.mark.parametrize(
    ("template_ends", "shown_text", "reasoning"),
    [
        ("<assistant>", "plan</think>answer", ""),
        ("<assistant><think>", "answer", "plan"),
        ("<assistant><think>\n\n", "answer", "plan"),
        ("<assistant><think></think>", "plan</think>answer", ""),
        ("<think>old</think><assistant>", "plan</think>answer", ""),
        ("<user>what is <think>?<assistant>", "plan</think>answer", ""),
        ("<user>what is <think>?<assistant><think>", "answer", "plan"),
    ],
)
def test_reasoning_that_the_prompt_began_is_not_the_answer(
    tokenizer: Any, template_ends: str, shown_text: str, reasoning: str
) -> None:
    """Where the template ends within the reasoning's block, what comes first is reasoning."""
    begins = section_left_open(Thinking(tokenizer), list(template_ends.encode()))
    text = JobText(Marked(tokenizer), (), begins)
    shown(text, list(b"plan</think>answer"))
    assert (text.text, text.reasoning) == (shown_text, reasoning)


class Thinking(Marked):
    """One that finds its marks in tokens, as mlx-lm's wrapper does."""

    response_initial_state = None
    think_start_tokens = tuple(b"<think>")

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode()

    def rfind_think_start(self, tokens: list[int]) -> int:
        return bytes(tokens).rfind(b"<think>")


def test_one_call_is_enough_where_more_are_not_wanted(tokenizer: Any) -> None:
    """The answer ends with the first; an undisturbed job and a resumed one alike."""
    said = list(f"<tool>{json.dumps(CALL)}</tool><tool>{json.dumps(CALL)}</tool>".encode())
    text = JobText(Marked(tokenizer), (), several_calls=False)
    assert text.may_stop
    pieces, stopped = shown(text, said)
    assert stopped and len(pieces) < len(said)
    again = JobText(Marked(tokenizer), (), several_calls=False)
    assert again.feed(said).stopped
    assert [len(each.tool_calls(())[0]) for each in (text, again)] == [1, 1]


def test_a_call_that_nobody_offered_is_text(tokenizer: Any) -> None:
    """Where the client wants none."""
    text = JobText(Marked(tokenizer), ())
    shown(text, list(b'hm <tool>{"name": "a"}</tool>'))
    assert text.tool_calls(None) == ([], '{"name": "a"}')
    assert text.text == 'hm {"name": "a"}'


@pytest.mark.parametrize("cut", [0, 9, 30, 60])
def test_marks_in_an_answer_that_has_a_form_are_text(tokenizer: Any, cut: int) -> None:
    """A schema's string may say them; before the answer begins they are marks, wherever its tokens were interrupted."""
    said = '{"says": "<think> and <tool>{}</tool>"}'
    tokens = list(f"<think>so</think>\n{said}".encode())
    text = JobText(Marked(tokenizer), ["never"], formed=True)
    pieces = [text.feed(tokens[:cut]).text, *shown(text, tokens[cut:])[0]]
    assert ("".join(pieces), text.text, text.reasoning) == (f"\n{said}", f"\n{said}", "so")
    assert text.tool_calls([{}]) == ([], "")
    called = JobText(Marked(tokenizer), (), formed=True)
    shown(called, list(f"<tool>{json.dumps(CALL)}</tool>and <tool>{json.dumps(CALL)}</tool>".encode()))
    assert len(called.tool_calls([{}])[0]) == 2 and called.text == "and "


def test_a_bare_call_has_no_marks(tokenizer: Any) -> None:
    """All of the answer is the call, read as JSON whatever the model's own form is; what was thought before is not."""
    text = JobText(Marked(tokenizer), (), bare_call=True)
    pieces, _ = shown(text, list(f"<think>so</think>{json.dumps(CALL)}".encode()))
    (call,), refused = text.tool_calls(())
    assert ("".join(pieces), text.text, text.reasoning, refused) == ("", "", "so", "")
    assert json.loads(call["function"]["arguments"]) == CALL["arguments"]
    quoting = JobText(Marked(tokenizer), (), bare_call=True, formed=True)
    shown(quoting, list(json.dumps({"name": "look", "arguments": {"at": "</think><tool>"}}).encode()))
    (call,), _ = quoting.tool_calls(())
    assert json.loads(call["function"]["arguments"]) == {"at": "</think><tool>"}


def test_a_text_that_goes_on_keeps_the_space_that_begins_it(tokenizer: Any) -> None:
    """Of a chat's answer it is dropped, as mlx-lm does; what follows a prompt as it stands needs it."""
    tokens = list(b" time  is")
    for continues, expected in (False, "time  is"), (True, " time  is"):
        pieces, _ = shown(JobText(tokenizer, (), continues=continues), tokens)
        assert "".join(pieces) == expected
    text = JobText(tokenizer, ["  is"], continues=True)
    assert shown(text, tokens)[1]
    assert text.text == " time"
