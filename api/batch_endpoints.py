"""The routes whose requests a batch can make: how a line's body becomes a job, and a job the line's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from api.chat_answer import ChatShape
from api.chat_request import ChatRequest
from api.completion_answer import CompletionShape
from api.completion_request import CompletionRequest
from api.outcomes import failure, result_of
from api.response_answer import response
from api.response_items import messages_of, read_items, with_instructions
from api.response_note import read_note
from api.response_request import ResponseRequest
from scheduler.batch_rounds import Endpoint
from scheduler.errors import ClientError
from scheduler.events import Kind, LoggedEvent
from scheduler.record import JobRecord
from scheduler.request import JobRequest, invalid_request

Asked = tuple[Sequence[JobRequest], Mapping[str, Any]]

_FIELDS: Final = {
    kind.__name__: tuple(kind.model_fields) for kind in (ChatRequest, CompletionRequest, ResponseRequest)
}
"""What lines' bodies may say, by the name under which pydantic tells of a fault."""

_CHOICES: Final = "completion_choices"
"""Of a job's note: how many choices each prompt has."""


def _endpoint(
    ask: Callable[[dict[str, Any]], Asked], answer: Callable[[Sequence[JobRecord]], dict[str, Any]]
) -> Endpoint:
    """A route; ``ask`` may raise what its models raise, and ``answer`` is asked of jobs that have results alone."""

    def asked(body: dict[str, Any]) -> Asked:
        try:
            return ask(body)
        except ValidationError as error:
            raise invalid_request(error, _FIELDS.get(error.title, ())) from None

    def answered(records: Sequence[JobRecord]) -> dict[str, Any]:
        for rec in records:
            if (error := failure(rec)) is not None:
                raise error
        return answer(records)

    return Endpoint(asked, answered)


def _ask_completions(body: dict[str, Any]) -> Asked:
    asked = CompletionRequest.model_validate(body)
    return asked.to_jobs(), {_CHOICES: asked.choices}


def _completions(records: Sequence[JobRecord]) -> dict[str, Any]:
    note = records[0].envelope.get("note")
    choices = note.get(_CHOICES) if isinstance(note, dict) else None
    known = choices if isinstance(choices, int) and 0 < choices <= len(records) else 1
    return CompletionShape(known, wants_usage=False).whole(records)


def _ask_response(body: dict[str, Any]) -> Asked:
    """A response's job; what refers to earlier ones is refused, since nobody is there whose they could be.

    So is a webhook: a line's response is in the batch's output, and cannot be fetched.
    """
    asked = ResponseRequest.model_validate(body)
    items = read_items(asked.input)
    refers = asked.previous_response_id is not None or any(item["type"] == "item_reference" for item in items)
    if refers or asked.background:
        field = "background" if asked.background else "previous_response_id"
        raise ClientError("invalid_request", f"{field}: not in a batch", param=field)
    if asked.webhook is not None:
        why = "webhook: not in a batch's line; the batch itself may have one"
        raise ClientError("invalid_request", why, param="webhook")
    job = asked.to_job(with_instructions(messages_of(items), asked.instructions))
    return [job], asked.note(items).to_note()


def _response(records: Sequence[JobRecord]) -> dict[str, Any]:
    rec, note = records[0], read_note(records[0])
    if note is None:
        raise ClientError("internal_error", f"nothing was noted of {rec.id}")
    result = result_of(rec)
    said = {name: result[name] for name in ("text", "reasoning", "logprobs") if result.get(name)}
    return response(rec, note, [LoggedEvent(1, Kind.DELTA, said)])


ENDPOINTS: Final[dict[str, Endpoint]] = {
    "/v1/chat/completions": _endpoint(
        lambda body: (ChatRequest.model_validate(body).to_jobs(), {}), ChatShape(wants_usage=False).whole
    ),
    "/v1/completions": _endpoint(_ask_completions, _completions),
    "/v1/responses": _endpoint(_ask_response, _response),
}
