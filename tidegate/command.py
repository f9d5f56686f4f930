"""The `tidegate` command."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import click

from scheduler import settings as scheduler_settings
from scheduler.errors import ClientError, TidegateError
from scheduler.job import PRIORITIES, State
from scheduler.settings import Settings
from tidegate import cards, programs
from tidegate.client import Client
from tidegate.embedded import insist_on_queue
from tidegate.terminal import Terminal, summary
from tidegate.up import up as run_up


class _Group(click.Group):
    """Ends with one line on standard error, not a traceback, where something fails that tidegate foresees."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            wait = "" if error.retry_after is None else f" (try again in {error.retry_after} s)"
            raise click.ClickException(f"{error.code}: {error.message}{wait}") from error
        except TidegateError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tidegate")
@click.option("--url", help="The API to speak to; by default the one of TIDEGATE_HOST and TIDEGATE_PORT.")
@click.pass_context
def main(context: click.Context, url: str | None) -> None:
    """A memory-aware job queue with admission control for MLX text generation."""
    settings = scheduler_settings.load()
    context.obj = settings
    context.meta["url"] = url or programs.url_of(settings.host, settings.port)


def _client() -> Client:
    return Client(click.get_current_context().meta["url"])


@main.command()
@click.option("--sample", is_flag=True, help="Make the sample model, if need be, and serve it.")
@click.option("--once", is_flag=True, help="Stop after the first answer.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="The API's port, 0 for any; overrides TIDEGATE_PORT."
)
@click.pass_obj
def up(settings: Settings, sample: bool, once: bool, port: int | None) -> None:
    """Start everything here, ask one question, stay until Ctrl-C.

    Everything is the embedded server (unless TIDEGATE_REDIS_URL names another), the API and a worker.
    """
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    raise SystemExit(run_up(settings, sample=sample, once=once, terminal=Terminal()))


@main.command()
@click.pass_obj
def api(settings: Settings) -> None:
    """Become the API's server."""
    bind = f"[{settings.host}]" if ":" in settings.host else settings.host
    _become(programs.api_command(f"{bind}:{settings.port}"))


@main.command()
@click.pass_obj
def worker(settings: Settings) -> None:
    """Become one more worker on the queue in use.

    It is `rq worker -w workers.MetalWorker`, with that queue's address.
    """
    insist_on_queue(settings)
    programs.insist_on_models(settings)
    _become(programs.worker_command(), programs.worker_environment(settings))


def _become(command: tuple[str, ...], environment: Mapping[str, str] | None = None) -> None:
    os.execve(command[0], command, os.environ | dict(environment or {}))  # noqa: S606  # no shell: the words are ours


@main.command()
@click.argument("prompt")
@click.option("--model", help="By default the first one served.")
@click.option("--max-tokens", type=click.IntRange(min=1))
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--priority", type=click.Choice(PRIORITIES))
@click.option("--stream/--no-stream", help="Print the answer as it comes, instead of the job's id.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON, with --stream as it ended.")
def submit(prompt: str, model: str | None, stream: bool, as_json: bool, **fields: Any) -> None:
    """Submit PROMPT as a chat job."""
    terminal = Terminal()
    with _client() as client:
        request = {name: value for name, value in fields.items() if value is not None}
        request |= {"model": model or _first_model(client), "messages": [{"role": "user", "content": prompt}]}
        job = client.submit(request)
        if stream:
            _follow(client, job["id"], terminal, as_json)
        else:
            click.echo(json.dumps(job) if as_json else job["id"])


def _first_model(client: Client) -> str:
    if models := client.models():
        return str(models[0]["id"])
    raise TidegateError(f"{client.url} serves no model: set TIDEGATE_MODELS where it runs")


@main.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON once it has ended, and no text.")
def stream(job_id: str, as_json: bool) -> None:
    """Print a job's answer from its beginning, as it comes."""
    with _client() as client:
        _follow(client, job_id, Terminal(), as_json)


def _follow(client: Client, job_id: str, terminal: Terminal, as_json: bool) -> None:
    events = client.stream(job_id, on_loss=lambda: terminal.note("connection lost; trying again"))
    if as_json:
        *_, last = events
        click.echo(json.dumps(last.json()))
        return
    terminal.err.print(f"[dim]{summary(terminal.answer(events))}[/]")


@main.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
def cancel(job_id: str, as_json: bool) -> None:
    """Cancel a job; one that has ended stays as it ended."""
    with _client() as client:
        job = client.cancel(job_id)
    click.echo(json.dumps(job) if as_json else job["status"])


@main.command()
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--status", type=click.Choice([str(state) for state in State]))
@click.option("--json", "as_json", is_flag=True, help="Print one job a line, as JSON.")
def jobs(limit: int, status: str | None, as_json: bool) -> None:
    """List the newest jobs."""
    with _client() as client:
        found = client.jobs(limit=limit, status=status)
    if not as_json:
        Terminal().jobs(found)
    for job in found if as_json else ():
        click.echo(json.dumps(job))


@main.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one model a line, as JSON.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List what is served, and whether a live worker is ready for it."""
    if context.invoked_subcommand is not None:
        return
    with _client() as client:
        found = client.models()
    if not as_json:
        Terminal().models(found)
    for model in found if as_json else ():
        click.echo(json.dumps(model))


@models.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one card a line, as JSON.")
def show(model: str | None, as_json: bool) -> None:
    """Print what each worker has measured of its models, or of MODEL."""
    with _client() as client:
        measured = list(cards.measured(client.workers(), model))
    if not measured:
        raise TidegateError(f"no live worker serves {model or 'any model'}")
    for each in measured:
        if as_json:
            click.echo(json.dumps(each))
        else:
            Terminal().out.print(cards.table(each))
