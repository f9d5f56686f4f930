"""`/v1/completions`: text continued by jobs whose client waits for them, in OpenAI's older shapes."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.choices import attend
from api.completion_answer import CompletionShape
from api.completion_request import CompletionRequest
from api.event_schemas import TEXT_EVENTS
from api.openai_schemas import TextCompletion
from api.spec import ERRORS, streams

routes = APIBlueprint("completions", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)


@routes.post("/v1/completions", responses={200: streams(TextCompletion, TEXT_EVENTS)})
def complete_text(body: CompletionRequest) -> Response:
    """Complete text, as OpenAI's route of this name does; of several prompts, each gets its own choices."""
    shape = CompletionShape(body.choices, wants_usage=body.wants_usage)
    return attend(body.to_jobs(), shape, streaming=bool(body.stream))
