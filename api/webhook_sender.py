"""This process's sender of webhooks: one thread looks for what is due, and each delivery has a thread while it is sent.

A delivery is leased for longer than its try can take, so that it has one sender; where that dies, the lease lapses and
another sends the same event again, under the same ``webhook-id``. Under gevent threads are greenlets.
"""

from __future__ import annotations

import email.utils
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC
from http import HTTPStatus
from importlib.metadata import version
from typing import Final

import structlog

from api.absence import Absence
from api.webhook_post import POST_SECONDS, NotAnswered, Reply, post
from scheduler.settings import Settings
from scheduler.swap import STORE_ERRORS
from scheduler.webhook_address import Target
from scheduler.webhook_delivery import TRIES, next_try_seconds
from scheduler.webhook_signature import read_secrets, sign
from scheduler.webhooks import Due, Webhooks

LEASE_SECONDS: Final = 4 * POST_SECONDS
"""A look-up of a name that takes its time is not counted within a try."""

LOOK_SECONDS: Final = 1.0
"""How often one looks for what is due; an idle process sends one command then."""

SENDING_MOST: Final = 16
HOST_MOST: Final = 4
"""Of these to one host, so that a receiver which does not answer leaves room for the others'."""

_PAGE: Final = 1024  # entries of the set that one command brings
_READ: Final = 64  # of them, whose deliveries one command brings
_HOSTS_MOST: Final = 1 << 14  # deliveries of which is remembered where they go, so that they are read once

_CLOSE_SECONDS: Final = 1.0
_RETRY_AFTER_MOST: Final = 86_400.0

log = structlog.get_logger(__name__)


class WebhookSender:
    """Sends what is due.

    Args:
        store: the deliveries.
        settings: where they may go, and the operator's secret.
        clock: Unix seconds.
    """

    def __init__(self, store: Webhooks, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._sending: dict[tuple[str, int], tuple[Due, str]] = {}
        self._hosts: dict[str, str] = {}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.absence = Absence("webhooks")
        self._ended = 0
        self._agent = f"tidegate/{version('tidegate')}"

    def start(self) -> None:
        """Look for what is due from now on, in a thread."""
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Begin to send what is due, past what must wait for a host that has enough, as far as there is room."""
        now, start = self._clock(), 0
        while self._room():
            keys = self._store.due_keys(now, start, _PAGE)
            start += sum(self._look_at(keys[at : at + _READ], now) for at in range(0, len(keys), _READ))
            if len(keys) < _PAGE:
                return

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is being sent; whether that is so."""
        with self._change:
            return self._change.wait_for(lambda: not self._sending, seconds)

    def close(self) -> None:
        """Stop; what is being sent has a moment for it, and is then left to others, who send it again at once."""
        with self._change:
            self._closed, thread = True, self._thread
            self._change.notify_all()
        if thread is not None:
            thread.join(_CLOSE_SECONDS)
        if self.wait(_CLOSE_SECONDS):
            return
        with self._change:
            left = [due for due, _ in self._sending.values()]
        try:
            for due in left:
                self._store.postpone(due, self._clock())
        except STORE_ERRORS:
            log.warning("webhooks not handed over", count=len(left))  # their leases lapse

    def _run(self) -> None:
        while not self._closed:
            ended = self._ended
            try:
                self.look()
                self.absence.over()
            except STORE_ERRORS as error:
                self.absence.goes_on(error)
            except Exception as error:  # noqa: BLE001 (whatever it was, the other webhooks live on the next look)
                log.warning("webhooks not looked for", error=type(error).__name__)
            self._pause(ended)

    def _pause(self, ended: int) -> None:
        """Wait for the next look: less long where more have ended than had before the last one."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._ended != ended, LOOK_SECONDS)

    def _room(self) -> bool:
        """Whether one more may be sent."""
        return not self._closed and len(self._sending) < SENDING_MOST

    def _look_at(self, keys: Sequence[str], now: float) -> int:
        """Begin what may be of these; how many of them stay as they are."""
        if not self._room():
            return len(keys)
        likely = [key for key in keys if not self._has_enough(self._hosts.get(key))]
        left = [due for due in self._store.read(likely) if not self._begin(due, now)]
        return len(keys) - len(likely) + len(left)

    def _has_enough(self, host: str | None) -> bool:
        """Whether a host has as many tries as it may."""
        with self._change:
            return sum(each == host for _, each in self._sending.values()) >= HOST_MOST

    def _begin(self, due: Due, now: float) -> bool:
        """Lease a delivery and send it in a thread of its own; False where it must be left for now."""
        try:
            target = Target.read(due.recipient.url)
        except ValueError:
            self._give_up(due, "the URL is not one that webhooks are sent to")
            return True
        if due.delivery.attempts >= TRIES:  # its last sender died
            self._give_up(due, due.delivery.last_error or "the last try was not brought to its end")
            return True
        if self._has_enough(target.host) or not self._room():
            if len(self._hosts) >= _HOSTS_MOST:
                self._hosts.clear()
            self._hosts[due.key] = target.host
            return False
        self._hosts.pop(due.key, None)
        leased = self._store.lease(due, now, now + LEASE_SECONDS)
        if leased is not None:
            with self._change:
                self._sending[due.key, leased.delivery.attempts] = (leased, target.host)
            name = f"webhook-{leased.event_id}"
            threading.Thread(target=self._send, args=(leased, target), name=name, daemon=True).start()
        return True

    def _send(self, due: Due, target: Target) -> None:
        try:
            self._tell(due, *self._try(due, target))
        except STORE_ERRORS as error:
            log.warning("webhook's end not kept", webhook=due.event_id, error=type(error).__name__)
        finally:
            with self._change:
                del self._sending[due.key, due.delivery.attempts]
                self._ended += 1
                self._change.notify_all()

    def _try(self, due: Due, target: Target) -> tuple[Reply | None, str]:
        """Send once; the answer if there was one, and what is wrong, '' where nothing is."""
        secret = due.recipient.secret
        if secret is None and self._settings.webhook_secret is not None:
            secret = self._settings.webhook_secret.get_secret_value()
        try:
            keys = read_secrets(secret or "")
        except ValueError:
            return None, "there is no secret to sign with"
        now = int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": self._agent,
            "webhook-id": due.event_id,
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(sign(key, due.event_id, now, due.body) for key in keys),
        }
        try:
            reply = post(target, headers, due.body, self._settings.webhook_allowed)
        except NotAnswered as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 (it is tried again, a bounded number of times)
            log.warning("webhook not sent", webhook=due.event_id, error=type(error).__name__)
            return None, "an internal error"
        return reply, _fault(reply.status)

    def _tell(self, due: Due, reply: Reply | None, error: str) -> None:
        """Keep how a try went."""
        if not error:
            self._store.end(due)
            return
        now = self._clock()
        asked = read_retry_after(reply.retry_after, now) if reply else 0.0
        seconds = next_try_seconds(due.delivery.attempts, asked, random.random())  # noqa: S311 (spreads, hides nothing)
        if seconds is None or (reply is not None and reply.status == HTTPStatus.GONE):
            self._give_up(due, error)
        else:
            self._store.retry(due, now + seconds, error)

    def _give_up(self, due: Due, error: str) -> None:
        if self._store.end(due, error):
            attempts = due.delivery.attempts
            log.warning(
                "webhook given up", subject=due.key, webhook=due.event_id, attempts=attempts, error=error
            )


def _fault(status: int) -> str:
    """What is wrong with an answer; '' where nothing is."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return ""
    redirects = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    return f"HTTP {status}" + ", and redirects are not followed" * redirects


def read_retry_after(text: str, now_seconds: float) -> float:
    """The seconds that a ``Retry-After`` asks for, a number or a date (RFC 9110), at most a day; 0 where it has none."""
    if text.isascii() and text.isdigit():
        seconds = float(text[:10])
    else:
        try:
            moment = email.utils.parsedate_to_datetime(text)
            seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now_seconds
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(_RETRY_AFTER_MOST, max(0.0, seconds)) if math.isfinite(seconds) else 0.0
