"""The asynchronous client of the official package, called as the other one is: so one scenario runs with both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import openai
from pydantic import BaseModel

CALL_SECONDS = 180.0

Run = Callable[[Callable[[], Any]], Any]


@contextmanager
def synchronous(client: openai.OpenAI) -> Iterator[openai.OpenAI]:
    """The client itself."""
    with client:
        yield client


@contextmanager
def asynchronous(client: openai.AsyncOpenAI) -> Iterator[openai.OpenAI]:
    """An asynchronous client, in an event loop of its own: its methods wait, its streams are plain iterators."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="event loop", daemon=True)
    thread.start()

    def run(call: Callable[[], Any]) -> Any:
        async def settled() -> Any:
            found = call()
            return await found if inspect.isawaitable(found) else found

        return asyncio.run_coroutine_threadsafe(settled(), loop).result(CALL_SECONDS)

    try:
        yield cast("openai.OpenAI", _Bridged(client, run))
    finally:
        run(client.close)
        run(loop.shutdown_asyncgens)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Bridged:
    """One of the package's objects, or one of their methods; what they hold and answer is so too, but for plain data."""

    def __init__(self, inner: Any, run: Run) -> None:
        self._inner, self._run = inner, run

    def __getattr__(self, name: str) -> Any:
        return self._of(getattr(self._inner, name))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._of(self._run(lambda: self._inner(*arguments, **named)))

    def __iter__(self) -> Iterator[Any]:
        items = self._inner.__aiter__()
        while True:
            try:
                yield self._of(self._run(lambda: anext(items)))
            except StopAsyncIteration:
                return

    def __enter__(self) -> Any:
        return self._of(self._run(self._inner.__aenter__))

    def __exit__(self, *raised: object) -> None:
        self._run(lambda: self._inner.__aexit__(*raised))

    def _of(self, found: Any) -> Any:
        theirs = type(found).__module__.partition(".")[0] == "openai"
        data = isinstance(found, BaseModel) and not hasattr(found, "__aiter__")
        return _Bridged(found, self._run) if inspect.isroutine(found) or (theirs and not data) else found
