"""The schemas of the OpenAPI document: pydantic's own of the models that validate, named and referred to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from api.plain_schema import Plain
from api.spec import Events

PREFIX: Final = "#/components/schemas/"
DONE: Final = {"event": {"const": "message"}, "data": {"const": "[DONE]"}}
"""The event after the last."""

Model = type[BaseModel]
Schema = dict[str, Any]


class Schemas:
    """Every model's schema under a name of its own.

    Args:
        taken: models of requests.
        answered: models of answers and events.
    """

    def __init__(self, taken: Iterable[Model], answered: Iterable[Model]) -> None:
        wanted: list[tuple[Model, JsonSchemaMode]] = [
            *((model, "validation") for model in dict.fromkeys(taken)),
            *((model, "serialization") for model in dict.fromkeys(answered)),
        ]
        template = f"{PREFIX}{{model}}"
        self._refs, found = models_json_schema(wanted, ref_template=template, schema_generator=Plain)
        self._definitions: dict[str, Schema] = found.get("$defs", {})

    def taken(self, model: Model) -> Schema:
        """A reference to what a request must be."""
        return dict(self._refs[model, "validation"])

    def answered(self, model: Model) -> Schema:
        """A reference to what an answer is."""
        return dict(self._refs[model, "serialization"])

    def fields(self, model: Model) -> tuple[dict[str, Schema], list[str]]:
        """A request model's fields, and the names of those that it needs."""
        whole = self._definitions[self.taken(model)["$ref"].removeprefix(PREFIX)]
        return whole.get("properties", {}), whole.get("required", [])

    def used_by(self, document: Any) -> dict[str, Schema]:
        """The definitions that a part of the document leads to, by name."""
        found: dict[str, Schema] = {}
        pending = [document]
        while pending:
            for name in _references(pending.pop()):
                if name not in found:
                    found[name] = self._definitions[name]
                    pending.append(found[name])
        return dict(sorted(found.items()))

    def event(self, events: Events) -> Schema:
        """What one event of a stream is, as a reader of server-sent events gives it."""
        kinds = [self._kind(name, model) for name, said in events.items() for model in _each(said)]
        if not kinds:
            data = {"type": "string", "contentMediaType": "application/json"}
            kinds = [{"type": "object", "properties": {"event": {"type": "string"}, "data": data}}]
        last = {"title": "[DONE]", "type": "object", "properties": DONE, "required": ["data"]}
        return {"description": "Each event of the stream.", "anyOf": [*kinds, last]}

    def _kind(self, name: str, model: Model) -> Schema:
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": self.answered(model),
        }
        return {
            "title": name if name != "message" else model.__name__,
            "type": "object",
            "properties": {"id": {"type": "string"}, "event": {"const": name}, "data": data},
            "required": ["data"] if name == "message" else ["event", "data"],
        }


def parameters(schemas: Schemas, model: Model, place: str) -> list[dict[str, Any]]:
    """What a request has in its path or its query."""
    fields, needed = schemas.fields(model)
    return [_parameter(name, place, schema, name in needed) for name, schema in fields.items()]


def models_of(events: Events) -> list[Model]:
    """Every model among a stream's events."""
    return [model for said in events.values() for model in _each(said)]


def _parameter(name: str, place: str, schema: Schema, needed: bool) -> dict[str, Any]:
    described = _without_null(schema)
    found: dict[str, Any] = {"name": name, "in": place, "required": needed or place == "path"}
    if (description := described.pop("description", None)) is not None:
        found["description"] = description
    if described.get("type") == "object":
        found |= {"style": "deepObject", "explode": True}
    return {**found, "schema": described}


def _without_null(schema: Schema) -> Schema:
    """The same without null, which no path and no query can say."""
    kept = {name: value for name, value in schema.items() if (name, value) != ("default", None)}
    kinds = [kind for kind in kept.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del kept["anyOf"]
        only: Schema = kinds[0] | kept
        return only
    return kept


def _each(said: Model | tuple[Model, ...]) -> tuple[Model, ...]:
    return said if isinstance(said, tuple) else (said,)


def _references(part: Any) -> set[str]:
    """The names of the schemas that a part refers to."""
    if isinstance(part, dict):
        ref = part.get("$ref")
        named = {ref.removeprefix(PREFIX)} if isinstance(ref, str) and ref.startswith(PREFIX) else set()
        return named.union(*map(_references, part.values()))
    return set().union(*map(_references, part)) if isinstance(part, list) else set()
