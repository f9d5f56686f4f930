"""`/v1/batches`: run a file of requests, look at how far it is, list and cancel, in OpenAI's shapes."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.batch_endpoints import ENDPOINTS
from api.batch_schemas import BatchAnswer, BatchList, BatchPath, BatchQuery, BatchRequest, page
from api.caller import caller
from api.once import REPLAYED, once
from api.services import services
from api.spec import ERRORS
from scheduler.errors import ClientError
from scheduler.stored_file import FILE_SECONDS
from scheduler.webhook_delivery import promise

routes = APIBlueprint("batches", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)


@routes.post("/v1/batches", responses={200: BatchAnswer})
def create(body: BatchRequest) -> Response:
    """Run each line of a file as a job of class `batch`; the answers come as a file.

    A line that cannot run costs only itself: it is told in the error file. `webhook` tells of the batch's end, by
    OpenAI's events. `Idempotency-Key` makes it safe to send the request again, as OpenAI's clients do it without.
    """
    if body.endpoint not in ENDPOINTS:
        reason = f"endpoint: one of {', '.join(ENDPOINTS)} is needed; this is {body.endpoint[:64]!r}"
        raise ClientError("invalid_request", reason, param="endpoint")
    here, owner, key = services(), caller().owner, caller().key
    if key is not None:
        key.insist_on_class("batch")
    same = once(owner)
    if (before := here.batches.made_before(same)) is not None:
        return answer(before.view(), headers=REPLAYED)
    try:
        file = here.files.get(body.input_file_id, owner)
    except ClientError as error:
        raise ClientError(error.code, error.message, param="input_file_id") from None
    if file.purpose != "batch":
        reason = f"input_file_id: the file's purpose is {file.purpose}, not batch"
        raise ClientError("invalid_request", reason, param="input_file_id")
    keep = body.output_expires_after.seconds if body.output_expires_after else FILE_SECONDS
    webhook = promise(body.webhook, here.settings, "batch")
    batch = here.batches.create(owner, body.endpoint, file, body.metadata, keep, webhook, same)
    here.feeder.wake()
    return answer(batch.view(), headers=REPLAYED if batch.replayed else {})


@routes.get("/v1/batches", responses={200: BatchList})
def list_batches(query: BatchQuery) -> Response:
    """List batches, newest first."""
    found, has_more = services().batches.page(caller().sees_stored, query.limit, query.after)
    return answer(page([batch.view() for batch in found], has_more))


@routes.get("/v1/batches/<batch_id>", responses={200: BatchAnswer})
def get_batch(path: BatchPath) -> Response:
    """Look at a batch."""
    return answer(services().batches.get(path.batch_id, caller().sees_stored).view())


@routes.post("/v1/batches/<batch_id>/cancel", responses={200: BatchAnswer})
def cancel(path: BatchPath) -> Response:
    """Cancel a batch: what waits or runs of it is stopped, and what was answered is written.

    Cancelling again, or a batch that ended by itself, changes nothing.
    """
    here = services()
    batch = here.batches.cancel(here.batches.get(path.batch_id, caller().sees_stored))
    here.feeder.wake()
    return answer(batch.view())
