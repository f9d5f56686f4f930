"""What can go wrong in the command itself, beside what the API answers.

scheduler.errors.TidegateError
├── ProcessFailed     a process that tidegate started did not start, or died
├── ApiUnreachable    nothing answers at the API's address, or something else does
├── UrlInvalid        the API's address is none
├── QueueUnreachable  nothing answers at the queue's address
├── ModelsMissing     nothing to serve was named, or a folder that is not there
└── JobCancelled      the job that was followed was cancelled
"""

from scheduler.errors import TidegateError


class ProcessFailed(TidegateError):
    """A process could not be started, did not become ready, or died; the message has its last log lines."""


class ApiUnreachable(TidegateError):
    """The API does not answer, or what answers is not tidegate's API.

    Args:
        message: what is wrong.
        for_good: whether to ask again is no use.
    """

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class UrlInvalid(TidegateError):
    """What was given as the API's address is not a URL."""


class QueueUnreachable(TidegateError):
    """The queue's server does not answer, or does not let this client in."""


class ModelsMissing(TidegateError):
    """No model was named that could be served, or one whose folder does not exist."""


class JobCancelled(TidegateError):
    """Somebody cancelled the job: there is no answer to go on with."""
