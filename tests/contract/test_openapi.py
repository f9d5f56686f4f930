"""The OpenAPI document is valid, whole and true of the code; the page shows all of it and can do nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
from flask.testing import FlaskClient
from redis import Redis
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from api.app import Application
from api.batch_endpoints import ENDPOINTS
from api.cors import EXPOSED as EXPOSED_HEADERS
from api.document_answers import SAID, SENT
from api.document_examples import ANSWERS, REQUESTS
from scheduler.errors import TABLE
from scheduler.events import Kind
from scheduler.job import TERMINAL, State
from scheduler.keyring import FRESH_SECONDS
from scheduler.webhook_delivery import event_body
from tests.keys import make_key
from tests.waiting import wait_until

SCHEMAS = "#/components/schemas/"


@pytest.fixture
def document(client: FlaskClient, connection: Redis) -> dict[str, Any]:
    """The document as it is served."""
    found: dict[str, Any] = client.get("/openapi.json").get_json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation: its method, its path, and what is said of it."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def references(part: Any) -> Iterator[str]:
    """Every reference in a part."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def resolved(document: dict[str, Any], ref: str) -> Any:
    """What a reference points to."""
    found: Any = document
    for name in ref.removeprefix("#/").split("/"):
        found = found[name]
    return found


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """A schema of the document, with what it refers to."""
    return jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]})


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    """By the specification's own schema; each schema in it is JSON Schema of 2020-12."""
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema)


def test_every_reference_leads_somewhere_and_every_schema_is_used(document: dict[str, Any]) -> None:
    """No schema is missing, none is left over."""
    found = set(references(document))
    for ref in found:
        assert resolved(document, ref)
    assert {f"{SCHEMAS}{name}" for name in document["components"]["schemas"]} <= found
    names = {operation["operationId"] for _, _, operation in operations(document)}
    for _, _, operation in operations(document):
        for said in operation["responses"].values():
            for link in said.get("links", {}).values():
                assert link["operationId"] in names


def test_the_document_has_every_route(app: Application, document: dict[str, Any]) -> None:
    """Every method of every path that the application answers."""
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith("page.")  # what a person's browser loads is no part of the API
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(method, path) for method, path, _ in operations(document)} == routes
    assert {("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/v1/jobs")} <= routes


def test_every_operation_says_what_it_is(document: dict[str, Any]) -> None:
    """A name of its own, a sentence, a tag that is explained."""
    said = [operation for _, _, operation in operations(document)]
    assert len({operation["operationId"] for operation in said}) == len(said)
    tags = {tag["name"] for tag in document["tags"]}
    for operation in said:
        assert operation["summary"].endswith((".", ":"))
        assert {*operation["tags"]} <= tags


def test_every_path_parameter_is_described(document: dict[str, Any]) -> None:
    """Each that stands in the path, and no other."""
    for _, path, operation in operations(document):
        named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))


def test_errors_come_by_their_status_with_their_headers(document: dict[str, Any]) -> None:
    """Each status of the table of errors, whose codes it lists; where all are retryable with Retry-After."""
    answers = document["components"]["responses"]
    seen = set()
    for answer in answers.values():
        detail = answer["content"]["application/json"]["schema"]["allOf"][1]["properties"]["error"][
            "properties"
        ]
        codes = {code for code, row in TABLE.items() if row.status == detail["status"]["const"]}
        assert {*detail["code"]["enum"]} == codes
        retryable = {TABLE[code].retryable for code in codes}
        assert ("Retry-After" in answer["headers"]) == (retryable == {True})
        assert ("x-should-retry" in answer["headers"]) == (retryable == {False})
        seen |= codes
    assert seen == set(TABLE)
    for _, path, operation in operations(document):
        assert "500" in operation["responses"]
        assert not {"4XX", "5XX", "default"} & set(operation["responses"])
        if path.startswith("/v1/"):
            assert {"400", "401", "403", "503"} <= set(operation["responses"])


def test_every_answer_has_its_request_id(client: FlaskClient, document: dict[str, Any]) -> None:
    """By the document, and by the server."""
    for _, _, operation in operations(document):
        for status, said in operation["responses"].items():
            answer = resolved(document, said["$ref"]) if "$ref" in said else said
            assert "x-request-id" in answer["headers"], status
    assert client.get("/nowhere").headers["x-request-id"]


def test_schemas_lose_nothing_of_the_models(document: dict[str, Any]) -> None:
    """Bounds, patterns and examples are pydantic's own."""
    schemas = document["components"]["schemas"]
    assert schemas["JobAnswer"]["properties"]["id"]["examples"]
    assert schemas["JobRequest"]["properties"]["temperature"]["anyOf"][0] == {
        "type": "number",
        "minimum": 0,
        "maximum": 2,
    }
    assert schemas["JobRequest"]["additionalProperties"] is False


def test_a_request_that_becomes_a_job_has_the_jobs_bounds(document: dict[str, Any]) -> None:
    """Chat's fields under the same names; what chat reads otherwise keeps its own."""
    schemas = document["components"]["schemas"]
    job, chat = schemas["JobRequest"]["properties"], schemas["ChatRequest"]["properties"]
    for name in ("temperature", "max_tokens", "stop", "logit_bias", "metadata", "model"):
        assert chat[name].get("anyOf") == job[name].get("anyOf"), name
    assert {"minItems": 1, "maxItems": 4096}.items() <= chat["messages"].items()
    assert chat["logprobs"] != job["logprobs"]


def test_what_the_validators_insist_on_stands_in_the_schema(document: dict[str, Any]) -> None:
    """One input, null for nothing, a message that says something."""
    taken = validator(document, document["components"]["schemas"]["JobRequest"]).is_valid
    said = [{"role": "user", "content": "a"}]
    assert taken({"model": "m", "prompt": "a", "temperature": None, "messages": None})
    assert taken({"model": "m", "messages": said, "stop": "a", "logprobs": True})
    assert not taken({"model": "m"})
    assert not taken({"model": "m", "prompt": "a", "messages": said})
    assert not taken({"model": "m", "messages": [{"role": "user", "content": None}]})
    assert not taken({"model": "m", "prompt": "a", "logit_bias": {"x": 1}})


def test_batches_say_which_routes_they_run(document: dict[str, Any]) -> None:
    """Those that they do run."""
    field = document["components"]["schemas"]["BatchRequest"]["properties"]["endpoint"]
    assert field["enum"] == [*ENDPOINTS]


def test_headers_of_requests_are_described(document: dict[str, Any]) -> None:
    """Prefer, Last-Event-ID, and the key, which may be left out."""
    paths = document["paths"]
    submit = {each["name"].lower() for each in paths["/v1/jobs"]["post"]["parameters"]}
    follow = {each["name"] for each in paths["/v1/jobs/{job_id}/stream"]["get"]["parameters"]}
    assert "prefer" in submit
    assert {"Last-Event-ID", "after"} <= follow
    assert document["security"] == [{"key": []}, {}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert paths["/healthz"]["get"]["security"] == []


def test_streams_say_what_their_events_carry(document: dict[str, Any]) -> None:
    """Each kind of event of a job's log, with its schema, and the last."""
    said = document["paths"]["/v1/jobs/{job_id}/stream"]["get"]["responses"]["200"]
    kinds = {each["title"]: each for each in said["content"]["text/event-stream"]["schema"]["anyOf"]}
    assert {kind.value for kind in Kind} <= set(kinds) | {"deleted", "other"}
    assert "[DONE]" in kinds
    data = kinds["completed"]["properties"]["data"]
    assert data["contentSchema"] == {"$ref": f"{SCHEMAS}JobEnded"}


def test_examples_are_of_routes_and_fit_their_schemas(document: dict[str, Any]) -> None:
    """Those of requests, and those of answers."""
    for (method, path), examples in REQUESTS.items():
        (content,) = document["paths"][path][method.lower()]["requestBody"]["content"].values()
        assert {name: said["value"] for name, said in content["examples"].items()} == examples
        for example in examples.values():
            validator(document, content["schema"]).validate(example)
    for (method, path, status), example in ANSWERS.items():
        said = document["paths"][path][method.lower()]["responses"][str(status)]
        validator(document, said["content"]["application/json"]["schema"]).validate(example)
    for method, path in [*SENT, *SAID]:
        assert method.lower() in document["paths"][path]


class _Page(HTMLParser):
    """What a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.style = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._inside = tag
        said = dict(attrs)
        self.links |= {said["href"]} if said.get("href") else set()
        self.ids |= {said["id"]} if said.get("id") else set()
        assert not {"src", "style", "onclick", "action"} & set(said)

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.style += data
            self._inside = ""


def test_the_page_shows_every_route_and_every_schema(client: FlaskClient, document: dict[str, Any]) -> None:
    """Each under its anchor; no link leads nowhere, none leads away."""
    answer = client.get("/docs")
    page = _Page()
    page.feed(answer.text)
    assert answer.mimetype == "text/html"
    assert {operation["operationId"] for _, _, operation in operations(document)} <= page.ids
    assert document["webhooks"]["job.ended"]["post"]["operationId"] in page.ids
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= page.ids
    assert {link.removeprefix("#") for link in page.links} - {"openapi.json"} <= page.ids


def test_the_page_can_do_nothing_but_be_read(client: FlaskClient, connection: Redis) -> None:
    """No script, nothing to load; its policy allows its own style by its hash, and nothing else."""
    answer = client.get("/docs")
    page = _Page()
    page.feed(answer.text)
    assert not {"script", "img", "link", "iframe", "form", "object"} & page.tags
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_document_says_whether_keys_are_needed(client: FlaskClient, connection: Redis) -> None:
    """Where there is one, nobody is let in without; the server's own routes need none."""
    assert client.get("/openapi.json").get_json()["security"] == [{"key": []}, {}]
    make_key(connection)
    wait_until(lambda: client.get("/v1/jobs").status_code == 401, "the key is known", 3 + FRESH_SECONDS)
    document = client.get("/openapi.json").get_json()
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/docs"]["get"]["security"] == []


def test_what_may_be_sent_twice_says_so(document: dict[str, Any]) -> None:
    """Every route that makes jobs: the key, that an answer is one again, and the refusal of another body."""
    making = (
        "/v1/jobs",
        "/v1/jobs/{job_id}/retry",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/batches",
    )
    for method, path, operation in operations(document):
        sent = {each["name"] for each in operation.get("parameters", ())}
        assert ("Idempotency-Key" in sent) == ((method, path) in {("POST", name) for name in making}), path
        assert ("422" in operation["responses"]) == ("Idempotency-Key" in sent), path
    for path in making:
        assert "Idempotent-Replayed" in document["paths"][path]["post"]["responses"]["200"]["headers"]


def test_headers_of_answers_are_those_that_pages_may_read(document: dict[str, Any]) -> None:
    """What a browser keeps from a page of another origin unless it is named."""
    said = {
        name.lower()
        for _, _, operation in operations(document)
        for answer in operation["responses"].values()
        for name in (resolved(document, answer["$ref"]) if "$ref" in answer else answer)["headers"]
    }
    read = {name.strip().lower() for name in EXPOSED_HEADERS.split(",")}
    assert said == read | {"content-disposition"}


def test_no_default_is_what_its_schema_refuses(document: dict[str, Any]) -> None:
    """Null stands only where it may be said."""
    for schema in document["components"]["schemas"].values():
        for name, said in schema.get("properties", {}).items():
            if "default" in said:
                assert validator(document, said).is_valid(said["default"]), name


def test_what_is_refused_by_its_name_has_no_room_in_the_schema(document: dict[str, Any]) -> None:
    """A client that reads the document need not try."""
    schemas = document["components"]["schemas"]
    text = {"model": "m", "prompt": "a"}
    chat = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    for name, body, refused in (
        ("CompletionRequest", text, ({"prompt": ""}, {"prompt": []}, {"echo": True}, {"suffix": "a"})),
        ("CompletionRequest", text, ({"logprobs": True}, {"logprobs": 21})),
        ("ChatRequest", chat, ({"modalities": ["audio"]}, {"max_completion_tokens": 0})),
        ("ResponseRequest", {"model": "m", "input": "a"}, ({"conversation": "a"}, {"max_output_tokens": 0})),
    ):
        taken = validator(document, schemas[name]).is_valid
        assert taken(body)
        assert not [fields for fields in refused if taken(body | fields)]


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_webhooks_event_is_as_the_document_says(document: dict[str, Any], state: State) -> None:
    """With the headers by which a receiver trusts it; and the page has it."""
    sent = document["webhooks"]["job.ended"]["post"]
    schema = sent["requestBody"]["content"]["application/json"]["schema"]
    event = json.loads(event_body("job", "job_01jd3x0v5f8k2m4n6p8r0s2t4v", state.value, 1.5))
    validator(document, schema).validate(event)
    assert {each["name"] for each in sent["parameters"]} == {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
