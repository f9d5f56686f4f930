"""From a job's tokens to the text its client sees: detokenising, reasoning, tool calls, stop words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from mlx_lm.generate import TextStateMachine, make_text_state_machine

_ANY_WORD: Final = "a"


@dataclass(slots=True)
class Piece:
    """New text: the answer's and the reasoning's."""

    text: str = ""
    reasoning: str = ""
    stopped: bool = False
    """Whether a stop word was met; what follows it is dropped."""


@dataclass(slots=True)
class JobText:
    """One job's text so far. The same tokens always give the same text, so it can be rebuilt.

    Args:
        tokenizer: mlx-lm's wrapper.
        stop: words that end the text, not themselves part of it.
        begins: the section that the prompt leaves open; see :func:`section_left_open`.
        bare_call: whether all of it but the reasoning is one call of a tool, in JSON and without marks.
        several_calls: whether it goes on after a call.
        formed: whether the answer, once it has begun, is held to a form: its strings may have marks in them, which are
            none there.
        continues: whether it goes on from a text as that stands: a space that begins it is its own, which mlx-lm's
            detokenisers drop.
    """

    tokenizer: Any
    stop: Sequence[str]
    begins: str = "normal"
    bare_call: bool = False
    several_calls: bool = True
    formed: bool = False
    continues: bool = False
    text: str = ""
    reasoning: str = ""
    _tool_text: str = ""
    _tool_blocks: list[str] = field(default_factory=list)
    _cut_block: str = ""
    _detokenizer: Any = None
    _machine: Any = None
    _stop_machine: Any = None
    _section: str = field(init=False)

    def __post_init__(self) -> None:
        self._detokenizer = self.tokenizer.detokenizer
        if self.continues:
            for token in self.tokenizer.encode(_ANY_WORD, add_special_tokens=False):
                self._detokenizer.add_token(token)
            _before = self._detokenizer.last_segment
        self._section = self.begins
        self._machine = make_text_state_machine(self.tokenizer).make_state(self.begins)
        if self.stop:
            stops = TextStateMachine({"normal": [(word, None) for word in self.stop]})
            self._stop_machine = stops.make_state()

    @property
    def may_stop(self) -> bool:
        """Whether it can end before its tokens do."""
        return bool(self.stop) or not self.several_calls

    def feed(self, tokens: Sequence[int]) -> Piece:
        """Take tokens; return what may be shown of them."""
        for token in tokens:
            self._detokenizer.add_token(token)
        return self._show(self._detokenizer.last_segment)

    def finish(self, *, cut: bool = False) -> Piece:
        """No token follows: return what was held back.

        Args:
            cut: whether more would have followed. A call that is open then is none: parsers make one of its half.
        """
        self._detokenizer.finalize()
        piece = self._show(self._detokenizer.last_segment)
        if not piece.stopped:
            self._machine, rest, section = TextStateMachine.flush(self._machine)
            self._sort(section or "normal", rest, piece)
        if self._tool_text and cut:
            self._cut_block, self._tool_text = self._tool_text, ""
        if self._tool_text:
            self._end_tool()
        if self._stop_machine is not None and not piece.stopped:
            self._stop_machine, rest, _ = TextStateMachine.flush(self._stop_machine)
            piece.text += rest
            self.text += rest
        return piece

    def tool_calls(self, tools: Sequence[dict[str, Any]] | None) -> tuple[list[dict[str, Any]], str]:
        """The tool calls in OpenAI's form, and as text the blocks that the model's parser refuses.

        Args:
            tools: those that were offered; None where no call is wanted, and all of them are text.
        """
        calls: list[dict[str, Any]] = []
        refused = "".join(self._tool_blocks) if tools is None else ""
        for block in self._tool_blocks if tools is not None else ():
            try:
                found = (
                    json.loads(block)
                    if self.bare_call
                    else self.tokenizer.tool_parser(block, list(tools or ()))
                )
                parsed = _calls(found)
            except Exception:  # noqa: BLE001 - parsers raise whatever the model's text provokes
                refused += block
                continue
            for call in parsed:
                arguments = call.get("arguments") or {}  # a parser's None, too, is no argument
                text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                function = {"name": call["name"], "arguments": text}
                calls.append({"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function})
        refused += self._cut_block
        self.text += refused
        return calls if self.several_calls else calls[:1], refused

    def _show(self, segment: str) -> Piece:
        piece = Piece()
        if self.formed:
            for at, letter in enumerate(segment, 1):
                if (begun := self._split(letter, piece)) is not None:
                    self.formed, segment = False, segment[at:]
                    if begun != "tool":  # which frees it of its form
                        self._machine = TextStateMachine({}).make_state()
                    break
            else:
                return piece
        if segment:
            self._split(segment, piece)
        return piece

    def _split(self, segment: str, piece: Piece) -> str | None:
        """Sort text by its marks; the section of the answer's that it is in, None where it is reasoning or blank."""
        self._machine, parts = TextStateMachine.split(self._machine, segment)
        for section, text in parts:
            self._sort(section, text, piece)
        section, text = parts[-1]
        return section if section == "tool" or (section == "normal" and text.strip()) else None

    def _sort(self, section: str, text: str, piece: Piece) -> None:
        if self.bare_call and section == "normal":
            section = "tool"
        if self._section == "tool" and section != "tool":
            self._end_tool()
            piece.stopped = piece.stopped or (bool(self._tool_blocks) and not self.several_calls)
        self._section = section
        if section == "tool":
            self._tool_text += text
        elif section == "reasoning":
            self.reasoning += text
            piece.reasoning += text
        elif not piece.stopped:
            shown = text
            if self._stop_machine is not None:
                self._stop_machine, shown, state = TextStateMachine.step(self._stop_machine, text)
                piece.stopped = state is None
            self.text += shown
            piece.text += shown

    def _end_tool(self) -> None:
        if self._tool_text.strip():
            self._tool_blocks.append(self._tool_text)
        self._tool_text = ""


def section_left_open(tokenizer: Any, prompt: Sequence[int]) -> str:
    """Where an answer begins: many chat templates end with the mark that opens the model's reasoning.

    A mark with more behind it is a message's: who asks what ``<think>`` means is not answered by reasoning alone.

    Args:
        tokenizer: mlx-lm's wrapper.
        prompt: a chat's tokens, as the template wrote them.
    """
    if tokenizer.response_initial_state:
        return str(tokenizer.response_initial_state)
    if not tokenizer.has_thinking or (at := tokenizer.rfind_think_start(prompt)) < 0:
        return "normal"
    behind = tokenizer.decode(list(prompt[at + len(tokenizer.think_start_tokens) :]))
    return "normal" if behind.strip() else "reasoning"


def _calls(parsed: Any) -> list[dict[str, Any]]:
    """What a parser found, as a list.

    Raises:
        ValueError: it is no call of a named function.
    """
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError("not a tool call")
    return calls
