"""The grammar that an answer must follow, from what its request asks for, as llguidance reads it. Pure.

The worker holds answers to it (:mod:`workers.constraint`); the API refuses what llguidance cannot impose
(:mod:`scheduler.grammar_trial`). llguidance's own words: https://github.com/guidance-ai/llguidance, docs/syntax.md and docs/json_schema.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from scheduler.answer_form import MAX_SCHEMA_BYTES, tool_name
from scheduler.errors import ClientError
from scheduler.request import JobRequest

_OPTIONS: Final = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}
"""Enough to indent with; without a bound, a model that has nothing to say writes blanks to its last token."""

_NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class CallMarks:
    """What stands before and after a call of a tool, each as the grammar has it: ``"text"`` or ``<[token id]>``."""

    before: str
    after: str


def grammar_of(request: JobRequest, marks: CallMarks | None = None) -> str | None:
    """The grammar of a request's answer, in llguidance's JSON; None where it may be anything.

    Args:
        request: what is asked.
        marks: of the model's calls, where they are JSON between marks; else a call is JSON and nothing else, and there
            is one.

    Raises:
        ClientError: ``invalid_request``; a tool that must be called has no name, or too large a schema.
    """
    if request.must_call:
        return _grammar_of_calls(request, marks)
    form = request.response_format
    if form is None or form.schema_imposed is None:
        return None
    return json.dumps({"grammars": [{"json_schema": _imposed(form.schema_imposed, strict=form.strict)}]})


def unfit(request: JobRequest, fault: str) -> ClientError:
    """That an answer's form cannot be imposed, and why, in llguidance's words."""
    param = "tools" if request.must_call else "response_format"
    return ClientError("invalid_request", f"{param}: it cannot be imposed: {fault[:500]}", param=param)


def _imposed(schema: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """A schema with the options that are ours to choose, whatever it says of them itself."""
    return schema | {"x-guidance": _OPTIONS | {"lenient": not strict}}


def _grammar_of_calls(request: JobRequest, marks: CallMarks | None) -> str:
    """One call, or where there are marks and several are welcome, one at least."""
    rules, schemas = [], []
    for at, tool in enumerate(request.tools_to_call):
        name = tool_name(tool)
        if not name:
            raise ClientError(
                "invalid_request", f"tools: number {at} is no function with a name", param="tools"
            )
        begins = json.dumps(f'{{"name": {json.dumps(name)}, "arguments": ')
        rules.append(f'call_{at}: {begins} @args_{at} "}}"')
        schemas.append({"name": f"args_{at}", "json_schema": _arguments(tool["function"])})
    if len(json.dumps(schemas)) > MAX_SCHEMA_BYTES:
        reason = f"tools: more than {MAX_SCHEMA_BYTES:,} bytes of parameters cannot be imposed"
        raise ClientError("invalid_request", reason, param="tools")
    any_call = " | ".join(f"call_{at}" for at in range(len(rules)))
    if marks is None:
        lines = [f"start: {any_call}"]
    else:
        several = request.tool_choice == "required" and request.parallel_tool_calls
        lines = [
            'start: call ("\\n" call)*' if several else "start: call",
            f'call: {marks.before} "\\n" ({any_call}) "\\n" {marks.after}',
        ]
    return json.dumps({"grammars": [{"lark_grammar": "\n".join([*lines, *rules])}, *schemas]})


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments: an object, without any where none are described."""
    schema = function.get("parameters") or _NO_ARGUMENTS
    if not isinstance(schema, dict):
        raise ClientError("invalid_request", "tools: parameters must be a JSON schema", param="tools")
    return _imposed({"type": "object"} | schema, strict=function.get("strict") is True)
