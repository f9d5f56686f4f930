"""From a job's tokens to the text its client sees: detokenising, reasoning, tool calls, stop words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from mlx_lm.generate import TextStateMachine, make_text_state_machine


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
    """

    tokenizer: Any
    stop: Sequence[str]
    begins: str = "normal"
    text: str = ""
    reasoning: str = ""
    _tool_text: str = ""
    _tool_blocks: list[str] = field(default_factory=list)
    _detokenizer: Any = None
    _machine: Any = None
    _stop_machine: Any = None
    _section: str = field(init=False)

    def __post_init__(self) -> None:
        self._detokenizer = self.tokenizer.detokenizer
        self._section = self.begins
        self._machine = make_text_state_machine(self.tokenizer).make_state(self.begins)
        if self.stop:
            stops = TextStateMachine({"normal": [(word, None) for word in self.stop]})
            self._stop_machine = stops.make_state()

    def feed(self, tokens: Sequence[int]) -> Piece:
        """Take tokens; return what may be shown of them."""
        for token in tokens:
            self._detokenizer.add_token(token)
        return self._show(self._detokenizer.last_segment)

    def finish(self) -> Piece:
        """No token follows: return what was held back."""
        self._detokenizer.finalize()
        piece = self._show(self._detokenizer.last_segment)
        if not piece.stopped:
            self._machine, rest, section = TextStateMachine.flush(self._machine)
            self._sort(section or "normal", rest, piece)
        if self._tool_text:
            self._end_tool()
        if self._stop_machine is not None and not piece.stopped:
            self._stop_machine, rest, _ = TextStateMachine.flush(self._stop_machine)
            piece.text += rest
            self.text += rest
        return piece

    def tool_calls(self, tools: Sequence[dict[str, Any]] | None) -> tuple[list[dict[str, Any]], str]:
        """The tool calls in OpenAI's form, and as text the blocks that the model's parser refuses."""
        calls: list[dict[str, Any]] = []
        refused = ""
        for block in self._tool_blocks:
            try:
                parsed = _calls(self.tokenizer.tool_parser(block, list(tools or ())))
            except Exception:  # noqa: BLE001 - parsers raise whatever the model's text provokes
                refused += block
                continue
            for call in parsed:
                arguments = call.get("arguments", {})
                text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                function = {"name": call["name"], "arguments": text}
                calls.append({"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function})
        self.text += refused
        return calls, refused

    def _show(self, segment: str) -> Piece:
        piece = Piece()
        if segment:
            self._machine, parts = TextStateMachine.split(self._machine, segment)
            for section, text in parts:
                self._sort(section, text, piece)
        return piece

    def _sort(self, section: str, text: str, piece: Piece) -> None:
        if self._section == "tool" and section != "tool":
            self._end_tool()
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
    """Where an answer begins: many chat templates end within the block of the model's reasoning.

    Args:
        tokenizer: mlx-lm's wrapper.
        prompt: a chat's tokens, as the template wrote them.
    """
    if tokenizer.response_initial_state:
        return str(tokenizer.response_initial_state)
    opened = tokenizer.has_thinking and tokenizer.rfind_think_start(prompt) > tokenizer.rfind_think_end(
        prompt
    )
    return "reasoning" if opened else "normal"


def _calls(parsed: Any) -> list[dict[str, Any]]:
    """What a parser found, as a list.

    Raises:
        ValueError: it is no call of a named function.
    """
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError("not a tool call")
    return calls
