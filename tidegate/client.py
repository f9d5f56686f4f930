"""The API as the command uses it: HTTP out, plain JSON in, a stream that reconnects by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self

import click
import httpx
from pydantic import SecretStr

from scheduler.errors import ClientError, SettingsInvalid
from scheduler.job import TERMINAL, State
from scheduler.loopback import is_loopback
from tidegate.failures import ApiUnreachable, UrlInvalid
from tidegate.reconnecting import Outage
from tidegate.sse import EventReader, ServerSentEvent
from tidegate.text import fields_of

Job = dict[str, Any]

SILENCE_SECONDS: Final = 60.0  # the API sends a heartbeat several times within it
UNFINISHED: Final = (State.QUEUED, State.IN_PROGRESS)  # in the order in which a job is either
MOST_COUNTED: Final = 100  # of a status
PATIENCE_SECONDS: Final = 60.0  # an API that is started anew is back within it
STARTS: Final = "`tidegate up` starts it"
ELSEWHERE: Final = "TIDEGATE_PORT or --url tells of another port or place"
LOOK_SECONDS: Final = 5.0  # what is only looked at can be looked at again


class Client:
    """One API.

    Every call raises `ClientError` where the API answered with its error body, and `ApiUnreachable`
    where nothing answered, or something that is not tidegate.

    Args:
        url: where it listens.
        key: the API key that is sent, if it wants one.
        patience_seconds: how long a stream that broke is tried again.

    Raises:
        UrlInvalid: that is no URL.
        SettingsInvalid: the key is none.
    """

    def __init__(
        self, url: str, *, key: SecretStr | None = None, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        _insist_on_url(url)
        self.url = url.rstrip("/")
        self._patience_seconds = patience_seconds
        # A proxy is for addresses elsewhere: it could not reach this machine's loopback.
        self._http = httpx.Client(
            base_url=self.url,
            headers=_authorization(key),
            timeout=30.0,
            trust_env=not is_loopback(httpx.URL(url).host),
        )

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
        return self._list("/v1/capacity", "workers", "name", "models")

    def models(self) -> list[dict[str, Any]]:
        """What is served, as ``/v1/models`` lists it."""
        return self._list("/v1/models", "data", "id", "ready")

    def submit(self, request: dict[str, Any]) -> Job:
        """Submit a job and return it as it was accepted."""
        return self._job("/v1/jobs", json=request)

    def unfinished(self) -> int:
        """How many jobs wait or run; only the newest of either are counted."""
        found = (job["id"] for status in UNFINISHED for job in self.jobs(limit=MOST_COUNTED, status=status))
        return len(set(found))  # one may have begun in between

    def jobs(self, *, limit: int, **wanted: str | None) -> list[Job]:
        """The newest jobs, newest first.

        Args:
            limit: how many at most.
            wanted: only those of this ``status``, ``model`` or ``priority``; None lets all through.
        """
        query = {name: value for name, value in wanted.items() if value is not None}
        found: list[Job] = []
        while True:  # a page may have less than was asked for
            page = self._call("GET", "/v1/jobs", params={"limit": limit - len(found)} | query)
            found += self._objects("/v1/jobs", page.get("data"), "id")
            if len(found) >= limit or not page.get("has_more"):
                return found
            query["after"] = page["next_cursor"]

    def look(self, path: str, **query: str | int) -> dict[str, Any]:
        """What a path answers, within a few seconds."""
        return self._call("GET", path, params=query, timeout=LOOK_SECONDS)

    def readiness(self) -> tuple[int, dict[str, Any], float | None]:
        """What ``/readyz`` answers, ready or not: the status, the body, and the API's clock in Unix seconds.

        Raises:
            ApiUnreachable: nothing answers.
        """
        try:
            answer = self._http.get("/readyz", timeout=LOOK_SECONDS)
        except httpx.TransportError as error:
            raise self._nothing_answers(error) from error
        try:
            body = answer.json()
        except ValueError:
            body = None
        return answer.status_code, body if isinstance(body, dict) else {}, _moment(answer.headers.get("Date"))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it as it ended."""
        return self._call("POST", f"/v1/jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> Job:
        """Submit again what a job asked for that has ended; the new job as it was accepted."""
        return self._job(f"/v1/jobs/{job_id}/retry")

    def stream(
        self,
        job_id: str,
        on_loss: Callable[[], None] = lambda: None,
    ) -> Iterator[ServerSentEvent]:
        """A job's events, from the first to its terminal one.

        A connection that breaks is made again, and goes on after the last event seen.

        Args:
            on_loss: called where a connection breaks, once for all the tries that follow.
        """
        reader, outage, tries = EventReader(), Outage(self._patience_seconds, time.monotonic), 0
        while True:
            tries += 1
            try:
                for event in self._events(job_id, reader, outage):
                    yield event
                    if event.name in TERMINAL:
                        return
                problem = "the stream ended before the job did"
            except (httpx.TransportError, ApiUnreachable) as error:
                self._raise_if_no_use(error, tries)
                problem = str(error) or type(error).__name__
            except ClientError as error:
                if not error.row.retryable:
                    raise
                problem = error.message
            if not outage.began:
                on_loss()
            if (pause := outage.pause()) is None:
                raise ApiUnreachable(f"{self.url}: {problem}; follow the job with `tidegate stream {job_id}`")
            time.sleep(pause)
            reader = EventReader(reader.last_id)

    def _events(self, job_id: str, reader: EventReader, outage: Outage) -> Iterator[ServerSentEvent]:
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": reader.last_id} if reader.last_id else {}
        )
        path, patience = f"/v1/jobs/{job_id}/stream", httpx.Timeout(30.0, read=SILENCE_SECONDS)
        with self._http.stream("GET", path, headers=headers, timeout=patience) as answer:
            if not answer.is_success:
                answer.read()
            raise_if_error(answer)
            for pieces, chunk in enumerate(answer.iter_bytes()):
                if pieces:  # the first may be the last: the API has lost its store
                    outage.over()
                for event in reader.feed(chunk):
                    outage.over()
                    if event.name == "message":
                        continue  # `[DONE]`, behind an outage: jobs' own events have names
                    if not _is_ours(event):
                        raise self._other(path)
                    yield event

    def _raise_if_no_use(self, error: Exception, tries: int) -> None:
        if tries == 1 and isinstance(error, httpx.ConnectError):
            raise self._nothing_answers(error) from error
        if isinstance(error, ApiUnreachable) and (tries == 1 or error.for_good):
            raise error

    def _nothing_answers(self, error: Exception) -> ApiUnreachable:
        return ApiUnreachable(f"nothing answers at {self.url} ({error}); {STARTS}, and {ELSEWHERE}")

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

    def _job(self, path: str, **parts: Any) -> Job:
        """The job that an answer is."""
        job = self._call("POST", path, **parts)
        return self._objects(path, [job], "id")[0]

    def _list(self, path: str, name: str, *fields: str) -> list[dict[str, Any]]:
        return self._objects(path, self._call("GET", path).get(name), *fields)

    def _objects(self, path: str, said: object, *fields: str) -> list[dict[str, Any]]:
        """A list of objects, each with these fields."""
        found = (
            [each for each in said if {*fields} <= fields_of(each).keys()] if isinstance(said, list) else []
        )
        if isinstance(said, list) and len(found) == len(said):
            return found
        raise self._other(path)

    def _other(self, path: str) -> ApiUnreachable:
        """Another server has the port, as OpenAI's paths are many servers'."""
        why = f"{self.url}{path} did not answer as tidegate does: is it tidegate?"
        return ApiUnreachable(why, for_good=True)


def client_here() -> Client:
    """Of the API that the command line and the settings name."""
    context = click.get_current_context()
    return Client(context.meta["url"], key=context.obj.api_key)


def _is_ours(event: ServerSentEvent) -> bool:
    """Whether an event is one that tidegate writes; a job's last one has the job."""
    said = event.json()
    return isinstance(said, dict) and (event.name not in TERMINAL or {"id", "status"} <= said.keys())


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


def _moment(date: str | None) -> float | None:
    """A ``Date`` header's, in Unix seconds; None where there is none."""
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, OverflowError):
        return None


def _insist_on_url(url: str) -> None:
    try:
        read = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UrlInvalid(f"{url!r} is not a URL: {error}") from error
    if read.scheme not in {"http", "https"} or not read.host:
        raise UrlInvalid(f"{url!r} is not a URL: it needs http:// or https:// and a host")


def _authorization(key: SecretStr | None) -> dict[str, str]:
    """The header that carries a key; the message of a bad one does not repeat it."""
    if key is None:
        return {}
    token = key.get_secret_value()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise SettingsInvalid("TIDEGATE_API_KEY has characters that no API key has")
    return {"Authorization": f"Bearer {token}"}
