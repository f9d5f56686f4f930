"""`/v1/files` by Flask's client: forms, what is refused, what clients see."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from api.batch_schemas import FileAnswer, FileDeleted, FileList
from api.services import EXTENSION
from scheduler.settings import Settings
from scheduler.stored_file import CHUNK_BYTES

URL = "/v1/files"
ANN, BOB = ({"Authorization": f"Bearer {name}"} for name in ("ann", "bob"))
DAY = 86_400

Upload = Callable[..., TestResponse]


def upload(client: FlaskClient, data: bytes = b"{}\n", **fields: Any) -> TestResponse:
    """Upload a file for a batch."""
    headers = fields.pop("headers", {})
    form = {"file": (io.BytesIO(data), "lines.jsonl"), "purpose": "batch"} | fields
    form = {name: value for name, value in form.items() if value is not None}
    return client.post(URL, data=form, headers=headers, content_type="multipart/form-data")


def test_a_file_has_openais_shape(client: FlaskClient, connection: Redis) -> None:
    """Kept for thirty days where nothing else is asked."""
    said = FileAnswer.model_validate(upload(client, b"x" * 10).get_json())
    assert (said.bytes, said.filename, said.purpose, said.status) == (10, "lines.jsonl", "batch", "processed")
    assert said.expires_at - said.created_at == 30 * DAY
    assert client.get(f"{URL}/{said.id}").get_json() == said.model_dump()


def test_a_file_is_kept_as_long_as_asked(client: FlaskClient, connection: Redis) -> None:
    """By OpenAI's two fields."""
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    said = upload(client, **fields).get_json()
    assert said["expires_at"] - said["created_at"] == 3600


def test_a_file_is_read_back(client: FlaskClient, connection: Redis) -> None:
    """Whole, with its length; as bytes that no browser runs."""
    data = bytes(range(256)) * 1500
    file_id = upload(client, data).get_json()["id"]
    answer = client.get(f"{URL}/{file_id}/content")
    assert (answer.data, answer.content_type) == (data, "application/octet-stream")
    assert answer.headers["Content-Length"] == str(len(data))
    assert answer.headers["Content-Disposition"].startswith("attachment")
    empty = upload(client, b"").get_json()["id"]
    assert client.get(f"{URL}/{empty}/content").data == b""


def test_a_file_that_is_deleted_while_it_is_read_ends_short(client: FlaskClient, connection: Redis) -> None:
    """Of its length, so that its reader knows."""
    file_id = upload(client, b"x" * (CHUNK_BYTES + 9)).get_json()["id"]
    answer = client.get(f"{URL}/{file_id}/content", buffered=False)
    chunks = iter(answer.response)
    assert len(next(chunks)) == CHUNK_BYTES
    client.delete(f"{URL}/{file_id}")
    assert list(chunks) == []
    answer.close()


def test_a_deleted_file_is_not_found(client: FlaskClient, connection: Redis) -> None:
    """404, as one that was never there."""
    file_id = upload(client).get_json()["id"]
    said = FileDeleted.model_validate(client.delete(f"{URL}/{file_id}").get_json())
    assert (said.id, said.deleted) == (file_id, True)
    for answer in (
        client.get(f"{URL}/{file_id}"),
        client.get(f"{URL}/{file_id}/content"),
        client.delete(f"{URL}/{file_id}"),
        client.get(f"{URL}/file-x"),
    ):
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "not_found")


def test_files_are_listed_in_pages(client: FlaskClient, connection: Redis) -> None:
    """Newest first, or oldest; with the ends of the page and whether more follow."""
    ids = [upload(client).get_json()["id"] for _ in range(3)]
    page = FileList.model_validate(client.get(f"{URL}?limit=2").get_json())
    assert [file.id for file in page.data] == [ids[2], ids[1]]
    assert (page.first_id, page.last_id, page.has_more) == (ids[2], ids[1], True)
    page = FileList.model_validate(client.get(f"{URL}?limit=2&after={ids[1]}").get_json())
    assert ([file.id for file in page.data], page.has_more) == ([ids[0]], False)
    page = FileList.model_validate(client.get(f"{URL}?order=asc&purpose=batch").get_json())
    assert [file.id for file in page.data] == ids
    page = FileList.model_validate(client.get(f"{URL}?purpose=batch_output").get_json())
    assert (page.data, page.first_id, page.last_id) == ([], None, None)


def test_a_file_is_its_owners_alone(client: FlaskClient, connection: Redis) -> None:
    """Another key neither sees it nor can tell that it is there."""
    file_id = upload(client, headers=ANN).get_json()["id"]
    assert client.get(f"{URL}/{file_id}", headers=ANN).status_code == 200
    for other in (BOB, {}):
        assert client.get(f"{URL}/{file_id}", headers=other).status_code == 404
        assert client.get(f"{URL}/{file_id}/content", headers=other).status_code == 404
        assert client.delete(f"{URL}/{file_id}", headers=other).status_code == 404
        assert client.get(URL, headers=other).get_json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "assistants"}, "purpose"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"file": None}, "file"),
        ({"file": "text"}, "file"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"}, "expires_after.seconds"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after.seconds",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"},
            "expires_after.seconds",
        ),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"unheard_of": "1"}, "unheard_of"),
    ],
)
def test_a_fault_in_a_form_names_the_field(
    client: FlaskClient, connection: Redis, fields: dict[str, Any], param: str
) -> None:
    """400, and nothing is stored."""
    answer = upload(client, **fields)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)
    assert connection.dbsize() == 0


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", "multipart/mixed"])
def test_an_upload_is_a_form(client: FlaskClient, connection: Redis, content_type: str) -> None:
    """415 for anything else."""
    answer = client.post(URL, data=b"{}", content_type=content_type)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("body", [b"", b"junk", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n"])
def test_a_broken_form_is_refused(client: FlaskClient, connection: Redis, body: bytes) -> None:
    """400; with no boundary too."""
    for content_type in ("multipart/form-data; boundary=x", "multipart/form-data"):
        answer = client.post(URL, data=body, content_type=content_type)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "invalid_request")


def test_a_file_over_the_bound_is_refused(settings: Settings, connection: Redis) -> None:
    """413: by its own size, and where the form is longer still, before it is read; not by the bound on JSON."""
    app = create_app(
        settings.model_copy(update={"max_file_bytes": 200_000, "max_body_bytes": 1000}), connection
    )
    client = app.test_client()
    assert upload(client, b"x" * 200_000).status_code == 200
    for size in (200_001, 400_000):
        answer = upload(client, b"x" * size)
        error = answer.get_json()["error"]
        assert (answer.status_code, error["code"], error["limit_bytes"]) == (413, "body_too_large", 200_000)
    assert "files of 200,000 bytes are taken (TIDEGATE_MAX_FILE_BYTES)" in error["message"]
    assert len(client.get(URL).get_json()["data"]) == 1


def test_a_full_store_says_so(settings: Settings, connection: Redis) -> None:
    """503 `storage_full`, with a time to come again."""
    app = create_app(settings.model_copy(update={"max_files_bytes": 5000}), connection)
    answer = upload(app.test_client(), b"x" * 6000)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "storage_full")
    assert answer.headers["Retry-After"] == "120"


def test_uploads_that_are_under_way_share_a_bound(settings: Settings, connection: Redis) -> None:
    """503 for what comes while others hold it; what is done, refused or broken off gives its part back."""
    sizes = {"max_file_bytes": 500_000, "max_files_bytes": 500_000}
    app = create_app(settings.model_copy(update=sizes), connection)
    spool, client, held = app.extensions[EXTENSION].spool, app.test_client(), list[int]()
    counted, spool.take = spool.take, lambda count: (counted(count), held.append(spool.held))
    spool.take(300_000)  # another's, who is slow
    said = upload(client, b"x" * 300_000)
    assert (said.status_code, said.get_json()["error"]["code"]) == (503, "storage_full")
    assert said.headers["Retry-After"] == "5"
    assert 400_000 < max(held) <= 500_000
    assert spool.held == 300_000
    spool.give_back(300_000)
    assert upload(client, b"x" * 300_000).status_code == 200
    assert spool.held == 0
    broken = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"y\n" * 100_000
    said = client.post(URL, data=broken, content_type="multipart/form-data; boundary=x")
    assert said.status_code == 400
    assert max(held) >= 200_000
    assert spool.held == 0


def test_a_form_of_many_parts_is_refused(client: FlaskClient, connection: Redis) -> None:
    """413, as one with a field that is long beyond reason."""
    assert upload(client, **{f"f{number}": "x" for number in range(50)}).status_code == 413
    long = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"x" * 600_000 + b"\r\n--x--\r\n"
    )
    answer = client.post(URL, data=long, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 413
