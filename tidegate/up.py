"""`tidegate up`: everything on one machine, shown to work by one answer."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from scheduler.errors import ClientError, TidegateError, gib
from scheduler.settings import Settings
from tidegate import cures, programs
from tidegate.client import MOST_COUNTED, Client, Job
from tidegate.embedded import insist_on_queue, start_embedded_server
from tidegate.failures import ProcessFailed
from tidegate.following import Following
from tidegate.interruption import Interrupted, Interruption
from tidegate.keys import asks_for_keys, insist_on_keys, insist_on_own_key
from tidegate.processes import Processes, tail
from tidegate.terminal import Terminal

QUESTION: Final = "What is the capital of France?"
API_SECONDS: Final = 60.0
WORKER_SECONDS: Final = 300.0
SLOW_SECONDS: Final = 2.0


def up(settings: Settings, *, sample: bool, once: bool, terminal: Terminal) -> int:
    """Start what is needed, ask one question, stay until interrupted; the exit status.

    Raises:
        TidegateError: something did not start, died, or did not answer; everything is stopped by then.
    """
    settings, sample_folder = programs.with_absolute_paths(settings), None
    if sample:
        settings, sample_folder = programs.with_sample(settings)
    programs.insist_on_models(settings, sample_folder)
    staying = False
    with Interruption() as interruption:
        try:
            with Processes(settings.data_dir / "logs", interruption) as processes:
                if sample_folder is not None:
                    programs.listen(
                        settings.host, settings.port
                    ).close()  # a taken port is told before a download
                    make_sample(settings, sample_folder, processes, terminal)
                with _saying_what_a_stop_does(settings, terminal):
                    url = _start(settings, processes, terminal)
                    with (
                        Client(url, key=settings.api_key) as client,
                        _staying_without_a_key(terminal, once=once),
                        saying_why_no_model(settings),
                    ):
                        _await_worker(client, processes, terminal)
                        _ask(client, next(iter(settings.model_sources)), processes, terminal)
                    if not once:
                        _invite(settings, url, terminal)
                        staying = True
                        processes.stay()
        except Interrupted as interrupted:
            terminal.err.print("stopped")
            return 0 if staying else interrupted.exit_status
    return 0


def make_sample(settings: Settings, folder: Path, processes: Processes, terminal: Terminal) -> None:
    """Make the sample model, and the data folder for it, unless they are there.

    Raises:
        ProcessFailed: either cannot be made.
    """
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # the mode is not for parents
        folder.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise ProcessFailed(f"TIDEGATE_DATA_DIR: {folder.parent} cannot be made: {error.strerror}") from None
    processes.run(programs.sample_model(settings, folder))
    terminal.done("sample model", programs.SAMPLE_NAME)


def with_sample_made(settings: Settings, terminal: Terminal) -> Settings:
    """The settings with the sample model served first, for a program that is started alone; it is there then.

    Raises:
        ProcessFailed: it cannot be made.
        SystemExit: a signal ended it.
    """
    settings, folder = programs.with_sample(programs.with_absolute_paths(settings))
    with Interruption() as interruption:
        try:
            with Processes(settings.data_dir / "logs", interruption) as processes:
                make_sample(settings, folder, processes, terminal)
        except Interrupted as interrupted:
            raise SystemExit(interrupted.exit_status) from None
    return settings


def _start(settings: Settings, processes: Processes, terminal: Terminal) -> str:
    """Start the embedded server, the API and a worker; the API's URL, once it is ready."""
    with programs.listen(settings.host, settings.port) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        url = programs.url_of(settings.host, settings.port)
        if settings.redis_url is None:
            started = start_embedded_server(settings, processes)
            terminal.done("queue", settings.server_url + ("" if started else " (was running)"))
        else:
            insist_on_queue(settings)
        insist_on_keys(settings, listener.getsockname()[0])
        insist_on_own_key(settings)
        processes.start(programs.api(settings, listener))
    processes.start(programs.worker(settings))
    with Client(url, key=settings.api_key) as client, terminal.err.status("starting the API and a worker"):
        processes.wait_until(client.ready, "the API", API_SECONDS)
    terminal.done("API", url)
    return url


def _await_worker(client: Client, processes: Processes, terminal: Terminal) -> None:
    with terminal.err.status("the worker starts its engine"):
        processes.wait_until(lambda: bool(_with_engines(client)), "a live worker", WORKER_SECONDS)
        worker = _with_engines(client)[0]
    terminal.done("worker", f"{worker['name']}, may use {gib(worker['budget_bytes'])}")


@contextmanager
def _staying_without_a_key(terminal: Terminal, *, once: bool) -> Iterator[None]:
    """Where a first key was made meanwhile, what is asked here is refused, and only that: all else goes on."""
    try:
        yield
    except ClientError as error:
        if once or error.code != "unauthorized":
            raise
        terminal.note(
            f"a first API key was made meanwhile: the question asked here now needs one too ({cures.KEY_VARIABLE}), "
            "and is left; all else goes on"
        )


@contextmanager
def _saying_what_a_stop_does(settings: Settings, terminal: Terminal) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        grace = f"{settings.shutdown_grace:g} s"
        terminal.err.print(
            f"\nstopping: running jobs get up to {grace} to finish; Ctrl-C again to stop at once"
        )
        raise


@contextmanager
def saying_why_no_model(settings: Settings) -> Iterator[None]:
    """Where no worker can load the model, say why: that is kept from clients, and is for who sits here to read."""
    try:
        yield
    except ClientError as error:
        if error.code not in {"no_worker", "model_not_found"}:
            raise
        log = settings.data_dir / "logs" / "worker.log"
        said = f"{error.code}: {error.message}"
        if cures.is_larger_than_budget(error):
            said = cures.told(error, sends_key=True)
        elif reason := why_not_loaded(tail(log)):
            said += f": {reason}"
        raise ProcessFailed(f"{said}; the worker's log is {log}") from error


def why_not_loaded(log: str) -> str:
    """What a worker's log last says of a model that it could not load; '' where it says nothing."""
    found = re.findall(r"""model cannot be loaded\b.*\breason=(["']?)(.+)\1[ \t]*$""", log, re.MULTILINE)
    return found[-1][1].strip() if found else ""


def _with_engines(client: Client) -> list[dict[str, Any]]:
    """The live workers whose engine has said what memory there is."""
    return [worker for worker in client.workers() if worker.get("budget_bytes")]


def _ask(client: Client, model: str, processes: Processes, terminal: Terminal) -> None:
    if left := client.unfinished():
        terminal.err.print(_left_over(left))
    terminal.err.print(f"\n[bold]{QUESTION}[/]")
    following = Following(
        client,
        {"model": model} | submitted_first(client, model),
        terminal,
        submitted_at=time.monotonic(),
        check=processes.check,
        slow_seconds=SLOW_SECONDS,
    )
    ended = following.to_its_end()
    if not (ended.get("result") or {}).get("text"):
        raise TidegateError(f"{ended.get('id')} ended as {ended.get('status')}, without an answer")


def submitted_first(client: Client, model: str) -> Job:
    """The first job, ahead of what waits from before, unless this command's key may not use that class."""
    asked = question(model)
    try:
        return client.submit(asked | {"priority": "interactive"})
    except ClientError as error:
        if (error.code, error.param) != ("forbidden", "priority"):
            raise
    return client.submit(asked)


def _left_over(count: int) -> str:
    if count == 1:
        return "1 job from before goes on as well"
    return f"{count}{' or more' if count >= MOST_COUNTED else ''} jobs from before go on as well"


def question(model: str) -> dict[str, Any]:
    """The first job."""
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}


def curl_to_try(url: str, model: str, *, with_key: bool = False) -> str:
    """A command that asks the same over HTTP and follows the stream; a key is left to the shell to fill in."""
    body = json.dumps(question(model) | {"stream": True})
    key = f'-H "Authorization: Bearer ${cures.KEY_VARIABLE}" \\\n     ' if with_key else ""
    return f"curl -N {url}/v1/jobs -H 'Content-Type: application/json' \\\n     {key}-d {shlex.quote(body)}"


def _invite(settings: Settings, url: str, terminal: Terminal) -> None:
    lines = (
        f"\nPage  {url}/",
        f"API   {url}/v1/jobs   {url}/v1/capacity   and for OpenAI clients {url}/v1",
        f"Logs  {settings.data_dir / 'logs'}",
        f"\nTry\n  {curl_to_try(url, next(iter(settings.model_sources)), with_key=asks_for_keys(settings))}",
        "\nCtrl-C stops everything; what still waits is kept for the next time.",
    )
    for line in lines:
        terminal.err.print(line, markup=False)
