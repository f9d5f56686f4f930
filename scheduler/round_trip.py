"""Several commands and their replies in one round trip, with nothing beside.

A pipeline of redis-py keeps, converts and looks through what it sends and gets; for a submission that takes longer
than the rest of it. Its connections are used here as its own clients use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hiredis import pack_command
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

_FOREIGN: Final = (
    *("WRONGTYPE", "is not an integer", "is not a valid float", "value is not a float"),
    "exhausted the last possible ID",  # a stream that has an entry at the end of all numbers takes no other
)


def round_trip(client: Redis, commands: Sequence[tuple[str | bytes | float, ...]]) -> list[Any]:
    """Send commands together; their replies, as the server gives them.

    Nothing is sent twice, whatever the client's own rule is.

    Args:
        client: whose connection is used; one that answers bytes.
        commands: at least one.

    Raises:
        RedisError: the server did not answer, or the first error among the replies, as the server words it.
    """
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    replies: list[Any] = []
    try:
        packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # of any length
        connection.send_packed_command([packed])
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
    except BaseException:
        connection.disconnect()  # what is still to come would be read as another command's reply
        raise
    finally:
        pool.release(connection)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def replies_of(pipeline: Pipeline) -> list[Any]:
    """The replies to a pipeline's reads; None where others gave a key another type: what it held is gone.

    Raises:
        RedisError: the server did not answer, or refused a command for another reason.
    """
    replies = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not is_foreign(reply):
            raise reply
    return [None if isinstance(reply, Exception) else reply for reply in replies]


def is_foreign(error: Exception) -> bool:
    """Whether the server refused a command for what others wrote: a key of another type, a count that is no number."""
    return isinstance(error, ResponseError) and any(words in str(error) for words in _FOREIGN)
