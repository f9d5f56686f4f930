"""The atomic step on the queue's server: guarded commands, together or not at all, in one round trip.

Rules live in Python; the server only guarantees the swap. A :class:`Swap` says what must be true
(guards) and what then happens (commands). Commands are recorded from redis-py's own pipeline, so RQ's
functions that write to a pipeline can be used inside a swap as they are. Several swaps travel together
and stand or fall alone: one step of a whole batch is one call. What they publish is published last, once
everything is written: nobody hears of what the server refused.

A script is no transaction: one that fails keeps what it did before the command that failed. So no command
here may fail behind another that wrote. A server that is full, read only, or lacks replicas refuses a script's
first write and none behind it (``script.c`` of Redis and Valkey). Numbers that a server would refuse, such as
an expiry beyond 64 bits of milliseconds, do not get so far: :mod:`scheduler.settings` and
:mod:`scheduler.request` bound them. What is left is a key of ours to which others gave another type; no verb
makes one, and a guard that reads such a key does not hold.

An event whose number its log already has is not written again, so a swap whose answer was lost can be
sent once more.

Wire form, all strings: count of swaps; per swap, count of guards, each ``op expected argc arg…``, then
count of commands, each ``argc arg…``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scheduler.errors import StoreUnavailable
from scheduler.round_trip import round_trip

_SCRIPT: Final = """
local at = 1
local function take() local value = ARGV[at]; at = at + 1; return value end
local function call()
  local args = {}
  for i = 1, tonumber(take()) do args[i] = take() end
  return args
end
local answers, told = {}, {}
for swap = 1, tonumber(take()) do
  local holds = 1
  for guard = 1, tonumber(take()) do
    local op, expected, args = take(), take(), call()
    if holds == 1 and op == 'done' then
      for before = swap - tonumber(expected), swap - 1 do
        if answers[before] ~= 1 then holds = 0 end
      end
    elseif holds == 1 then
      local reply = redis.pcall(unpack(args))
      local refused = type(reply) == 'table' and reply.err
      if refused and not string.find(refused, 'WRONGTYPE', 1, true) then return reply end
      if op == 'words' and not refused then
        for i = 1, #reply do reply[i] = reply[i] or '' end
        reply = table.concat(reply, '\\n')
      elseif type(reply) == 'table' then
        reply = reply.ok or #reply
      end
      if refused then
        holds = 0
      elseif op ~= '<=' then
        if tostring(reply or '') ~= expected then holds = 0 end
      elseif (tonumber(reply or 0) or 0) > tonumber(expected) then
        holds = 0
      end
    end
    if holds == 0 then answers[swap] = answers[swap] or -guard end
  end
  for command = 1, tonumber(take()) do
    local args = call()
    if holds == 1 and args[1] == 'PUBLISH' then
      told[#told + 1] = args
    elseif holds == 1 then
      local reply = redis.pcall(unpack(args))
      local refused = type(reply) == 'table' and reply.err
      local repeated = args[1] == 'XADD' and refused and string.find(refused, 'equal or smaller', 1, true)
      if refused and not repeated then return reply end
    end
  end
  if holds == 1 then answers[swap] = 1 end
end
for _, args in ipairs(told) do redis.call(unpack(args)) end
return answers
"""


Word = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Guard:
    """A command and what its reply must be: equal to ``expected``, or at most it; of several ``words``, a line each.

    With ``done`` there is no command: of the swaps that travel with this one, the ``expected`` last before it were done.
    """

    command: tuple[Word, ...]
    expected: Word
    op: Literal["=", "<=", "words", "done"] = "="


@dataclass(frozen=True, slots=True)
class Swap:
    """What must be true, and what then happens."""

    guards: tuple[Guard, ...] = ()
    commands: tuple[tuple[Word, ...], ...] = field(default=())

    def beside(self, other: Swap) -> Swap:
        """This and another as one; the other's guards come first, since the last guard of some takes a job away."""
        return Swap((*other.guards, *self.guards), (*self.commands, *other.commands))


def record(connection: Redis, write: Callable[[Pipeline], object]) -> tuple[tuple[Word, ...], ...]:
    """The commands that ``write`` puts on a pipeline, not sent."""
    pipeline = connection.pipeline(transaction=False)
    write(pipeline)
    return tuple(command[0] for command in pipeline.command_stack)


def encode(swaps: Sequence[Swap]) -> list[Word]:
    """The wire form."""
    words: list[Word] = [len(swaps)]
    for swap in swaps:
        words.append(len(swap.guards))
        for guard in swap.guards:
            words += [guard.op, guard.expected, len(guard.command), *guard.command]
        words.append(len(swap.commands))
        for command in swap.commands:
            words += [len(command), *command]
    return words


STORE_ERRORS: Final = (StoreUnavailable, RedisError)
"""Whatever says that the server is away, full, or read only: try again later."""


_AWAY: Final = (RedisConnectionError, RedisTimeoutError, MasterDownError, OutOfMemoryError, ReadOnlyError)
_AWAY_CODES: Final = frozenset({"BUSY", "MISCONF", "NOREPLICAS"})  # redis-py has no classes for these


def says_away(error: Exception) -> bool:
    """Whether an error of a command says that the server is away, full or read only; not that the command is wrong."""
    return isinstance(error, _AWAY) or (
        isinstance(error, RedisError) and str(error).partition(" ")[0] in _AWAY_CODES
    )


class Swapper:
    """Runs swaps on one server.

    Args:
        connection: a client that answers bytes.
    """

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._script: Any = connection.register_script(_SCRIPT)

    def __call__(self, *swaps: Swap) -> list[int]:
        """Run each swap.

        Returns:
            For each, 1 where it was done, else minus the number (from 1) of the guard that failed.

        Raises:
            StoreUnavailable: the server did not answer, or takes no writes now; each swap was done once or
                not at all.
        """
        with _telling():
            return list(self._script(args=encode(swaps)))

    def and_read(self, swap: Swap, reads: Sequence[tuple[Word, ...]]) -> tuple[int, list[Any]]:
        """Run a swap and read what is so behind it, in one round trip.

        Args:
            swap: what to do.
            reads: commands that only read.

        Returns:
            The swap's answer, and the replies to the reads.

        Raises:
            StoreUnavailable: as above.
        """
        with _telling():
            try:
                script = ("EVALSHA", self._script.sha, 0, *encode([swap]))
                (done,), *replies = round_trip(self._connection, [script, *reads])
            except NoScriptError:  # the server is new, or forgot it: nothing was done
                done = self(swap)[0]
                replies = round_trip(self._connection, reads)
            return int(done), replies


@contextmanager
def _telling() -> Iterator[None]:
    """Tell of a server that is away by the one error of its kind."""
    try:
        yield
    except RedisError as error:
        if says_away(error):
            raise StoreUnavailable(str(error)) from error
        raise
