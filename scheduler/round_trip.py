"""Several commands and their replies in one round trip, with nothing beside.

A pipeline of redis-py keeps, converts and looks through what it sends and gets; for a submission that takes longer
than the rest of it. Its connections are used here as its own clients use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis import Redis
from redis.exceptions import ResponseError


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
