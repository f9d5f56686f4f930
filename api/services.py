"""What every route works with, made once per process by :func:`api.app.create_app`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flask import current_app
from redis import Redis

from api.batch_feeder import BatchFeeder
from api.reader import Reader
from api.tide_reader import TideReader
from api.upload import Spool
from api.webhook_sender import WebhookSender
from scheduler.batch_rounds import Endpoint
from scheduler.batches import Batches
from scheduler.files import Files
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings
from scheduler.webhooks import Webhooks

EXTENSION = "tidegate"


@dataclass(frozen=True, slots=True)
class Services:
    """The settings, the verbs of jobs, the reader of their logs; files, batches, who feeds those; who sends webhooks.

    ``spool`` counts what is being uploaded; ``tide`` looks at the tide for those who watch it.
    """

    settings: Settings
    lifecycle: Lifecycle
    reader: Reader
    files: Files
    batches: Batches
    feeder: BatchFeeder
    sender: WebhookSender
    spool: Spool
    tide: TideReader


def make_services(
    connection: Redis,
    settings: Settings,
    endpoints: Mapping[str, Endpoint],
    clock: Callable[[], float] = time.time,
) -> Services:
    """A process's services; nothing is connected yet, and no thread runs.

    Args:
        connection: a client that answers bytes.
        settings: the process's settings.
        endpoints: the routes whose requests batches make, by path.
        clock: Unix seconds.
    """
    lifecycle = Lifecycle(connection, settings, clock)
    files = Files(connection, settings, clock)
    batches = Batches(lifecycle.queue, files, clock)
    feeder = BatchFeeder(lifecycle, files, batches, endpoints)
    sender = WebhookSender(Webhooks(connection, lifecycle.queue.swap), settings)
    reader = Reader(connection)
    for absence in (feeder.absence, sender.absence, reader.absence):
        absence.tally = lifecycle.tally
    spool = Spool(max(settings.max_files_bytes, settings.max_file_bytes))  # one alone is told how large it is
    return Services(settings, lifecycle, reader, files, batches, feeder, sender, spool, TideReader(lifecycle))


def services() -> Services:
    """The present application's."""
    found: Services = current_app.extensions[EXTENSION]
    return found
