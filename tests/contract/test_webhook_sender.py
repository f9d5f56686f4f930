"""How webhooks are sent: at their times, again where they fail, by one sender at a time."""

from __future__ import annotations

import base64
import email.utils
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from api import webhook_sender
from api.webhook_sender import HOST_MOST, LEASE_SECONDS, WebhookSender, read_retry_after
from scheduler.errors import StoreUnavailable
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.request import read_request
from scheduler.settings import load
from scheduler.webhook_delivery import DELAYS_SECONDS, TRIES
from scheduler.webhooks import DUE_KEY, Webhooks
from tests.conftest import MODEL
from tests.contract.receiver import Receiver, receiving
from tests.pretend_worker import PretendWorker
from tests.store.looking import due_webhooks
from tests.waiting import Clock, wait_until

SECRET = "whsec_" + base64.b64encode(b"the operator's secret, of 32 byte").decode()
DONE = Outcome(State.COMPLETED, {"text": "a", "finish_reason": "stop"})


class Plant:
    """A queue whose jobs have webhooks, and senders of them."""

    def __init__(self, connection: Redis, url: str, fields: dict[str, Any]) -> None:
        self.connection, self.url = connection, url
        self.fields = fields
        settings = load(**fields)
        self.lifecycle = Lifecycle(connection, settings)
        self.store = Webhooks(connection, self.lifecycle.queue.swap)
        self.worker = PretendWorker(connection)
        self.worker.report()
        self.clock = Clock(time.time() + 1)

    def end_one(self, url: str | None = None) -> str:
        """End a job that has a webhook; its id."""
        rec = self.lifecycle.submit(read_request({"model": MODEL, "prompt": "a", "webhook": url or self.url}))
        self.worker.end(self.worker.claim(rec.id), DONE)
        return rec.id

    def sender(self, **settings: Any) -> WebhookSender:
        """A sender, as another process has it."""
        return WebhookSender(self.store, load(**self.fields | settings), self.clock)

    def send(self, sender: WebhookSender | None = None) -> None:
        """Send what is due."""
        sender = sender or self.sender()
        sender.look()
        assert sender.wait(15)

    def stands(self, job_id: str) -> tuple[Any, ...]:
        """How a job's webhook stands."""
        return tuple((self.lifecycle.queue.fetch(job_id).view()["webhook"] or {}).values())

    def due_in(self, job_id: str) -> float:
        """Seconds until it is sent."""
        due: Any = self.connection.zscore(DUE_KEY, f"rq:job:{job_id}")
        return float(due) - self.clock.now


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks go."""
    with receiving() as made:
        yield made


@pytest.fixture
def plant(connection: Redis, valkey_url: str, tmp_path: Path, receiver: Receiver) -> Plant:
    """Jobs whose webhooks go to the receiver."""
    fields = {"redis_url": valkey_url, "data_dir": tmp_path, "models": (MODEL,)}
    allowed = {"webhook_allow": "127.0.0.0/8", "webhook_secret": SECRET}
    return Plant(connection, receiver.url, fields | allowed)


def test_a_webhook_is_tried_eight_times_in_a_day_and_given_up(
    plant: Plant, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the schedule's times and not sooner; the same event each time, signed anew; then it is said and counted."""
    receiver.answers += [(500, {})] * TRIES
    job = plant.end_one()
    for tries, delay in enumerate(DELAYS_SECONDS, 1):
        plant.send()
        assert len(receiver.requests) == tries
        assert plant.stands(job) == ("pending", tries, "HTTP 500")
        assert 0.8 * delay <= plant.due_in(job) <= delay
        plant.clock.now += 0.79 * delay
        plant.send()
        assert len(receiver.requests) == tries
        plant.clock.now += 0.21 * delay
    plant.send()
    assert plant.stands(job) == ("failed", TRIES, "HTTP 500")
    assert plant.store.counts() == {"pending": 0, "delivered": 0, "failed": 1, "dropped": 0}
    assert "webhook given up" in capsys.readouterr().out
    assert len({(request.headers["webhook-id"], request.body) for request in receiver.requests}) == 1
    stamps = [int(request.headers["webhook-timestamp"]) for request in receiver.requests]
    assert stamps[0] < stamps[1] < stamps[-1] == int(plant.clock.now)
    assert len({request.headers["webhook-signature"] for request in receiver.requests}) == TRIES


def test_a_receiver_says_when_to_come_again(plant: Plant, receiver: Receiver) -> None:
    """By Retry-After, where it is later than the schedule."""
    receiver.answers += [(503, {"Retry-After": "700"}), (429, {"Retry-After": "1"})]
    job = plant.end_one()
    plant.send()
    assert plant.due_in(job) == pytest.approx(700, abs=1)
    plant.clock.now += 701
    plant.send()
    assert plant.due_in(job) >= 240


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("٣", 0.0),
        ("9" * 400, 86400.0),
        (email.utils.format_datetime(datetime.fromtimestamp(1700000060, UTC), usegmt=True), 60.0),
        ("Tue, 14 Nov 2023 22:14:20", 60.0),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 9999 00:00:00 GMT", 86400.0),
        ("Mon, 99 Jan 9999 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float) -> None:
    """At most a day, and nothing where it cannot be read."""
    assert read_retry_after(text, 1_700_000_000.0) == seconds


def test_gone_is_gone(plant: Plant, receiver: Receiver) -> None:
    """A receiver that answers 410 is not tried again."""
    receiver.answers.append((410, {}))
    job = plant.end_one()
    plant.send()
    assert plant.stands(job) == ("failed", 1, "HTTP 410")
    assert plant.connection.zcard(DUE_KEY) == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(plant: Plant, receiver: Receiver, status: int) -> None:
    """It could lead anywhere; it is a failure like others."""
    receiver.answers.append((status, {"Location": receiver.url + "/elsewhere"}))
    job = plant.end_one()
    plant.send()
    assert [request.path for request in receiver.requests] == ["/hook"]
    assert plant.stands(job) == ("pending", 1, f"HTTP {status}, and redirects are not followed")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_success(plant: Plant, receiver: Receiver, status: int) -> None:
    """Whatever is said with it."""
    receiver.answers.append((status, {"Content-Length": "0"} if status == 204 else {}))
    job = plant.end_one()
    plant.send()
    assert plant.stands(job) == ("delivered", 1, None)


def test_a_sender_that_died_is_followed_by_another(plant: Plant, receiver: Receiver) -> None:
    """When its lease has lapsed, and not before; under the same id, so that a receiver can tell a repeat."""
    job = plant.end_one()
    (due,) = due_webhooks(plant.store, plant.clock.now)
    assert plant.store.lease(due, plant.clock.now, plant.clock.now + LEASE_SECONDS) is not None
    plant.clock.now += LEASE_SECONDS - 1
    plant.send()
    assert receiver.requests == []
    plant.clock.now += 2
    plant.send()
    assert [request.headers["webhook-id"] for request in receiver.requests] == [due.event_id]
    assert plant.stands(job) == ("delivered", 2, None)


def test_a_webhook_that_kills_its_senders_is_given_up(plant: Plant, receiver: Receiver) -> None:
    """Each try counts though it was not brought to its end."""
    job = plant.end_one()
    for _ in range(TRIES):
        (due,) = due_webhooks(plant.store, plant.clock.now)
        assert plant.store.lease(due, plant.clock.now, plant.clock.now + LEASE_SECONDS) is not None
        plant.clock.now += LEASE_SECONDS + 1
    plant.send()
    assert receiver.requests == []
    assert plant.stands(job) == ("failed", TRIES, "the last try was not brought to its end")


def test_many_senders_send_each_webhook_once(plant: Plant, receiver: Receiver) -> None:
    """They look at the same moment."""
    jobs = [plant.end_one() for _ in range(HOST_MOST)]
    senders, together = [plant.sender() for _ in range(4)], threading.Barrier(4)

    def send(sender: WebhookSender) -> None:
        together.wait(10)
        plant.send(sender)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    sent = sorted(request.headers["webhook-id"].replace("evt_", "job_") for request in receiver.requests)
    assert sent == sorted(jobs)


def test_a_sender_that_stops_hands_over(plant: Plant, receiver: Receiver) -> None:
    """Within seconds, though its receiver does not answer; another sends the same again without waiting for a lease."""
    receiver.go_on.clear()
    job, sender = plant.end_one(), plant.sender()
    sender.start()
    wait_until(lambda: receiver.requests, "the first try")
    began = time.monotonic()
    sender.close()
    assert time.monotonic() - began < 5
    assert plant.due_in(job) <= 0
    assert plant.stands(job) == ("pending", 1, None)
    other = plant.sender()
    other.look()
    wait_until(lambda: len(receiver.requests) == 2, "the other's try")
    receiver.go_on.set()
    assert other.wait(15)
    assert sender.wait(15)
    assert plant.stands(job) == ("delivered", 2, None)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


def test_a_sender_that_stopped_begins_nothing(plant: Plant, receiver: Receiver) -> None:
    """What is due stays so for others."""
    job, sender = plant.end_one(), plant.sender()
    sender.close()
    plant.send(sender)
    assert (receiver.requests, plant.stands(job)) == ([], ("pending", 0, None))


def test_one_receiver_leaves_room_for_the_others(plant: Plant, receiver: Receiver) -> None:
    """It does not answer: as many tries as one host may have hang on it, and the others' go on."""
    receiver.go_on.clear()
    held, sender = [plant.end_one() for _ in range(HOST_MOST + 2)], plant.sender()
    with receiving() as other:
        spare = plant.end_one(f"http://localhost:{other.port}/")
        sender.look()
        wait_until(lambda: plant.stands(spare) == ("delivered", 1, None), "the other's delivery")
    assert [plant.stands(job)[1] for job in held] == [1] * HOST_MOST + [0] * 2
    assert len(receiver.requests) <= HOST_MOST
    receiver.go_on.set()
    assert sender.wait(15)
    plant.clock.now += 5
    plant.send(sender)
    assert [plant.stands(job)[0] for job in held] == ["delivered"] * len(held)


def test_more_than_may_be_sent_at_once_are_all_sent(
    plant: Plant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one ends the next begins, without waiting for the time of the next look."""
    monkeypatch.setattr(webhook_sender, "LOOK_SECONDS", 60.0)
    receiver.go_on.clear()
    jobs, sender = [plant.end_one() for _ in range(HOST_MOST * 5)], plant.sender()
    sender.start()
    wait_until(lambda: len(receiver.requests) == HOST_MOST, "as many as one host may have")
    receiver.go_on.set()
    wait_until(lambda: plant.store.counts()["delivered"] == len(jobs), "all deliveries")
    sender.close()
    assert len(receiver.requests) == len(jobs)


def test_a_busy_receivers_many_do_not_hide_the_others(
    plant: Plant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are due for it: what stands behind them is found in one look, and each of them is read once."""
    monkeypatch.setattr(webhook_sender, "_PAGE", 4)
    monkeypatch.setattr(webhook_sender, "_READ", 2)
    receiver.go_on.clear()
    held, sender = [plant.end_one() for _ in range(HOST_MOST * 3)], plant.sender()
    with receiving() as other:
        spare = plant.end_one(f"http://localhost:{other.port}/")
        sender.look()
        wait_until(lambda: plant.stands(spare) == ("delivered", 1, None), "the other's delivery")
    read, real = list[str](), plant.store.read
    monkeypatch.setattr(plant.store, "read", lambda keys: read.extend(keys) or real(keys))
    sender.look()
    assert read == []
    receiver.go_on.set()
    assert sender.wait(15)
    for _ in range(2):
        plant.send(sender)
    assert [plant.stands(job)[0] for job in held] == ["delivered"] * len(held)
    assert set(read) == {f"rq:job:{job}" for job in held[HOST_MOST:]}


def test_it_is_not_remembered_for_ever_where_webhooks_go(
    plant: Plant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number, and none that was sent."""
    monkeypatch.setattr(webhook_sender, "_HOSTS_MOST", 3)
    receiver.go_on.clear()
    jobs, sender = [plant.end_one() for _ in range(HOST_MOST + 8)], plant.sender()
    sender.look()
    assert 0 < len(sender._hosts) <= 3
    receiver.go_on.set()
    for _ in range(8):
        assert sender.wait(15)
        plant.send(sender)
    assert plant.store.counts()["delivered"] == len(jobs)
    assert sender._hosts == {}


def test_a_store_that_is_away_does_not_end_the_sender(
    plant: Plant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks again, and finds what came meanwhile; the log has one line of it, and one that it is over."""
    away = (StoreUnavailable("away"), RedisConnectionError("away"), StoreUnavailable("away"))
    real, failures = plant.store.due_keys, iter([*away, ValueError("a bug")])

    def due_keys(*where: Any) -> list[str]:
        for failure in failures:
            raise failure
        return real(*where)

    monkeypatch.setattr(plant.store, "due_keys", due_keys)
    monkeypatch.setattr(webhook_sender, "LOOK_SECONDS", 0.01)
    job, sender = plant.end_one(), plant.sender()
    with capture_logs() as logged:
        sender.start()
        wait_until(lambda: plant.stands(job) == ("delivered", 1, None), "the delivery")
        sender.close()
    told = [(line["event"], line.get("error")) for line in logged]
    assert told == [
        ("the queue's server is away", "StoreUnavailable"),
        ("webhooks not looked for", "ValueError"),
        ("the queue's server is back", None),
    ]


def test_without_a_secret_nothing_is_sent(plant: Plant, receiver: Receiver) -> None:
    """The operator took it away since; it may come back, so it is tried again."""
    job = plant.end_one()
    plant.send(plant.sender(webhook_secret=None))
    assert receiver.requests == []
    assert plant.stands(job) == ("pending", 1, "there is no secret to sign with")


def test_a_name_that_resolves_to_this_machine_is_not_connected_to(
    plant: Plant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the operator allows it; its client is not told what the name stands for."""
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port))
    job = plant.end_one(f"https://hooks.example:{receiver.port}/")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])
    plant.send(plant.sender(webhook_allow="10.0.0.0/8"))
    assert receiver.requests == []
    assert plant.stands(job) == ("pending", 1, "its host is nowhere that webhooks may go to")
    plant.clock.now += 6
    plant.send()
    assert plant.stands(job)[1] == 2
    assert plant.stands(job)[2] != "its host is nowhere that webhooks may go to"
