"""The tools of a response's request, and which of them its model may call, in the chat's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler.errors import ClientError
from scheduler.request import JobRequest

Tool = dict[str, Any]


def tool_fields(
    tools: Sequence[Tool], choice: str | dict[str, Any] | None, parallel: bool | None
) -> dict[str, Any]:
    """The job's fields about tools; those that a model may not call are not shown to it.

    Raises:
        ClientError: ``invalid_request``; a tool is no function, or such a choice is not supported.
    """
    chat_tools = [_chat_tool(tool, f"tools.{place}") for place, tool in enumerate(tools)]
    fields: dict[str, Any] = {}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = _allowed(choice)
        chat_tools = [tool for tool in chat_tools if tool["function"]["name"] in allowed]
        choice = choice.get("mode", "auto")
    if choice not in (None, "auto", "none"):
        if "tool_choice" not in JobRequest.model_fields:
            raise _fault(
                "tool_choice", 'only "auto", "none" and allowed tools with mode "auto" are supported'
            )
        fields["tool_choice"] = _chat_choice(choice)
    if chat_tools and choice != "none":
        fields["tools"] = chat_tools
        if parallel is not None and "parallel_tool_calls" in JobRequest.model_fields:
            fields["parallel_tool_calls"] = parallel
    return fields


def shown(tool: Tool) -> Tool:
    """A function as responses show it: OpenAI's clients want these fields to be there."""
    return {"description": None, "parameters": None, "strict": None} | tool


def _chat_tool(tool: Tool, path: str) -> Tool:
    """A function as the chat has it; templates show a model all that it says, so hints to the server stay out."""
    if tool.get("type") != "function":
        raise _fault(f"{path}.type", "only tools of type function are supported")
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise _fault(f"{path}.name", "must be a text of at least one character")
    if not isinstance(tool.get("parameters"), dict | None):
        raise _fault(f"{path}.parameters", "must be a JSON schema, or null")
    described = {name: tool[name] for name in ("description", "parameters") if tool.get(name) is not None}
    return {"type": "function", "function": {"name": tool["name"], **described}}


def _allowed(choice: dict[str, Any]) -> set[str]:
    tools = choice.get("tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _fault("tool_choice.tools", "must be a list of tools")
    return {str(tool.get("name")) for tool in tools}


def _chat_choice(choice: Any) -> Any:
    """A choice that makes the model call."""
    if choice == "required":
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    raise _fault("tool_choice", 'must be "auto", "none", "required", a function or allowed tools')


def _fault(param: str, why: str) -> ClientError:
    return ClientError("invalid_request", f"{param}: {why}", param=param)
