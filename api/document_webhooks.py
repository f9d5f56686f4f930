"""What this server sends by itself, as the OpenAPI document has it: the event that tells of a job's end."""

from __future__ import annotations

from typing import Any, Final

from api.document_schemas import Schemas
from api.schemas import WebhookEvent

_HEADERS: Final = {
    "webhook-id": ("The event's id, the same on every try.", {"type": "string", "pattern": "^evt_"}),
    "webhook-timestamp": ("When it was sent, in Unix seconds.", {"type": "string", "pattern": "^[0-9]+$"}),
    "webhook-signature": (
        "`v1,` and the HMAC of id, timestamp and body, as Standard Webhooks have it; `webhooks.unwrap` checks it.",
        {"type": "string", "pattern": "^v1,"},
    ),
}


def webhooks(schemas: Schemas) -> dict[str, Any]:
    """The document's ``webhooks``."""
    sent: dict[str, Any] = {
        "operationId": "webhook_job_ended",
        "summary": "Hear that a job ended.",
        "description": "Sent to the URL that is the job's `webhook`, signed with its secret or the operator's.",
        "tags": ["jobs"],
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": words, "schema": schema}
            for name, (words, schema) in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas.answered(WebhookEvent)}},
        },
        "responses": {"2XX": {"description": "Taken; whatever else comes, it is sent again.", "headers": {}}},
    }
    return {"job.ended": {"post": sent}}
