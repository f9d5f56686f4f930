"""What can go wrong in the command itself, beside what the API answers.

scheduler.errors.TidegateError
├── ProcessFailed     a process that tidegate started did not start, or died
├── ApiUnreachable    nothing answers at the API's address, or something else does
└── ModelsMissing     nothing to serve was named
"""

from scheduler.errors import TidegateError


class ProcessFailed(TidegateError):
    """A process could not be started, did not become ready, or died; the message has its last log lines."""


class ApiUnreachable(TidegateError):
    """The API does not answer, or what answers is not tidegate's API."""


class ModelsMissing(TidegateError):
    """No model was named that could be served."""
