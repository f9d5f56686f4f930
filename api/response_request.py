"""OpenAI's request for a response as a job's: its names, what is taken, what is let be, what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from api.openai_fields import Hint, OpenAIFields
from api.response_items import Item
from api.response_note import ResponseNote
from api.response_tools import shown, tool_fields
from scheduler.errors import ClientError
from scheduler.request import Flag, Integer, JobRequest, WebhookField, invalid_request

Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""What clients ask for beside the text: the first is made; of the others there is nothing here."""

_LOGPROBS: Final = get_args(Includable)[0]

_JOBS: Final = (
    *("model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "logit_bias", "metadata"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("priority", "queue_timeout", "run_timeout", "on_insufficient_memory", "max_attempts"),
    "webhook",
)
"""Fields that are the job's, under the same name."""

_RENAMED: Final = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}
"""The job's names for OpenAI's fields, as its errors say them."""

Words = Annotated[str, Field(max_length=512)]


_NOT_HERE: Final = "Refused: there is no such thing here."
Refused = Annotated[Any, Field(description=_NOT_HERE), WithJsonSchema({"type": "null"})]


class TextOptions(BaseModel):
    """What the text is like. `verbosity` is a hint, and let be."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponseRequest(OpenAIFields):
    """OpenAI's request for a response, and this queue's own fields. Null says nothing."""

    not_the_jobs: ClassVar[frozenset[str]] = frozenset(JobRequest.model_fields) - {*_JOBS}
    jobs_names: ClassVar[Mapping[str, str]] = MappingProxyType({"max_output_tokens": "max_tokens"})

    input: str | Annotated[tuple[dict[str, Any], ...], Field(max_length=16_384)] = Field(
        description="A text, or items: `message` (text alone), `function_call`, `function_call_output`, "
        "`reasoning`, `item_reference`."
    )
    instructions: str | None = None
    previous_response_id: str | None = None
    background: Flag | None = None
    store: Flag | None = None
    max_output_tokens: Integer | None = None
    tools: Annotated[tuple[dict[str, Any], ...], Field(max_length=256)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: Flag | None = None
    max_tool_calls: Integer | None = None
    text: TextOptions | None = None
    include: Annotated[tuple[Includable, ...], Field(max_length=64)] | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    reasoning: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    webhook: WebhookField | None = None
    user: Words | None = None
    safety_identifier: Words | None = None
    prompt_cache_key: Words | None = None
    conversation: Refused = None
    prompt: Refused = None
    context_management: Annotated[Any, Field(description=_NOT_HERE), WithJsonSchema({"enum": [None, []]})] = (
        None
    )
    moderation: Refused = None
    # Hints, and OpenAI's own bookkeeping.
    stream_options: Hint = None
    prompt_cache_retention: Hint = None
    prompt_cache_options: Hint = None
    background_options: Hint = None
    access_programs: Hint = None
    image: Hint = None

    def to_job(self, messages: Sequence[dict[str, Any]]) -> JobRequest:
        """The job that answers it.

        Args:
            messages: the conversation, its instructions and its input.

        Raises:
            ClientError: ``invalid_request``; ``param`` is the field's name in OpenAI's request.
        """
        self._refuse_unsupported()
        fields = {name: value for name in _JOBS if (value := getattr(self, name)) is not None}
        fields |= {"messages": messages} | self._format() | self.class_named()
        fields |= tool_fields(self.tools or (), self.tool_choice, self.parallel_tool_calls)
        if self.max_output_tokens is not None:
            fields["max_tokens"] = self.max_output_tokens
        if self._wants_logprobs:
            fields["logprobs"] = self.top_logprobs or 0
        try:
            return JobRequest(**fields)
        except ValidationError as error:
            raise as_asked(invalid_request(error)) from None

    def note(self, items: Sequence[Item]) -> ResponseNote:
        """What its clients see again of it.

        Args:
            items: its input, as it is kept.
        """
        text = self.text or TextOptions()
        verbosity = {} if text.verbosity is None else {"verbosity": text.verbosity}
        return ResponseNote(
            input=tuple(items),
            instructions=self.instructions,
            previous_response_id=self.previous_response_id,
            tools=tuple(shown(tool) for tool in self.tools or ()),
            tool_choice="auto" if self.tool_choice is None else self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            max_tool_calls=self.max_tool_calls,
            text={"format": text.format or {"type": "text"}} | verbosity,
            reasoning=self.reasoning,
            logprobs=self._wants_logprobs,
            top_logprobs=self.top_logprobs or 0,
            background=bool(self.background),
            store=self.store is not False,
            user=self.user,
            safety_identifier=self.safety_identifier,
            prompt_cache_key=self.prompt_cache_key,
        )

    @property
    def _wants_logprobs(self) -> bool:
        return _LOGPROBS in (self.include or ())

    def _format(self) -> dict[str, Any]:
        """The text's format as the job has it, in the chat's form.

        Raises:
            ClientError: ``invalid_request``; it is not supported.
        """
        asked = dict((self.text and self.text.format) or {"type": "text"})
        kind = asked.pop("type", None)
        if kind == "text":
            return {}
        if kind not in ("json_object", "json_schema"):
            raise _fault("text.format.type", "must be text, json_object or json_schema")
        inner = {kind: asked} if kind == "json_schema" else {}
        return {"response_format": {"type": kind, **inner}}

    def _refuse_unsupported(self) -> None:
        refusals = {
            "conversation": (
                self.conversation is None,
                "conversations are not kept; use previous_response_id",
            ),
            "prompt": (self.prompt is None, "prompt templates are not kept here; send their text"),
            "context_management": (
                self.context_management in (None, []),
                "a conversation is never shortened here",
            ),
            "moderation": (self.moderation is None, "nothing is moderated here"),
            "background": (
                not self.background or self.store is not False,
                "a response in the background must be stored, or nobody could fetch it",
            ),
            "webhook": (
                self.webhook is None or self.store is not False,
                "a response that a webhook tells of must be stored, or nobody could fetch it",
            ),
        }
        for param, (fine, why) in refusals.items():
            if not fine:
                raise _fault(param, why)


def as_asked(error: ClientError) -> ClientError:
    """A job's error with the names that its fields have in OpenAI's request."""
    ours = error.param or ""
    first, _, rest = ours.partition(".")
    if first not in _RENAMED:
        return error
    # What is inside of a message is not at the same place inside of the input.
    inside = "" if first == "messages" else rest.removeprefix("json_schema").removeprefix(".")
    param = ".".join(filter(None, (_RENAMED[first], inside)))
    message = error.message.replace(ours, param, 1)
    return ClientError(error.code, message, param=param, retry_after=error.retry_after, **error.numbers)


def _fault(param: str, why: str) -> ClientError:
    return ClientError("invalid_request", f"{param}: {why}", param=param)
