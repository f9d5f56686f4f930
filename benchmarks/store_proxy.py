"""Stands between each process and the server, and strikes at the very moment of a job's transition.

Each process has a socket of its own here, so that its connections can be cut, and what it sends is known to be its own.
A strike is armed for a moment (:data:`benchmarks.swap_reader.MOMENTS`): the next command that makes it is held, either
before the server has it or after it was executed and before the answer goes back, and then, to the process that sent it:

``kill``    it is killed; the command, or the answer, is never delivered
``cut``     the connection is closed; the command, or the answer, is never delivered
``pause``   it is stopped for longer than its lease; the command, or the answer, is delivered as it wakes up

Runs in a thread of its own, an event loop for all connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from benchmarks.swap_reader import Move, answers, moves, split

_CHUNK: Final = 1 << 16
_ANSWER_SECONDS: Final = 2.0
"""How long an answer is waited for; the server itself may have been killed."""

Answer = TypeVar("Answer")
When = Literal["before", "after"]
Deed = Literal["kill", "cut", "pause"]
Send = Callable[[str, int], bool]
"""Signals the process of a name; False where there is none."""


@dataclass(slots=True)
class Strike:
    """What shall happen once, at a moment."""

    moment: str
    when: When
    deed: Deed
    struck: str = ""
    """Whom it hit; empty while it is armed."""


@dataclass(eq=False, slots=True)
class _Link:
    """One connection: both its ends, and the answers that are held back."""

    down: asyncio.StreamWriter
    up: asyncio.StreamWriter
    holds: bool = False
    held: bytes = b""
    replied: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        """Cut it."""
        for writer in (self.down, self.up):
            with contextlib.suppress(RuntimeError):  # the loop has ended
                writer.transport.abort()


class StoreProxy:
    """The sockets of all processes.

    Args:
        server: the server's own socket.
        send: signals a process.
        pause_seconds: how long a pause lasts.
    """

    def __init__(self, server: Path, send: Send, pause_seconds: float) -> None:
        self._server, self._send, self._pause_seconds = server, send, pause_seconds
        self._armed: list[Strike] = []
        self._links: dict[str, set[_Link]] = {}
        self._listening: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self, name: str, path: Path) -> None:
        """Listen for a process."""
        self._links[name] = set()

        async def listen() -> None:
            listening = await asyncio.start_unix_server(
                lambda reader, writer: self._serve(name, reader, writer), os.fspath(path), limit=_CHUNK
            )
            self._listening.append(listening)

        self._run(listen())

    def arm(self, strike: Strike) -> None:
        """Let a strike happen at its next moment."""
        self._loop.call_soon_threadsafe(self._armed.append, strike)

    def disarm(self) -> None:
        """Let no more strikes happen."""
        self._loop.call_soon_threadsafe(self._armed.clear)

    def cut(self, name: str) -> int:
        """Close a process's connections; how many there were."""

        async def close() -> int:
            links = list(self._links[name])
            for link in links:
                link.close()
            return len(links)

        return self._run(close())

    def close(self) -> None:
        """End."""

        async def end() -> None:
            for server in self._listening:
                server.close()
            for links in self._links.values():
                for link in [*links]:
                    link.close()
            tasks = [*self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # for the transports to close their sockets

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, does: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(does, self._loop).result()

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            from_server, to_server = await asyncio.open_unix_connection(os.fspath(self._server), limit=_CHUNK)
        except OSError:  # the server is down
            writer.transport.abort()
            self._tasks.discard(task)
            return
        link = _Link(writer, to_server)
        self._links[name].add(link)
        answering = asyncio.create_task(_answer(link, from_server))
        try:
            with contextlib.suppress(OSError, ValueError, asyncio.CancelledError):
                await self._ask(name, link, reader)
        finally:
            link.close()
            answering.cancel()
            self._links[name].discard(link)
            self._tasks.discard(task)

    async def _ask(self, name: str, link: _Link, reader: asyncio.StreamReader) -> None:
        """Carry commands to the server, one strike at a time."""
        rest = b""
        while data := await reader.read(_CHUNK):
            commands, rest = split(rest + data)
            for raw, words in commands:
                made = moves(words) if self._armed else []
                strike, move = self._due(made)
                if link.up.is_closing():
                    return
                if strike is None or move is None:
                    link.up.write(raw)
                elif not await self._strike(name, link, raw, strike, move):
                    return
            await link.up.drain()

    def _due(self, made: list[Move]) -> tuple[Strike | None, Move | None]:
        for move in made:
            for strike in self._armed:
                if strike.moment == move.moment:
                    self._armed.remove(strike)
                    return strike, move
        return None, None

    async def _strike(self, name: str, link: _Link, raw: bytes, strike: Strike, move: Move) -> bool:
        """Do a strike; whether the connection goes on."""
        if strike.when == "after":
            link.holds = True
            link.replied.clear()
            link.up.write(raw)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.replied.wait(), _ANSWER_SECONDS)
            done = answers(link.held)
            if len(done) <= move.swap or done[move.swap] != 1:  # its guards did not hold: it made no move
                self._armed.append(strike)
                return self._deliver(link)
        if strike.deed == "kill" and not self._send(name, signal.SIGKILL):
            strike.deed = "cut"
        strike.struck = f"{name} {move.job_id}"
        if strike.deed != "pause":
            return False
        self._send(name, signal.SIGSTOP)
        await asyncio.sleep(self._pause_seconds)
        if strike.when == "before" and not link.up.is_closing():
            link.up.write(raw)
        self._send(name, signal.SIGCONT)
        return self._deliver(link)

    def _deliver(self, link: _Link) -> bool:
        held, link.held, link.holds = link.held, b"", False
        if held and not link.down.is_closing():
            link.down.write(held)
        return not link.down.is_closing()


async def _answer(link: _Link, from_server: asyncio.StreamReader) -> None:
    """Carry answers back."""
    with contextlib.suppress(OSError):
        while data := await from_server.read(_CHUNK):
            if link.holds:
                link.held += data
                link.replied.set()
            else:
                link.down.write(data)
                await link.down.drain()
                if link.down.is_closing():
                    break
    link.close()
