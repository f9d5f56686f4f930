"""The bounds of a job's fields in the schema of a request that becomes a job: the job validates them."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from api.plain_schema import Plain
from scheduler.request import JobRequest

_LENGTHS: Final = ("minItems", "maxItems")


def with_job_bounds(schema: dict[str, Any], model: Any) -> None:
    """Give a model's schema the bounds of the job's fields; pydantic calls it as ``json_schema_extra``.

    Args:
        schema: the model's, changed in place.
        model: most of its fields are a job's under the same name; ``not_the_jobs`` has the names of the others, and
            ``jobs_names`` what the job calls those of them that are its own.
    """
    for name, said in schema["properties"].items():
        named = model.jobs_names.get(name, "" if name in model.not_the_jobs else name)
        job = _job_fields().get(named)
        if job is None or any("minimum" in kind for kind in said.get("anyOf", ())):
            continue  # not the job's, or with bounds of its own
        kinds = job.get("anyOf", [job])
        if "$ref" not in repr(job):
            described = {"description": said["description"]} if "description" in said else {}
            schema["properties"][name] = {"anyOf": kinds} | described if len(kinds) > 1 else job | described
        elif said.get("type") == "array":
            said |= {length: kinds[0][length] for length in _LENGTHS if length in kinds[0]}


@cache
def _job_fields() -> dict[str, dict[str, Any]]:
    properties: dict[str, dict[str, Any]] = JobRequest.model_json_schema(schema_generator=Plain)["properties"]
    return properties
