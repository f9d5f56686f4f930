"""The API as the command uses it: HTTP out, plain JSON in, a stream that reconnects by itself."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import httpx

from scheduler.errors import ClientError
from scheduler.job import TERMINAL, State
from tidegate.failures import ApiUnreachable, UrlInvalid
from tidegate.reconnecting import Outage
from tidegate.sse import EventReader, ServerSentEvent

Job = dict[str, Any]

SILENCE_SECONDS: Final = 60.0  # the API sends a heartbeat several times within it
UNFINISHED: Final = (State.QUEUED, State.IN_PROGRESS)  # in the order in which a job is either
MOST_COUNTED: Final = 100  # of a status
PATIENCE_SECONDS: Final = 60.0  # an API that is started anew is back within it


class Client:
    """One API.

    Every call raises `ClientError` where the API answered with its error body, and `ApiUnreachable`
    where nothing answered, or something that is not tidegate.

    Args:
        url: where it listens.
        patience_seconds: how long a stream that broke is tried again.

    Raises:
        UrlInvalid: that is no URL.
    """

    def __init__(self, url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        _insist_on_url(url)
        self.url = url.rstrip("/")
        self._patience_seconds = patience_seconds
        # A proxy is for addresses elsewhere: it could not reach this machine's loopback.
        self._http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=not is_loopback(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the API says that it can take jobs."""
        try:
            return self._http.get("/readyz", timeout=5.0).is_success
        except httpx.TransportError:
            return False

    def workers(self) -> list[dict[str, Any]]:
        """The live workers, as ``/v1/capacity`` describes them."""
        return list(self._call("GET", "/v1/capacity").get("workers", []))

    def models(self) -> list[dict[str, Any]]:
        """What is served, as ``/v1/models`` lists it."""
        return list(self._call("GET", "/v1/models")["data"])

    def submit(self, request: dict[str, Any]) -> Job:
        """Submit a job and return it as it was accepted."""
        return self._call("POST", "/v1/jobs", json=request)

    def unfinished(self) -> int:
        """How many jobs wait or run; only the newest of either are counted."""
        found = (job["id"] for status in UNFINISHED for job in self.jobs(limit=MOST_COUNTED, status=status))
        return len(set(found))  # one may have begun in between

    def jobs(self, *, limit: int, status: str | None = None) -> list[Job]:
        """The newest jobs, newest first."""
        query = {"limit": limit} | ({"status": status} if status else {})
        return list(self._call("GET", "/v1/jobs", params=query)["data"])

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it as it ended."""
        return self._call("POST", f"/v1/jobs/{job_id}/cancel")

    def stream(
        self,
        job_id: str,
        on_news: Callable[[], None] = lambda: None,
        on_loss: Callable[[], None] = lambda: None,
    ) -> Iterator[ServerSentEvent]:
        """A job's events, from the first to its terminal one.

        A connection that breaks is made again, and goes on after the last event seen.

        Args:
            on_news: called for each piece that arrives, heartbeats too, and before each try to connect
                again; what it raises ends the stream.
            on_loss: called where a connection breaks, once for all the tries that follow.
        """
        reader, outage, tries = EventReader(), Outage(self._patience_seconds, time.monotonic), 0
        while True:
            tries += 1
            try:
                for event in self._events(job_id, reader, outage, on_news):
                    yield event
                    if event.name in TERMINAL:
                        return
                problem = "the stream ended before the job did"
            except (httpx.TransportError, ApiUnreachable) as error:
                self._raise_if_never_there(error, tries)
                problem = str(error) or type(error).__name__
            except ClientError as error:
                if not error.row.retryable:
                    raise
                problem = error.message
            if not outage.began:
                on_loss()
            if (pause := outage.pause()) is None:
                raise ApiUnreachable(f"{self.url}: {problem}; follow the job with `tidegate stream {job_id}`")
            on_news()
            time.sleep(pause)
            reader = EventReader(reader.last_id)

    def _events(
        self, job_id: str, reader: EventReader, outage: Outage, on_news: Callable[[], None]
    ) -> Iterator[ServerSentEvent]:
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": reader.last_id} if reader.last_id else {}
        )
        path, patience = f"/v1/jobs/{job_id}/stream", httpx.Timeout(30.0, read=SILENCE_SECONDS)
        with self._http.stream("GET", path, headers=headers, timeout=patience) as answer:
            if not answer.is_success:
                answer.read()
            raise_if_error(answer)
            for pieces, chunk in enumerate(answer.iter_bytes()):
                on_news()
                if pieces:  # the first may be the last: the API has lost its store
                    outage.over()
                for event in reader.feed(chunk):
                    outage.over()
                    yield event

    def _raise_if_never_there(self, error: Exception, tries: int) -> None:
        if tries == 1 and isinstance(error, httpx.ConnectError):
            raise self._nothing_answers(error) from error
        if tries == 1 and isinstance(error, ApiUnreachable):
            raise error

    def _nothing_answers(self, error: Exception) -> ApiUnreachable:
        return ApiUnreachable(f"nothing answers at {self.url} ({error}); `tidegate up` starts it")

    def _call(self, method: str, path: str, **parts: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **parts)
        except httpx.TransportError as error:
            raise self._nothing_answers(error) from error
        raise_if_error(answer)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiUnreachable(f"{self.url}{path} answered, but not with JSON: is it tidegate?")
        return body


def raise_if_error(answer: httpx.Response) -> None:
    """Raise what an answer that is not a success says.

    Raises:
        ClientError: the answer has tidegate's error body.
        ApiUnreachable: it has not.
    """
    if answer.is_success:
        return
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise ApiUnreachable(f"{answer.url} answered {answer.status_code}, not as tidegate does") from None
    raise ClientError.from_body(error)


def _insist_on_url(url: str) -> None:
    try:
        read = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UrlInvalid(f"{url!r} is not a URL: {error}") from error
    if read.scheme not in {"http", "https"} or not read.host:
        raise UrlInvalid(f"{url!r} is not a URL: it needs http:// or https:// and a host")


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
