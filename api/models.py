"""`/v1/models`: what is served, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.schemas import ModelAnswer, ModelList, ModelPath
from api.services import services
from api.spec import ERRORS
from scheduler.errors import ClientError
from scheduler.fleet import ready_models

routes = APIBlueprint("models", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)


@routes.get("/v1/models", responses={200: ModelList})
def list_models() -> Response:
    """List the served models."""
    ready = _ready()
    return answer({"object": "list", "data": [_model(name, ready) for name in services().lifecycle.models()]})


@routes.get("/v1/models/<path:model_id>", responses={200: ModelAnswer})
def get_model(path: ModelPath) -> Response:
    """Look at a served model."""
    if path.model_id not in services().lifecycle.models():
        message = f"the model {path.model_id[:256]!r} is not served here"
        raise ClientError("model_not_found", message, param="model")
    return answer(_model(path.model_id, _ready()))


def _ready() -> set[str]:
    """The models that a live worker takes jobs for."""
    return ready_models(services().lifecycle.workers())


def _model(name: str, ready: set[str]) -> dict[str, Any]:
    # OpenAI's clients insist on a time of creation; what is served here has none.
    return {"id": name, "object": "model", "created": 0, "owned_by": "tidegate", "ready": name in ready}
