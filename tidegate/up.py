"""`tidegate up`: everything on one machine, shown to work by one answer."""

from __future__ import annotations

import json
import shlex
from typing import Any, Final

from scheduler.errors import TidegateError, gib
from scheduler.settings import Settings
from tidegate import programs
from tidegate.client import Client
from tidegate.embedded import start_embedded_server
from tidegate.failures import ModelsMissing
from tidegate.interruption import Interrupted, Interruption
from tidegate.processes import Processes
from tidegate.terminal import Terminal, summary

QUESTION: Final = "What is the capital of France?"
API_SECONDS: Final = 60.0
WORKER_SECONDS: Final = 300.0


def up(settings: Settings, *, sample: bool, once: bool, terminal: Terminal) -> int:
    """Start what is needed, ask one question, stay until interrupted; the exit status.

    Raises:
        TidegateError: something did not start, died, or did not answer; everything is stopped by then.
    """
    settings = programs.with_absolute_paths(settings)
    staying = False
    with Interruption() as interruption:
        try:
            with Processes(settings.data_dir / "logs", interruption) as processes:
                if sample:
                    settings = _make_sample(settings, processes, terminal)
                if not settings.models:
                    raise ModelsMissing("nothing to serve: set TIDEGATE_MODELS, or give --sample")
                url = _start(settings, processes, terminal)
                with Client(url) as client:
                    _ask(client, next(iter(settings.model_sources)), processes, terminal)
                if not once:
                    _invite(settings, url, terminal)
                    staying = True
                    _stay(settings, processes, terminal)
        except Interrupted as interrupted:
            terminal.err.print("stopped")
            return 0 if staying else interrupted.exit_status
    return 0


def _make_sample(settings: Settings, processes: Processes, terminal: Terminal) -> Settings:
    settings, folder = programs.with_sample(settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    processes.run(programs.sample_model(settings, folder))
    terminal.done("sample model", programs.SAMPLE_NAME)
    return settings


def _start(settings: Settings, processes: Processes, terminal: Terminal) -> str:
    """Start the embedded server, the API and a worker; the API's URL."""
    with programs.listen(settings.host, settings.port) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        url = programs.url_of(settings.host, settings.port)
        if settings.redis_url is None:
            started = start_embedded_server(settings, processes)
            terminal.done("queue", settings.server_url + ("" if started else " (was running)"))
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


def _stay(settings: Settings, processes: Processes, terminal: Terminal) -> None:
    try:
        processes.stay()
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
    terminal.err.print(f"\n[bold]{QUESTION}[/]")
    job = client.submit(question(model))
    ended = terminal.answer(client.stream(job["id"], on_news=processes.check))
    if not (ended.get("result") or {}).get("text"):
        raise TidegateError(f"{job['id']} ended as {ended.get('status')}, without an answer")
    terminal.err.print(f"[dim]{summary(ended)}[/]")


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
