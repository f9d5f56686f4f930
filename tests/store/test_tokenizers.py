"""Prompts counted at submit, with the tokenizer that a worker has published, and without."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from redis import Redis
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from scheduler import tokenizers
from scheduler.errors import ClientError
from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from scheduler.settings import Settings
from scheduler.tokenizers import (
    COUNTED_CHARACTERS,
    PUBLISHED_SECONDS,
    SAMPLE,
    PromptCounter,
    PromptShape,
    PromptTokens,
    digest_of,
    prompts_key,
    publish,
    tokenizer_key,
)
from tests.conftest import MODEL
from tests.pretend_worker import CARD, PretendWorker
from tests.store.conftest import Submit


def a_tokenizer() -> Tokenizer:
    """A word a token, a token before each prompt, and a cut that a prompt's count must not heed."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "[BOS]": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing("[BOS] $0", None, [("[BOS]", 1)])  # type: ignore[assignment]
    made.enable_truncation(5)
    return made


CONTENT = a_tokenizer().to_str().encode()
SHAPE = PromptShape(digest_of(CONTENT), len(SAMPLE.split()) + 1, base_tokens=20, message_tokens=7)


def say(connection: Redis, shape: PromptShape = SHAPE, content: bytes = CONTENT) -> bool:
    """Publish it for the test's model."""
    return publish(connection, MODEL, shape, lambda: content)


def count(connection: Redis, **fields: Any) -> PromptTokens:
    """How long a request's prompt is to one who has not counted before."""
    return PromptCounter(connection).count(read_request({"model": MODEL} | fields))


def by_bytes(**fields: Any) -> PromptTokens:
    """How long it is where nothing is published."""
    request = read_request({"model": MODEL} | fields)
    return PromptTokens(request.prompt_tokens_least, request.prompt_tokens_likely)


WORDS: dict[str, Any] = {"prompt": "a b c d e f g h " * 20}
TALK: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one two three four five six"},
    ]
}


def test_a_plain_prompt_is_counted_exactly(connection: Redis) -> None:
    """With the tokens that stand before each, whatever the file says of cutting; least and likely agree."""
    say(connection)
    assert count(connection, **WORDS) == PromptTokens(161, 161)


def test_a_chat_is_counted_without_its_template(connection: Redis) -> None:
    """The words, what stands around each message, what stands around all; the bytes bound it from below."""
    say(connection)
    counted = count(connection, **TALK)
    assert counted == PromptTokens(by_bytes(**TALK).least, 8 + 2 * 7 + 20)


def test_tools_and_calls_are_counted_as_their_json(connection: Redis) -> None:
    """What a template writes out of a message that has more than text."""
    say(connection)
    plain = count(connection, **TALK).likely
    tool = {"type": "function", "function": {"name": "rain", "parameters": {}}}
    assert count(connection, **TALK, tools=[tool]).likely > plain
    said = [*TALK["messages"], {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}]
    assert count(connection, messages=said).likely > plain + 7


def test_a_submitted_job_has_the_count(connection: Redis, submit: Submit) -> None:
    """Its work, its row; not yet counted, since the worker counts once more."""
    say(connection)
    rec = submit(**WORDS)
    assert (rec.meta.prompt_tokens, rec.meta.work_tokens, rec.meta.counted) == (161, 171, False)


def test_an_exact_count_is_what_never_fits_goes_by(
    connection: Redis, settings: Settings, lifecycle: Lifecycle, worker: PretendWorker
) -> None:
    """A prompt whose bytes alone would leave it open is refused, once its words were counted."""
    worker.report(budget_bytes=CARD.weights_bytes + (2 << 20))
    fields = {"model": MODEL, "prompt": "a " * 4000, "max_tokens": 10}
    lifecycle.cancel(lifecycle.submit(read_request(fields)).id)
    say(connection)
    with pytest.raises(ClientError, match="memory") as caught:
        Lifecycle(connection, settings).submit(read_request(fields))  # one that knows nothing older
    assert caught.value.code == "memory_never_fits"


def test_a_tokenizer_that_counts_otherwise_than_the_engine_is_no_bound(connection: Redis) -> None:
    """The sample tells; the count is still the likely one."""
    say(connection, PromptShape(SHAPE.digest, SHAPE.sample_tokens + 1, 20, 7))
    assert count(connection, **WORDS) == PromptTokens(by_bytes(**WORDS).least, 161)


def test_a_model_without_a_template_leaves_chats_to_their_bytes(connection: Redis) -> None:
    """Its plain prompts are counted."""
    say(connection, PromptShape(SHAPE.digest, SHAPE.sample_tokens))
    assert count(connection, **TALK) == by_bytes(**TALK)
    assert count(connection, **WORDS).least == 161


@pytest.mark.parametrize("messages", [False, True], ids=["prompt", "chat"])
def test_a_long_text_is_counted_by_its_beginning(
    connection: Redis, messages: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a count's cost is bounded: half a million words are within a hundredth, hardly read."""
    seen: list[int] = []
    true_encode = Tokenizer.encode

    class Spied:
        def __init__(self, inner: Tokenizer) -> None:
            self.inner = inner

        def encode(self, text: str, **options: Any) -> Any:
            seen.append(len(text))
            return true_encode(self.inner, text, **options)

    true_load = PromptCounter._load
    monkeypatch.setattr(PromptCounter, "_load", lambda self, digest: Spied(true_load(self, digest)))  # type: ignore[arg-type]
    say(connection)
    text = "word " * 500_000
    fields: dict[str, Any] = (
        {"messages": [{"role": "user", "content": text[half::2]} for half in (0, 1)]}
        if messages
        else {"prompt": text}
    )
    words = sum(len(m["content"].split()) for m in fields.get("messages", ())) or 500_000
    found = count(connection, **fields)
    assert found.likely == pytest.approx(words, rel=0.01)
    assert found.least == by_bytes(**fields).least
    assert sum(seen) <= COUNTED_CHARACTERS + len(SAMPLE)


def garbage(connection: Redis, content: bytes) -> None:
    connection.set(tokenizer_key(SHAPE.digest), content, ex=60)


def of_another_type(connection: Redis, key: str) -> None:
    connection.delete(key)
    connection.hset(key, "a", "b")
    connection.expire(key, 60)


SPOILS: dict[str, Any] = {
    "lapsed": lambda store: store.delete(tokenizer_key(SHAPE.digest)),
    "no zlib": lambda store: garbage(store, b"\x80\x04N."),
    "cut": lambda store: garbage(store, zlib.compress(CONTENT)[:-20]),
    "another's": lambda store: garbage(store, zlib.compress(CONTENT + b" ")),
    "hash for a tokenizer": lambda store: of_another_type(store, tokenizer_key(SHAPE.digest)),
    "hash for a shape": lambda store: of_another_type(store, prompts_key(MODEL)),
    "no JSON": lambda store: store.set(prompts_key(MODEL), b"\xff", ex=60),
    "no digest": lambda store: store.set(
        prompts_key(MODEL), b'{"digest": "../x", "sample_tokens": 1}', ex=60
    ),
    "below none": lambda store: store.set(
        prompts_key(MODEL), b'{"digest": "%s", "sample_tokens": -1}' % SHAPE.digest.encode(), ex=60
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_is_not_a_published_tokenizer_counts_as_none(connection: Redis, spoil: str) -> None:
    """Corrupt, foreign or gone: prompts are estimated by their bytes, and nobody fails."""
    say(connection)
    assert count(connection, **WORDS).likely == 161
    SPOILS[spoil](connection)
    assert count(connection, **WORDS) == by_bytes(**WORDS)


def test_no_more_is_unpacked_than_a_tokenizer_may_have(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much a few bytes would become."""
    monkeypatch.setattr(tokenizers, "PLAIN_MOST_BYTES", len(CONTENT) - 1)
    say(connection)
    assert count(connection, **WORDS) == by_bytes(**WORDS)


def test_a_file_that_is_no_tokenizer_counts_as_none(connection: Redis) -> None:
    """Though its digest is right."""
    say(connection, PromptShape(digest_of(b"{}"), 1), b"{}")
    assert count(connection, **WORDS) == by_bytes(**WORDS)


def test_a_tokenizer_that_comes_later_is_used(connection: Redis) -> None:
    """A counter that found none looks again half a second later; one that has loaded it does not."""
    moments = iter([0.0, 0.4, 0.6, 1.2])
    counter = PromptCounter(connection, lambda: next(moments))
    request = read_request({"model": MODEL} | WORDS)
    assert counter.count(request) == by_bytes(**WORDS)
    say(connection)
    assert counter.count(request) == by_bytes(**WORDS)
    assert counter.count(request).likely == 161
    connection.delete(tokenizer_key(SHAPE.digest))
    assert counter.count(request).likely == 161


def test_a_tokenizer_lies_there_once_and_lapses(connection: Redis) -> None:
    """However many models have it; publishing anew renews it without reading the file."""
    assert say(connection)
    connection.expire(tokenizer_key(SHAPE.digest), 5)
    assert publish(connection, "another", SHAPE, pytest.fail)
    assert sorted(connection.keys("tidegate:*")) == sorted(  # type: ignore[type-var, arg-type]
        key.encode() for key in (prompts_key(MODEL), prompts_key("another"), tokenizer_key(SHAPE.digest))
    )
    for key in (tokenizer_key(SHAPE.digest), prompts_key("another")):
        assert PUBLISHED_SECONDS - 60 < connection.ttl(key) <= PUBLISHED_SECONDS  # type: ignore[operator]


def test_a_tokenizer_too_large_is_not_published(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written."""
    monkeypatch.setattr(tokenizers, "COMPRESSED_MOST_BYTES", 10)
    assert not say(connection)
    assert connection.keys() == []
