"""Holding answers to a grammar, token by token, with the logits of no model at all."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.sample_utils import greedy_sampler
from mlx_lm.utils import load_tokenizer

from benchmarks.random_models import write_random_llama
from scheduler.errors import ClientError
from scheduler.request import JobRequest, read_request
from workers.constraint import Constraint, Phase, constrain
from workers.models import LoadedModel

VOCABULARY = 512
END = 258  # <|im_end|>
SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"enum": ["yes", "no", "né"]},
        "many": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["word", "many"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A token is a byte."""
    folder = tmp_path_factory.mktemp("model")
    return load_tokenizer(write_random_llama(folder, layers=1, hidden=8, heads=1, kv_heads=1))


@pytest.fixture
def loaded(tokenizer: Any) -> LoadedModel:
    """A model of which there is only the tokenizer."""
    return LoadedModel("m", None, tokenizer, 4096, VOCABULARY)


def asked(schema: Any = SCHEMA, **fields: Any) -> JobRequest:
    """A request for JSON of a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": form}
    return read_request(body | fields)


def held(loaded: LoadedModel, request: JobRequest, so_far: Sequence[int] = ()) -> Constraint:
    """What holds a job's answer."""
    constraint = constrain(loaded, request, so_far, "normal")
    assert constraint is not None
    return constraint


def write(constraint: Constraint, seed: int, most: int = 400) -> list[int]:
    """An answer from random logits; the step after the last token is begun, as mlx-lm does."""
    noise = random.Random(seed)
    draw = constraint.watched(greedy_sampler)
    tokens: list[int] = []
    while len(tokens) < most:
        logits = constraint(None, mx.array([[noise.random() for _ in range(VOCABULARY)]]))
        if constraint.ends:
            break
        token: Any = draw(logits).item()
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_is_of_its_schema(loaded: LoadedModel, seed: int) -> None:
    """Whatever the model would rather say; it ends where the grammar does, without an end token."""
    constraint = held(loaded, asked())
    tokens = write(constraint, seed)
    answer = json.loads(bytes(tokens).decode())
    assert answer["word"] in SCHEMA["properties"]["word"]["enum"]  # type: ignore[index]
    assert len(answer["many"]) <= 3
    assert constraint.ends == "stop"


def test_an_interrupted_answer_goes_on_as_if_it_had_not_been(loaded: LoadedModel) -> None:
    """From any of its tokens: the same may follow."""
    tokens = write(held(loaded, asked()), 3)
    flat = mx.zeros((1, VOCABULARY))
    calm = held(loaded, asked())
    for cut, token in enumerate(tokens):
        again = held(loaded, asked(), tokens[:cut])
        assert mx.array_equal(again(None, flat), calm(None, flat))
        drawn(calm, token)
    assert held(loaded, asked(), tokens).ends == "stop"


def drawn(constraint: Constraint, token: int) -> None:
    """Draw a token; what holds the answer sees it at the next step."""
    constraint.watched(lambda _: mx.array([token]))(mx.zeros((1, VOCABULARY)))


def may_follow(constraint: Constraint) -> set[int]:
    """The tokens that a step allows."""
    row: Any = constraint(None, mx.zeros((1, VOCABULARY)))[0].tolist()
    return {token for token, logit in enumerate(row) if logit == 0}


def test_the_end_comes_only_where_the_grammar_can_end(loaded: LoadedModel) -> None:
    """A number may go on, or the answer end; before it has begun it may not."""
    request = asked({"type": "integer", "minimum": 0, "maximum": 55})
    assert END not in may_follow(held(loaded, request))
    after = may_follow(held(loaded, request, [ord("5")]))
    assert after == {END, *map(ord, "012345")}
    assert held(loaded, request, [ord("5"), END]).ends == "stop"


def test_logits_keep_their_type_and_may_be_longer_than_the_vocabulary(loaded: LoadedModel) -> None:
    """What pads a model's vocabulary is never drawn."""
    said = held(loaded, asked())(None, mx.zeros((1, 1024), mx.bfloat16))
    assert said.dtype == mx.bfloat16
    assert mx.isfinite(said).sum().item() == mx.isfinite(said[:, :256]).sum().item() > 0


def test_logits_may_be_fewer_than_the_tokenizers_tokens(loaded: LoadedModel) -> None:
    """Marks and ends beyond them come never; where nothing is left that may come, that answer ends, and no other."""
    few = mx.zeros((1, ord("z")))
    constraint = constrain_with({300: Phase.FREE}, loaded, asked({"enum": ["a", "b"]}))
    assert mx.isfinite(constraint(None, few)).sum().item() == 1
    reasons = constrain_with({}, loaded, asked(), begins=Phase.REASONING)
    assert mx.isfinite(reasons(None, few)).all()
    stuck = held(loaded, asked({"enum": ["{"]}), b'"')
    assert stuck.ends is None
    assert mx.isfinite(stuck(None, few)).all() and stuck.ends == "length"


def constrain_with(
    openers: dict[int, Phase], loaded: LoadedModel, request: JobRequest, **how: Any
) -> Constraint:
    """What holds an answer that may begin otherwise."""
    matcher = loaded.grammars.matcher(request)
    assert matcher is not None
    return Constraint(matcher, openers=openers, ends=[END], reasoning_ends=[302], **how)


def test_reasoning_comes_first_and_free(loaded: LoadedModel) -> None:
    """Anything but an end is said until its end mark; then the grammar begins."""
    mark = list(b"</t>")
    matcher = loaded.grammars.matcher(asked())
    assert matcher is not None
    constraint = Constraint(matcher, begins=Phase.REASONING, reasoning_ends=mark, ends=[END])
    assert may_follow(constraint) == set(range(VOCABULARY)) - {END}
    for token in b"<//</t>":
        drawn(constraint, token)
        allowed = may_follow(constraint)
    assert allowed == {ord("{")}


def test_an_answer_may_begin_with_something_else(loaded: LoadedModel) -> None:
    """A reasoning's mark, or a call's: that frees it of its form. Only in the first place."""
    openers = {300: Phase.FREE, 301: Phase.REASONING}
    for opener, then in ((300, set(range(VOCABULARY))), (301, set(range(VOCABULARY)) - {END})):
        matcher = loaded.grammars.matcher(asked())
        assert matcher is not None
        constraint = Constraint(matcher, openers=openers, reasoning_ends=[302], ends=[END], so_far=[opener])
        assert may_follow(constraint) == then
    matcher = loaded.grammars.matcher(asked())
    assert matcher is not None
    assert may_follow(Constraint(matcher, openers=openers)) == {300, 301, ord("{")}
    reasoned = Constraint(matcher, openers=openers, reasoning_ends=[302], so_far=[301, 5, 302])
    assert may_follow(reasoned) == {300, ord("{")}


def test_a_grammar_is_compiled_once(loaded: LoadedModel) -> None:
    """Jobs that ask for the same have matchers of their own, of one grammar."""
    first, second = loaded.grammars.matcher(asked()), loaded.grammars.matcher(asked())
    assert first is not None and second is not None and first is not second
    first.consume_token(ord("{"))
    assert not second.is_error() and second.validate_tokens([ord("{")]) == 1
    assert loaded.grammars._compiled.cache_info().misses == 1


def test_what_cannot_be_imposed_is_the_clients_error(loaded: LoadedModel) -> None:
    """At the worker too, which trusts nothing that it reads."""
    with pytest.raises(ClientError) as caught:
        loaded.grammars.matcher(asked({"type": "wish"}))
    assert (caught.value.code, caught.value.param) == ("invalid_request", "response_format")


class Slow:
    """A tokenizer that is not one of Hugging Face's fast ones."""

    tool_parser = None
    eos_token_ids = frozenset({1})


def test_a_tokenizer_that_cannot_be_read_is_told(loaded: LoadedModel) -> None:
    """A bad request, not a crash."""
    other = LoadedModel("m", None, Slow(), 4096, VOCABULARY)
    with pytest.raises(ClientError, match="fast"):
        other.grammars.matcher(asked())


def test_a_job_that_asks_for_nothing_is_not_held(loaded: LoadedModel) -> None:
    """Nor is a tokenizer read for it."""
    assert constrain(loaded, read_request({"model": "m", "prompt": "a"}), [], "normal") is None
    assert "_words" not in vars(loaded.grammars)
