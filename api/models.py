"""`/v1/models`: what is served, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.caller import caller
from api.openai_schemas import ModelAnswer, ModelList, ModelPath
from api.services import services
from api.spec import ERRORS
from scheduler.fleet import state_of
from scheduler.refusals import not_served

routes = APIBlueprint("models", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)


@routes.get("/v1/models", responses={200: ModelList})
def list_models() -> Response:
    """List the served models."""
    return answer({"object": "list", "data": [_model(name) for name in _names()]})


@routes.get("/v1/models/<path:model_id>", responses={200: ModelAnswer})
def get_model(path: ModelPath) -> Response:
    """Look at a served model."""
    if path.model_id not in (names := _names()):
        raise not_served(path.model_id, names)
    return answer(_model(path.model_id))


def _names() -> list[str]:
    """The served models that the caller may use."""
    return [name for name in services().lifecycle.models() if caller().may_use(name)]


def _model(name: str) -> dict[str, Any]:
    state = state_of(services().lifecycle.workers(), name)
    # OpenAI's clients insist on a time of creation; what is served here has none.
    model = {"id": name, "object": "model", "created": 0, "owned_by": "tidegate"}
    return model | {"ready": state != "unserved", "state": state}
