"""What a server's process does to its log when it starts: how much is said there, and what is amiss from the start."""

from __future__ import annotations

import logging
import os

import structlog

from scheduler.settings import Settings
from scheduler.spelling import complaints

log = structlog.get_logger(__name__)


def begin(settings: Settings) -> None:
    """Log no more than the settings say; warn of variables that look like settings and are none."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    for complaint in complaints(os.environ):
        log.warning("a variable is not read", reason=complaint)
