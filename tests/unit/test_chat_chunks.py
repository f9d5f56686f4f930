"""The chunks of a chat's stream: those of plain text, whose surroundings are made once, are like the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.chat_answer import Chunks
from scheduler.job import State
from scheduler.record import JobRecord, Meta


def chunks(model: str = "m", *, wants_usage: bool = False) -> Chunks:
    """Those of a job for a model."""
    return Chunks(JobRecord("job_1", State.QUEUED, Meta(model=model), 7.5, 7.5), wants_usage)


def said(chunk: bytes) -> dict[str, Any]:
    """What a chunk's one event has as its data; plain ASCII, in one line."""
    line = chunk.decode("ascii").removeprefix("data: ").removesuffix("\n\n")
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize("text", ["a", 'é\u2028"\\\x00\n🌊', '"content":""', "\ud800"])
@pytest.mark.parametrize("model", ["m", 'x"content":""', "\u2028"])
@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_chunk_of_text_has_it_where_openai_has_it(text: str, model: str, wants_usage: bool) -> None:
    """Whatever the text is and the model is called."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": model}
    whole |= {"choices": [choice]} | ({"usage": None} if wants_usage else {})
    chunk = said(chunks(model, wants_usage=wants_usage).delta({"text": text, "tokens": [1]}))
    assert chunk == whole
    assert list(chunk) == list(whole)


def test_a_chunk_has_content_unless_it_has_reasoning_alone() -> None:
    """None where a step made nothing that can be shown: no whole character yet, or a part of a call."""
    made = chunks()
    assert made.delta({}) == made.delta({"text": ""}) == b""
    deltas = [{"reasoning": "r"}, {"text": "", "reasoning": "r"}, {"text": "t", "reasoning": "r"}]
    assert [said(made.delta(each))["choices"][0]["delta"] for each in deltas] == [
        {"reasoning_content": "r"},
        {"reasoning_content": "r"},
        {"content": "t", "reasoning_content": "r"},
    ]


def test_a_chunk_has_its_logprobs() -> None:
    """In OpenAI's place; a number that JSON has not is null."""
    entry = {"token": "t", "logprob": float("-inf")}
    chunk = said(chunks().delta({"text": "t", "logprobs": [entry]}))
    assert chunk["choices"][0]["logprobs"] == {"content": [entry | {"logprob": None}], "refusal": None}
