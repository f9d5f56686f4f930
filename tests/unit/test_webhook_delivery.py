"""What webhooks say, how they are signed, and when they are tried again."""

from __future__ import annotations

import base64
import itertools
import json
import time
from typing import Any

import openai
import pytest

from scheduler.errors import ClientError
from scheduler.request import Webhook, read_request
from scheduler.settings import Settings, load
from scheduler.webhook_delivery import (
    DELAYS_SECONDS,
    TRIES,
    About,
    Delivery,
    Recipient,
    event_body,
    event_id,
    next_try_seconds,
    promise,
)
from scheduler.webhook_signature import read_secret, sign

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NUMBER = "01jd3x0v5f8k2m4n6p8r0s2t4v"


def with_settings(**fields: Any) -> Settings:
    """Settings with these."""
    return load(**fields)


def test_the_official_client_accepts_the_signature() -> None:
    """Of this id, time and body; with any of them changed it does not."""
    body, now = b'{"a":"\xc3\xbc"}', int(time.time())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(KEY, "evt_1", now, body),
    }
    hooks = openai.OpenAI(api_key="none", webhook_secret=SECRET).webhooks
    hooks.verify_signature(body, headers)
    for payload, changed in (
        (b"{}", {}),
        (body, {"webhook-id": "evt_2"}),
        (body, {"webhook-timestamp": str(now - 1)}),
    ):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            hooks.verify_signature(payload, headers | changed)


def test_the_signature_is_the_standards_own() -> None:
    """The example of its reference libraries, to the letter."""
    key = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        SECRET.removeprefix("whsec_"),
        SECRET[:-1],
        SECRET + "!",
        "whsec_" + base64.b64encode(KEY[:23]).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "WHSEC_" + SECRET[6:],
        "whsec_ü",
        "whsec_\n" + SECRET[6:],
    ],
)
def test_a_secret_has_one_form(text: str) -> None:
    """The message says which, and does not repeat the secret; as a setting, and in a request."""
    with pytest.raises(ValueError, match="24 to 64 bytes in base64") as refused:
        read_secret(text)
    assert len(text) < 9 or text not in str(refused.value)
    with pytest.raises(ClientError, match="24 to 64 bytes in base64") as error:
        read_request({"model": "m", "prompt": "p", "webhook": {"url": "https://a.example", "secret": text}})
    assert error.value.param == "webhook.secret"
    assert len(text) < 9 or text not in error.value.message


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_is_24_to_64_bytes(size: int) -> None:
    """Of anything."""
    key = bytes(size)
    assert read_secret("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    ("about", "subject", "data"),
    [
        ("job", f"job_{NUMBER}", {"id": f"job_{NUMBER}", "status": "failed"}),
        ("response", f"job_{NUMBER}", {"id": f"resp_{NUMBER}"}),
        ("batch", f"batch_{NUMBER}", {"id": f"batch_{NUMBER}"}),
    ],
)
def test_an_event_names_what_its_client_knows(about: About, subject: str, data: dict[str, str]) -> None:
    """A job under OpenAI's name for it where it has one; the event's id is made of the job's, so a repeat has it too."""
    body = event_body(about, subject, "failed", 1_700_000_000.9)
    event = {"id": f"evt_{NUMBER}", "object": "event", "created_at": 1_700_000_000, "type": f"{about}.failed"}
    assert json.loads(body) == event | {"data": data}
    assert event_id(body.encode()) == f"evt_{NUMBER}"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"id": 5}', b'{"id": "evt_a\\r\\nb: c"}', b"[" * 100_000, b"\xff"]
)
def test_an_events_id_that_could_not_stand_in_a_header_is_none(body: bytes) -> None:
    """Whoever wrote it."""
    assert event_id(body) is None


def test_tries_are_spread_over_a_day_and_end() -> None:
    """Eight, each later than the one before; the last within the day for which a job is kept; drawn apart, never late."""
    waits = [next_try_seconds(attempts, 0.0, 1.0) for attempts in range(1, TRIES)]
    assert waits == pytest.approx(list(DELAYS_SECONDS))
    assert all(later >= sooner for sooner, later in itertools.pairwise(DELAYS_SECONDS))
    assert TRIES == 8
    assert sum(DELAYS_SECONDS) + TRIES * 15 < load().result_ttl
    assert next_try_seconds(TRIES, 0.0, 0.0) is None
    assert next_try_seconds(TRIES + 1, 5.0, 0.0) is None
    assert next_try_seconds(1, 0.0, 0.0) == pytest.approx(4.0)
    assert next_try_seconds(2, 0.0, 0.5) == pytest.approx(270.0)


def test_a_receiver_may_ask_for_more_time_and_not_for_less() -> None:
    """By Retry-After."""
    assert next_try_seconds(1, 90.0, 0.0) == 90.0
    assert next_try_seconds(3, 90.0, 1.0) == 1800.0


def test_a_webhook_is_an_object_or_its_url() -> None:
    """Both say the same; a secret is hidden from whatever prints a request."""
    url = "https://a.example/h"
    alone = read_request({"model": "m", "prompt": "p", "webhook": url})
    assert alone.webhook == Webhook(url=url)
    both = read_request({"model": "m", "prompt": "p", "webhook": {"url": url, "secret": SECRET}})
    assert both.webhook is not None
    assert both.webhook.secret is not None
    assert both.webhook.secret.get_secret_value() == SECRET
    assert SECRET not in f"{both} {both!r} {both.model_dump()} {both.model_dump_json()}"


@pytest.mark.parametrize(
    ("webhook", "param"),
    [
        (5, "webhook"),
        ([], "webhook"),
        ({}, "webhook.url"),
        ("", "webhook.url"),
        ("ftp://a.example", "webhook.url"),
        ("https://a:b@a.example", "webhook.url"),
        ("https://a.example/" + "a" * 2048, "webhook.url"),
        ({"url": 5}, "webhook.url"),
        ({"url": "https://a.example", "secret": 5}, "webhook.secret"),
        ({"url": "https://a.example", "more": 1}, "webhook.more"),
    ],
)
def test_a_webhook_that_is_none_is_refused_by_its_field(webhook: object, param: str) -> None:
    """What can be said without the operator's settings."""
    with pytest.raises(ClientError) as refused:
        read_request({"model": "m", "prompt": "p", "webhook": webhook})
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


def test_a_delivery_is_promised_only_with_a_secret_and_a_way() -> None:
    """The client's secret, or the operator's; the operator's rule on where it may go."""
    own = read_request(
        {"model": "m", "prompt": "p", "webhook": {"url": "https://a.example", "secret": SECRET}}
    ).webhook
    bare = Webhook(url="https://a.example")
    inside = Webhook(url="http://10.0.0.1")
    assert promise(None, with_settings()) is None
    made = promise(own, with_settings(), "response")
    assert made == Delivery("waiting", 0, None, "response")
    assert made.recipient == Recipient("https://a.example", SECRET)
    assert SECRET not in repr(made) + repr(made.recipient)
    operator = with_settings(webhook_secret=SECRET)
    promised = promise(bare, operator)
    assert promised is not None
    assert promised.recipient == Recipient("https://a.example")
    with pytest.raises(ClientError, match="TIDEGATE_WEBHOOK_SECRET") as refused:
        promise(bare, with_settings())
    assert refused.value.param == "webhook.secret"
    with pytest.raises(ClientError, match=r"private.*TIDEGATE_WEBHOOK_ALLOW") as refused:
        promise(inside, operator)
    assert refused.value.param == "webhook.url"
    assert promise(inside, with_settings(webhook_secret=SECRET, webhook_allow="10.0.0.0/8")) is not None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"5",
        b"[]",
        b'{"status": "sent"}',
        b'{"attempts": "many"}',
        b'{"about": "me"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_delivery_that_others_wrote_is_none(text: bytes) -> None:
    """Read as if there were none, never a crash."""
    assert Delivery.parse(text) is None
    assert Recipient.parse(text) is None


def test_a_delivery_is_read_as_it_was_written() -> None:
    """Fields of later releases are carried."""
    made = Delivery("pending", 2, "HTTP 500", "response")
    assert Delivery.parse(made.dump()) == made
    newer = made.dump()[:-1] + b', "hue": 1, "later": 2}'
    read = Delivery.parse(newer)
    assert read == made and read is not None
    assert json.loads(read.dump()) == json.loads(newer)
    assert Delivery.parse(None) is None
    assert Recipient.parse(Recipient("u", "s").dump().encode()) == Recipient("u", "s")
