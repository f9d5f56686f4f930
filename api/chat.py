"""`/v1/chat/completions`: jobs whose client waits for them, in OpenAI's shapes."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.chat_answer import ChatShape
from api.chat_request import ChatRequest
from api.choices import attend
from api.event_schemas import CHAT_EVENTS
from api.openai_schemas import ChatCompletion
from api.spec import ERRORS, streams

routes = APIBlueprint("chat", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)


@routes.post("/v1/chat/completions", responses={200: streams(ChatCompletion, CHAT_EVENTS)})
def complete(body: ChatRequest) -> Response:
    """Complete a chat, as OpenAI's route of this name does."""
    shape = ChatShape(wants_usage=body.wants_usage, tells_tier=body.service_tier is not None)
    return attend(body.to_jobs(), shape, streaming=bool(body.stream))
