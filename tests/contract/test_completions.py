"""`/v1/completions` in OpenAI's older shapes, by Flask's client."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.completion_answer import OldLogprobs
from api.services import Services
from tests.conftest import MODEL
from tests.contract.streams import read
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

URL = "/v1/completions"
ENTRIES = [
    {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": [{"token": "x", "logprob": -0.5}]},
    {"token": "bé", "logprob": -2.0, "bytes": [98, 195, 169], "top_logprobs": []},
]
READ = {
    "tokens": ["a", "bé"],
    "token_logprobs": [-1.0, -2.0],
    "top_logprobs": [{"x": -0.5, "a": -1.0}, {"bé": -2.0}],
    "text_offset": [0, 1],
}


def body(prompt: object = "a b", **fields: Any) -> dict[str, Any]:
    """A request."""
    return {"model": MODEL, "prompt": prompt, **fields}


def test_a_completion_has_openais_older_shape(client: FlaskClient, worker: PretendWorker) -> None:
    """Named after its job, with the usage."""
    with worker.answering():
        said = client.post(URL, json=body()).get_json()
    job = client.get(f"/v1/jobs/job_{said['id'].removeprefix('cmpl-')}").get_json()
    assert said == {
        "id": said["id"],
        "object": "text_completion",
        "created": int(job["created_at"]),
        "model": MODEL,
        "choices": [{"text": "a b ", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


@pytest.mark.parametrize(
    ("fields", "job"),
    [
        ({}, {"max_tokens": 16}),
        ({"max_tokens": None, "user": "u", "echo": False, "suffix": "", "best_of": 1}, {"max_tokens": 16}),
        ({"max_tokens": 5, "logprobs": 2, "stop": "x"}, {"max_tokens": 5, "logprobs": 2, "stop": ("x",)}),
        ({"service_tier": "flex"}, {"max_tokens": 16, "priority": "batch"}),
        ({"service_tier": "priority"}, {"max_tokens": 16, "priority": "interactive"}),
        ({"service_tier": "priority", "priority": "batch"}, {"max_tokens": 16, "priority": "batch"}),
        ({"service_tier": "auto"}, {"max_tokens": 16}),
        ({"service_tier": 5}, {"max_tokens": 16}),
    ],
)
def test_openais_fields_become_the_jobs(
    client: FlaskClient, worker: PretendWorker, here: Services, fields: dict[str, Any], job: dict[str, Any]
) -> None:
    """Sixteen tokens where nothing is said, as OpenAI's own; a service tier is a class."""
    with worker.answering():
        answer = client.post(URL, json=body(**fields))
    assert answer.status_code == 200, answer.data
    request = here.lifecycle.get(here.lifecycle.page().records[0].id).request
    assert request.model_dump(exclude_defaults=True) == {"model": MODEL, "prompt": "a b"} | job


def test_several_prompts_get_their_choices_in_order(client: FlaskClient, worker: PretendWorker) -> None:
    """Two each; each prompt's tokens count once."""
    with worker.answering():
        said = client.post(URL, json=body(["a", "b"], n=2)).get_json()
    assert [(each["index"], each["text"]) for each in said["choices"]] == [
        *((0, "a "), (1, "a ")),
        *((2, "b "), (3, "b ")),
    ]
    assert (said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]) == (14, 12)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 8}, "n"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_a_completion_cannot_have_is_refused_by_name(
    client: FlaskClient, connection: Redis, worker: PretendWorker, fields: dict[str, Any], param: str
) -> None:
    """400, and nothing is queued."""
    answer = client.post(URL, json=body() | fields)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", param)
    assert worker.queue.waiting()[0] == 0


def test_token_ids_are_refused_in_plain_words(client: FlaskClient, worker: PretendWorker) -> None:
    """They are of a vocabulary that a client cannot be sure of."""
    error = client.post(URL, json=body([1, 2])).get_json()["error"]
    assert error["message"] == "prompt: token ids are not taken; send the text"


def _end_with(worker: PretendWorker, **result: Any) -> threading.Thread:
    """Say two tokens and end the next job, in a thread."""

    def serve() -> None:
        wait_until(lambda: worker.queue.waiting()[0], "a job")
        held = worker.claim()
        worker.say(held, "a", logprobs=ENTRIES[:1])
        worker.say(held, "bé", logprobs=ENTRIES[1:])
        worker.complete(held, "abé", "length", **result)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_logprobs_stand_side_by_side(client: FlaskClient, worker: PretendWorker) -> None:
    """In the lists of OpenAI's older shape, the token that was drawn among the likeliest."""
    thread = _end_with(worker, logprobs=ENTRIES)
    (choice,) = client.post(URL, json=body(logprobs=1)).get_json()["choices"]
    thread.join()
    assert (choice["logprobs"], choice["finish_reason"]) == (READ, "length")


def test_a_stream_has_the_text_and_where_it_is(client: FlaskClient, worker: PretendWorker) -> None:
    """Offsets go on from chunk to chunk; the usage comes last."""
    thread = _end_with(worker)
    events = read(
        client.post(
            URL, json=body(logprobs=1, max_tokens=2, stream=True, stream_options={"include_usage": True})
        )
    )
    thread.join()
    assert events[-1].data == "[DONE]"
    *said, counted = [json.loads(event.data) for event in events[:-1]]
    choices = [chunk["choices"][0] for chunk in said]
    assert [choice["text"] for choice in choices] == ["a", "bé", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "length"]
    assert [choice["logprobs"] and choice["logprobs"]["text_offset"] for choice in choices] == [
        [0],
        [1],
        None,
    ]
    assert [chunk["usage"] for chunk in said] == [None] * 3
    assert (counted["choices"], counted["usage"]["total_tokens"]) == ([], 10)
    assert {chunk["object"] for chunk in [*said, counted]} == {"text_completion"}


def test_pieces_of_logprobs_make_the_whole() -> None:
    """Read in one go or one by one, the offsets are the same; nothing was asked for, nothing is there."""
    logprobs = OldLogprobs()
    pieces = [logprobs.read(ENTRIES[:1]), logprobs.read([]), logprobs.read(ENTRIES[1:])]
    whole = {name: [each for piece in pieces for each in (piece or {})[name]] for name in READ}
    assert whole == OldLogprobs().read(ENTRIES) == READ
    assert logprobs.read(None) is None


def test_a_character_of_several_tokens_counts_once() -> None:
    """Offsets are the text's, which has it whole; a token's own text is a part that cannot be shown."""
    entries = [{"token": "\ufffd", "logprob": -1.0, "bytes": [byte]} for byte in "🌊".encode()]
    entries.append({"token": "b", "logprob": -1.0, "bytes": [98]})
    told = OldLogprobs().read(entries)
    assert told is not None and told["text_offset"] == [0, 0, 0, 0, 1]
