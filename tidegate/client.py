"""The API as the command uses it: HTTP out, plain JSON in, a stream that reconnects by itself."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import httpx

from scheduler.errors import ClientError
from scheduler.job import TERMINAL
from tidegate.failures import ApiUnreachable
from tidegate.sse import EventReader, ServerSentEvent

Job = dict[str, Any]

SILENCE_SECONDS: Final = 60.0  # the API sends a heartbeat several times within it
RECONNECTS: Final = 5  # in a row, without an event in between
RECONNECT_SECONDS: Final = 0.5


class Client:
    """One API.

    Every call raises `ClientError` where the API answered with its error body, and `ApiUnreachable`
    where nothing answered, or something that is not tidegate.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
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

    def jobs(self, *, limit: int, status: str | None = None) -> list[Job]:
        """The newest jobs, newest first."""
        query = {"limit": limit} | ({"status": status} if status else {})
        return list(self._call("GET", "/v1/jobs", params=query)["data"])

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it as it ended."""
        return self._call("POST", f"/v1/jobs/{job_id}/cancel")

    def stream(self, job_id: str, on_news: Callable[[], None] = lambda: None) -> Iterator[ServerSentEvent]:
        """A job's events, from the first to its terminal one.

        A connection that breaks is made again, and goes on after the last event seen.

        Args:
            on_news: called for each piece that arrives, heartbeats too; what it raises ends the stream.
        """
        reader, failures = EventReader(), 0
        while True:
            seen = reader.last_id
            try:
                for event in self._events(job_id, reader, on_news):
                    yield event
                    if event.name in TERMINAL:
                        return
                problem = "the stream ended before the job did"
            except (httpx.TransportError, ApiUnreachable) as error:
                problem = str(error) or type(error).__name__
            except ClientError as error:
                if not error.row.retryable:
                    raise
                problem = error.message
            failures = 1 if reader.last_id != seen else failures + 1
            if failures > RECONNECTS:
                raise ApiUnreachable(f"{self.url}: {problem}; follow the job with `tidegate stream {job_id}`")
            on_news()
            time.sleep(RECONNECT_SECONDS)
            reader = EventReader(reader.last_id)

    def _events(
        self, job_id: str, reader: EventReader, on_news: Callable[[], None]
    ) -> Iterator[ServerSentEvent]:
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": reader.last_id} if reader.last_id else {}
        )
        path, patience = f"/v1/jobs/{job_id}/stream", httpx.Timeout(30.0, read=SILENCE_SECONDS)
        with self._http.stream("GET", path, headers=headers, timeout=patience) as answer:
            if not answer.is_success:
                answer.read()
            raise_if_error(answer)
            for chunk in answer.iter_bytes():
                on_news()
                yield from reader.feed(chunk)

    def _call(self, method: str, path: str, **parts: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **parts)
        except httpx.TransportError as error:
            raise ApiUnreachable(
                f"nothing answers at {self.url} ({error}); `tidegate up` starts it"
            ) from error
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


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
