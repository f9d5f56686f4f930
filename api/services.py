"""What every route works with, made once per process by :func:`api.app.create_app`."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from api.reader import Reader
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings

EXTENSION = "tidegate"


@dataclass(frozen=True, slots=True)
class Services:
    """The settings, the verbs of jobs, and the reader of their logs."""

    settings: Settings
    lifecycle: Lifecycle
    reader: Reader


def services() -> Services:
    """The present application's."""
    found: Services = current_app.extensions[EXTENSION]
    return found
