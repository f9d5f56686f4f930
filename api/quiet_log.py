"""gunicorn's log, in which an exception is told by its kind and its place: its text may quote a prompt or a key.

gunicorn logs tracebacks with their exceptions' texts, and the whole target of a request that failed, whose query may
have a key that somebody put there. Whatever is imported here is imported before gevent patches the process.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, Final

from gunicorn.glogging import Logger

_FRAMES_MOST: Final = 8


class QuietLog(Logger):
    """See the module."""

    def exception(self, msg: str, *_: Any, **__: Any) -> None:
        """What failed, as gunicorn's own words begin; the exception's type, and where it was."""
        error = sys.exc_info()[1]
        frames = traceback.extract_tb(error.__traceback__) if error is not None else []
        where = " ".join(f"{frame.filename}:{frame.lineno}" for frame in frames[-_FRAMES_MOST:])
        self.error_log.error("%s: %s at %s", msg.partition("%")[0].strip(), type(error).__name__, where)

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """As gunicorn says it, with the type of an exception in its place: one quotes what was sent."""
        told = (type(each).__name__ if isinstance(each, BaseException) else each for each in args)
        super().debug(msg, *told, **kwargs)  # type: ignore[no-untyped-call]
