"""Counting a prompt's tokens at the API, with the tokenizers that workers publish.

Keys::

    tidegate:prompts:{model}      string (JSON); a :class:`PromptShape`: which tokenizer, and what is put around
    tidegate:tokenizer:{digest}   string; a ``tokenizer.json``, compressed by zlib, under its SHA-256

Both lapse an hour after the last worker that serves the model renewed them. A chat template is code and is
neither published nor rendered here: what it adds was measured where the model runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter
from redis import Redis
from redis.exceptions import ResponseError
from tokenizers import Tokenizer

from scheduler.request import JobRequest

PUBLISHED_SECONDS: Final = 3600
COMPRESSED_MOST_BYTES: Final = 64 << 20
PLAIN_MOST_BYTES: Final = 256 << 20

COUNTED_CHARACTERS: Final = 1 << 14
"""What of a prompt is counted, in 15 to 30 ms; what follows is taken to be like it."""

FRESH_SECONDS: Final = 0.5
"""How old what is known of a model's tokenizer may be."""

_LOADED_MOST: Final = 4
"""Tokenizers in memory; loading one of 3.5 MB took 0.13 s."""

SAMPLE: Final = "The naïve fox’s  12,345 jumps:\n\n\tdef f(x): return {'a': [x + 1.5]}  # 中文, مرحبا, 🌊\n"
"""Counted where the model runs and here: where the counts differ, something is done to a text there that
``tokenizer.json`` does not say."""

Count = Annotated[int, Field(ge=0, le=1 << 20)]


@dataclass(frozen=True, slots=True)
class PromptShape:
    """How a model makes tokens of prompts.

    Args:
        digest: SHA-256 of its ``tokenizer.json``, in hexadecimal.
        sample_tokens: what :data:`SAMPLE` makes as a plain prompt.
        base_tokens: what the chat template puts around all messages; None where it takes none.
        message_tokens: what it puts around each.
    """

    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    sample_tokens: Count
    base_tokens: Count | None = None
    message_tokens: Count = 0


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """How long a prompt is: at least, and probably. Equal where it was counted as the worker will."""

    least: int
    likely: int


_SHAPE: Final = TypeAdapter(PromptShape)  # whoever writes to the server may have written it


def prompts_key(model: str) -> str:
    """How a model makes tokens of prompts."""
    return f"tidegate:prompts:{model}"


def tokenizer_key(digest: str) -> str:
    """A tokenizer."""
    return f"tidegate:tokenizer:{digest}"


def digest_of(content: bytes) -> str:
    """A tokenizer's name."""
    return hashlib.sha256(content).hexdigest()


def publish(connection: Redis, model: str, shape: PromptShape, content: Callable[[], bytes]) -> bool:
    """Publish a model's tokenizer, or renew it; False where it is too large.

    Args:
        connection: the store.
        model: its name.
        shape: what was measured.
        content: reads its ``tokenizer.json``; called where the store has it not.
    """
    key = tokenizer_key(shape.digest)
    if not connection.expire(key, PUBLISHED_SECONDS):
        packed = zlib.compress(content(), level=1)
        if len(packed) > COMPRESSED_MOST_BYTES:
            return False
        connection.set(key, packed, ex=PUBLISHED_SECONDS)
    connection.set(prompts_key(model), _SHAPE.dump_json(shape), ex=PUBLISHED_SECONDS)
    return True


class PromptCounter:
    """Counts prompts, with a tokenizer where one is published, else by their bytes.

    Args:
        connection: a client that answers bytes.
        clock: seconds.
    """

    def __init__(self, connection: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection, self._clock = connection, clock
        self._shapes: dict[str, tuple[float, PromptShape | None]] = {}
        self._tokenizer = lru_cache(_LOADED_MOST)(self._load)

    def count(self, request: JobRequest) -> PromptTokens:
        """How long a request's prompt is."""
        guess = PromptTokens(request.prompt_tokens_least, request.prompt_tokens_likely)
        shape = self._shape(request.model)
        if shape is None or (request.messages is not None and shape.base_tokens is None):
            return guess
        try:
            tokenizer = self._tokenizer(shape.digest)
            return _counted(tokenizer, shape, request) if tokenizer is not None else guess
        except Exception:  # noqa: BLE001 - it is not there; or a tokenizer raises whatever a text provokes
            return guess

    def _shape(self, model: str) -> PromptShape | None:
        """What is published of a model; read at most twice a second."""
        now = self._clock()
        read_at, shape = self._shapes.get(model, (-math.inf, None))
        if not 0 <= now - read_at < FRESH_SECONDS:
            shape = self._read_shape(model)
            self._shapes[model] = (now, shape)
        return shape

    def _read_shape(self, model: str) -> PromptShape | None:
        with suppress(ResponseError, ValueError):
            text: Any = self._connection.getrange(prompts_key(model), 0, 4096)
            return _SHAPE.validate_json(text)
        return None

    def _load(self, digest: str) -> Tokenizer | None:
        """A tokenizer; None where what is published under its name is another, or none.

        Raises:
            LookupError: nothing is published.
        """
        packed: Any = self._connection.getrange(tokenizer_key(digest), 0, COMPRESSED_MOST_BYTES)
        if not packed:
            raise LookupError(digest)
        try:
            content = zlib.decompressobj().decompress(packed, PLAIN_MOST_BYTES)
            if digest_of(content) != digest:
                return None
            tokenizer = Tokenizer.from_buffer(content)
        except Exception:  # noqa: BLE001 - the library raises nothing more precise
            return None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def _counted(tokenizer: Tokenizer, shape: PromptShape, request: JobRequest) -> PromptTokens:
    texts = _texts(request)
    if request.messages is not None:
        around = (shape.base_tokens or 0) + shape.message_tokens * len(request.messages)
        likely = around + _tokens(tokenizer, texts, special=False)
        return PromptTokens(min(request.prompt_tokens_least, likely), likely)
    tokens = max(1, _tokens(tokenizer, texts, special=True))
    exact = len(texts[0]) <= COUNTED_CHARACTERS and len(tokenizer.encode(SAMPLE)) == shape.sample_tokens
    return PromptTokens(tokens if exact else min(request.prompt_tokens_least, tokens), tokens)


def _texts(request: JobRequest) -> list[str]:
    """Everything that becomes prompt text; what is not text itself, as the JSON that templates write."""
    if request.messages is None:
        return [request.prompt or ""]
    rest = [m.model_dump(exclude={"role", "content"}, exclude_none=True) for m in request.messages]
    fields = [*filter(None, rest), *(request.tools or ())]
    return [message.text for message in request.messages] + [json.dumps(each) for each in fields]


def _tokens(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool) -> int:
    """About how many tokens texts make, from their first characters.

    Args:
        tokenizer: the model's.
        texts: in order; each begins a token.
        special: whether a text gets the tokens that stand around a plain prompt.
    """
    room, tokens = COUNTED_CHARACTERS, 0
    for text in texts:
        tokens += len(tokenizer.encode(text[:room], add_special_tokens=special))
        room = max(0, room - len(text))
        if not room:
            break
    seen, whole = COUNTED_CHARACTERS - room, sum(map(len, texts))
    return -(-tokens * whole // seen) if whole > seen else tokens
