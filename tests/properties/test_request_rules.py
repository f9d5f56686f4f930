"""Requests through Redis and back, and whatever a client may send."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import ClientError
from scheduler.job import JOB_ID, Lease, new_job_id
from scheduler.record import Meta
from scheduler.request import JobRequest, read_request

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), min_size=1, max_size=3)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": text | parts},
    optional={"name": text, "mood": text},
)
requests = st.fixed_dictionaries(
    {"model": text},
    optional={
        "max_tokens": st.integers(1, 1 << 20),
        "temperature": st.floats(0, 2),
        "top_k": st.integers(0, 1 << 20),
        "logit_bias": st.dictionaries(
            st.integers(0, (1 << 32) - 1).map(str), st.floats(-100, 100), max_size=3
        ),
        "seed": st.integers(-(1 << 63), (1 << 64) - 1),
        "stop": st.none() | text | st.lists(text, max_size=3),
        "logprobs": st.none() | st.booleans() | st.integers(0, 20),
        "priority": st.sampled_from(["interactive", "standard", "batch"]),
        "metadata": st.dictionaries(text, text, max_size=3),
        "stream": st.booleans(),
    },
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(1 - (1 << 64), (1 << 64) - 1) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)

metas = st.builds(
    Meta,
    model=st.text(),
    attempt=st.integers(0, 99),
    company_most=st.none() | st.integers(1, 99),
    peak_bytes=st.none() | st.integers(0, 1 << 50),
    footprint_ratio=st.none() | st.floats(0, 9),
    started_at=st.none() | st.floats(0, 1e11),
    ended_as=st.none() | st.sampled_from(["completed", "failed"]),
)


@given(requests, text | st.lists(messages, min_size=1, max_size=3))
def test_a_request_comes_back_from_redis_as_it_went(fields: dict[str, Any], said: Any) -> None:
    """Stored without its defaults, as JSON: the worker validates the same request."""
    request = read_request(fields | ({"prompt": said} if isinstance(said, str) else {"messages": said}))
    stored = json.loads(json.dumps(request.model_dump(mode="json", exclude_defaults=True)))
    assert read_request(stored) == request


@given(json_values | st.dictionaries(st.sampled_from(sorted(JobRequest.model_fields)), json_values))
def test_rubbish_is_refused_in_one_way(data: object) -> None:
    """A request, or ``invalid_request`` whose body is JSON: nothing else is raised."""
    error = None
    try:
        read_request(data)
    except ClientError as refused:
        error = refused.body()
    assert error is None or error["code"] == "invalid_request"
    json.dumps(error, allow_nan=False)


@given(
    st.floats(0, 2**48 / 1000, exclude_max=True),
    st.floats(0, 2**48 / 1000, exclude_max=True),
    st.integers(0, (1 << 80) - 1),
)
def test_ids_sort_as_their_moments(first: float, second: float, entropy: int) -> None:
    """To the millisecond, for the next eight thousand years."""
    one, other = new_job_id(first, entropy), new_job_id(second, entropy)
    assert (one < other) == (int(first * 1000) < int(second * 1000))
    assert JOB_ID.fullmatch(one)


@given(st.text(min_size=1), st.integers(0, 1 << 40))
def test_leases_come_back(worker: str, attempt: int) -> None:
    """Whatever a worker is called."""
    assert Lease.parse(str(Lease(worker, attempt))) == Lease(worker, attempt)


@given(
    metas,
    st.dictionaries(st.text(max_size=9).filter(lambda n: n not in Meta.__slots__), json_values),
)
def test_a_jobs_fields_survive_later_versions(meta: Meta, more: dict[str, Any]) -> None:
    """Ours come back, whatever a later version added."""
    fields = json.loads(meta.dump()) | more
    assert Meta.parse(json.dumps(fields).encode()) == meta
