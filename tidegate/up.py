"""`tidegate up`: everything on one machine, shown to work by one answer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from scheduler.errors import TidegateError, gib
from scheduler.settings import Settings
from tidegate import cards, programs
from tidegate.client import MOST_COUNTED, Client
from tidegate.embedded import insist_on_queue, start_embedded_server
from tidegate.failures import ProcessFailed
from tidegate.interruption import Interrupted, Interruption
from tidegate.processes import Processes
from tidegate.slowness import telling
from tidegate.terminal import Terminal, summary

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
                    _make_sample(settings, sample_folder, processes, terminal)
                with _saying_what_a_stop_does(settings, terminal):
                    url = _start(settings, processes, terminal)
                    with Client(url) as client:
                        _ask(client, next(iter(settings.model_sources)), processes, terminal)
                    if not once:
                        _invite(settings, url, terminal)
                        staying = True
                        processes.stay()
        except Interrupted as interrupted:
            terminal.err.print("stopped")
            return 0 if staying else interrupted.exit_status
    return 0


def _make_sample(settings: Settings, folder: Path, processes: Processes, terminal: Terminal) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProcessFailed(f"TIDEGATE_DATA_DIR: {folder.parent} cannot be made: {error.strerror}") from None
    processes.run(programs.sample_model(settings, folder))
    terminal.done("sample model", programs.SAMPLE_NAME)


def _start(settings: Settings, processes: Processes, terminal: Terminal) -> str:
    """Start the embedded server, the API and a worker; the API's URL."""
    with programs.listen(settings.host, settings.port) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        url = programs.url_of(settings.host, settings.port)
        if settings.redis_url is None:
            started = start_embedded_server(settings, processes)
            terminal.done("queue", settings.server_url + ("" if started else " (was running)"))
        else:
            insist_on_queue(settings)
        processes.start(programs.api(settings, listener))
    processes.start(programs.worker(settings))
    with Client(url) as client, terminal.err.status("starting the API and a worker") as status:
        processes.wait_until(client.ready, "the API", API_SECONDS)
        terminal.done("API", url)
        status.update("the worker starts its engine")
        processes.wait_until(lambda: bool(_with_engines(client)), "a live worker", WORKER_SECONDS)
        worker = _with_engines(client)[0]
        terminal.done("worker", f"{worker['name']}, may use {gib(worker['budget_bytes'])}")
    return url


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


def _with_engines(client: Client) -> list[dict[str, Any]]:
    """The live workers whose engine has said what memory there is."""
    return [worker for worker in client.workers() if worker.get("budget_bytes")]


def _ask(client: Client, model: str, processes: Processes, terminal: Terminal) -> None:
    if left := client.unfinished():
        terminal.err.print(_left_over(left))
    terminal.err.print(f"\n[bold]{QUESTION}[/]")
    job = client.submit(question(model))
    events = client.stream(job["id"], on_news=processes.check)
    ended = terminal.answer(telling(events, SLOW_SECONDS, lambda: _tell_of_loading(client, model, terminal)))
    if not (ended.get("result") or {}).get("text"):
        raise TidegateError(f"{job['id']} ended as {ended.get('status')}, without an answer")
    terminal.err.print(f"[dim]{summary(ended)}[/]")


def _left_over(count: int) -> str:
    if count == 1:
        return "1 job from before goes on as well"
    return f"{count}{' or more' if count >= MOST_COUNTED else ''} jobs from before go on as well"


def _tell_of_loading(client: Client, model: str, terminal: Terminal) -> None:
    with suppress(TidegateError):
        if not any(said["card"] for said in cards.measured(client.workers(), model)):
            terminal.note(
                f"loading {model}; the first time it is measured too (a minute or two on a slow CPU), which is kept"
            )


def question(model: str) -> dict[str, Any]:
    """The first job."""
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}


def curl_to_try(url: str, model: str) -> str:
    """A command that asks the same over HTTP and follows the stream."""
    body = json.dumps(question(model) | {"stream": True})
    return f"curl -N {url}/v1/jobs -H 'Content-Type: application/json' \\\n     -d {shlex.quote(body)}"


def _invite(settings: Settings, url: str, terminal: Terminal) -> None:
    lines = (
        f"\nAPI   {url}/v1/jobs   {url}/v1/capacity   and for OpenAI clients {url}/v1",
        f"Logs  {settings.data_dir / 'logs'}",
        f"\nTry\n  {curl_to_try(url, next(iter(settings.model_sources)))}",
        "\nCtrl-C stops everything; what still waits is kept for the next time.",
    )
    for line in lines:
        terminal.err.print(line, markup=False)
