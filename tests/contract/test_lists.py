"""`GET /v1/jobs`: filters, order, cursors and places; and what HEAD and OPTIONS answer."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.schemas import JobList
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker

URL = "/v1/jobs"


def submit(client: FlaskClient, **fields: Any) -> str:
    """Submit a job; its id."""
    return str(client.post(URL, json={"model": MODEL, "prompt": "a", **fields}).get_json()["id"])


def ask(client: FlaskClient, query: str) -> JobList:
    """A page."""
    answer = client.get(f"{URL}?{query}")
    assert answer.status_code == 200, answer.data
    return JobList.model_validate(answer.json)


def listed(client: FlaskClient, query: str) -> list[str]:
    """The jobs of a page."""
    return [job.id for job in ask(client, query).data]


def test_several_states_are_asked_for_at_once(client: FlaskClient, worker: PretendWorker) -> None:
    """Separated by commas, or repeated."""
    done, runs, waits = submit(client), submit(client), submit(client)
    worker.complete(worker.claim(done), "hi")
    worker.claim(runs)
    for query in ("status=completed,queued", "status=completed&status=queued", "status=queued%2Ccompleted"):
        assert listed(client, query) == [waits, done]
    assert listed(client, "status=in_progress") == [runs]


def test_metadata_is_asked_for_by_its_entries(client: FlaskClient, worker: PretendWorker) -> None:
    """Each in brackets, with whatever letters it has."""
    red = submit(client, metadata={"team": "red", "über [x]": "a&b=c"})
    blue = submit(client, metadata={"team": "blue"})
    assert listed(client, "metadata[team]=red") == listed(client, "metadata%5Bteam%5D=red") == [red]
    assert listed(client, "metadata[team]=blue&priority=standard") == [blue]
    assert listed(client, "metadata[%C3%BCber%20[x]]=a%26b%3Dc") == [red]
    assert listed(client, "metadata[team]=red&metadata[none]=red") == []


def test_pages_lead_on_and_back(client: FlaskClient, worker: PretendWorker) -> None:
    """By `after` and `before`, in either order, with the first and the last of each page."""
    made = [submit(client) for _ in range(5)]
    page = ask(client, "order=asc&limit=2")
    assert (page.first_id, page.last_id, page.has_more) == (made[0], made[1], True)
    page = ask(client, f"order=asc&limit=2&after={page.next_cursor}")
    assert [job.id for job in page.data] == made[2:4]
    back = ask(client, f"order=asc&limit=2&before={page.first_id}")
    assert ([job.id for job in back.data], back.has_more) == (made[:2], False)
    assert listed(client, f"before={made[1]}&limit=2") == [made[3], made[2]]
    empty = ask(client, f"order=asc&after={made[4]}")
    assert (empty.data, empty.first_id, empty.next_cursor) == ([], None, None)


def test_a_list_says_where_jobs_wait(client: FlaskClient, worker: PretendWorker) -> None:
    """The place and the time that each says of itself."""
    made = [submit(client) for _ in range(3)]
    worker.claim(made[0])
    places = {job.id: job.queue for job in ask(client, "").data}
    assert places[made[0]] is None
    assert [each.position for job_id in made[1:] if (each := places[job_id])] == [1, 2]
    alone = client.get(f"{URL}/{made[2]}").get_json()["queue"]
    found = places[made[2]]
    assert found is not None
    assert found.eta_seconds == pytest.approx(alone["eta_seconds"], abs=1.0)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=running", "status"),
        ("status=", "status"),
        ("status=queued,,failed", "status"),
        ("order=up", "order"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("before=x", "before"),
        ("after=job_", "after"),
        ("metadata=x", "metadata"),
        ("nonsense=1", "nonsense"),
        ("&".join(f"metadata[{number}]=x" for number in range(17)), "metadata"),
        (f"metadata[{'x' * 65}]=x", None),
        (f"metadata[a]={'x' * 513}", "metadata.a"),
    ],
)
def test_a_query_that_says_nothing_sound_is_refused(
    client: FlaskClient, connection: Redis, query: str, param: str | None
) -> None:
    """400, naming the parameter."""
    answer = client.get(f"{URL}?{query}")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_request")
    assert param in {None, error["param"]}


@pytest.mark.parametrize("path", ["", "/{id}", "/{id}/result", "/{id}/stream"])
def test_head_answers_as_get_without_a_body(client: FlaskClient, worker: PretendWorker, path: str) -> None:
    """The same status and kind of content."""
    job_id = submit(client)
    worker.complete(worker.claim(job_id), "hi")
    url = URL + path.format(id=job_id)
    head, whole = client.head(url), client.get(url)
    assert (head.status_code, head.content_type, head.data) == (whole.status_code, whole.content_type, b"")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("/{id}", {"DELETE", "GET", "HEAD", "OPTIONS"}),
        ("/{id}/result", {"GET", "HEAD", "OPTIONS"}),
        ("/{id}/stream", {"GET", "HEAD", "OPTIONS"}),
        ("/{id}/cancel", {"OPTIONS", "POST"}),
    ],
)
def test_options_tells_what_a_route_takes(
    client: FlaskClient, connection: Redis, path: str, methods: set[str]
) -> None:
    """An empty 200 whose `Allow` has every method, and nothing else answers than these."""
    url = URL + path.format(id="job_" + "0" * 26)
    answer = client.options(url)
    assert (answer.status_code, answer.data) == (200, b"")
    assert {each.strip() for each in answer.headers["Allow"].split(",")} == methods
    assert client.put(url).status_code == 405


def test_a_result_is_waited_for(client: FlaskClient, worker: PretendWorker) -> None:
    """`?wait` holds for the job's end; 0, as none, does not."""
    job_id = submit(client)
    assert client.get(f"{URL}/{job_id}/result?wait=0").status_code == 202
    with worker.answering():
        answer = client.get(f"{URL}/{job_id}/result?wait=20")
    assert (answer.status_code, answer.get_json()["text"]) == (200, "a ")
    assert client.get(f"{URL}/{job_id}/result?wait=0").status_code == 200
