"""What the routes of jobs take in their queries: a page's filters, how long to wait."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from api.schemas import JobId, Priority, Seconds, Status

_METADATA: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


class ResultQuery(BaseModel):
    """How long to wait for a job's end, in seconds."""

    model_config = _STRICT

    wait: Seconds = 0


class ListQuery(BaseModel):
    """A page and its filters, which are taken together."""

    model_config = _STRICT

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: Annotated[JobId | None, Field(description="The page begins behind this job.")] = None
    before: Annotated[JobId | None, Field(description="The page ends right before this job.")] = None
    order: Annotated[Literal["asc", "desc"], Field(description="`desc`: newest first.")] = "desc"
    status: Annotated[
        tuple[Status, ...], Field(max_length=6, description="Any of these; separated by commas, or repeated.")
    ] = ()
    model: str | None = None
    priority: Priority | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16, description="Each of these entries: `metadata[key]=value`."),
    ] = {}

    @field_validator("status", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        """Read ``status=a,b``; a fault is told of the parameter, whose parts have no names."""
        if not isinstance(value, list):
            return value
        states = tuple(part for said in value for part in str(said).split(","))
        if not set(states) <= set(get_args(Status)):
            raise ValueError(f"each must be one of {', '.join(get_args(Status))}")
        return states

    @model_validator(mode="before")
    @classmethod
    def _entries(cls, data: object) -> object:
        """Read ``metadata[key]=value``."""
        if not isinstance(data, dict):
            return data
        plain = {name: value for name, value in data.items() if not _METADATA.fullmatch(str(name))}
        entries = {found[1]: data[name] for name in data if (found := _METADATA.fullmatch(str(name)))}
        return plain | ({"metadata": entries} if entries and "metadata" not in plain else {})
