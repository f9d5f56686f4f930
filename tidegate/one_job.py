"""`tidegate submit`, `stream`, `retry` and `cancel`: the commands about one job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import click

from scheduler.errors import ClientError, TidegateError
from scheduler.job import PRIORITIES
from tidegate import prompt as prompts
from tidegate.client import Client, Job, client_here
from tidegate.failures import ApiUnreachable, JobCancelled
from tidegate.following import Following, Form
from tidegate.interruption import Interrupted, Interruption
from tidegate.reporting import json_option, told_in_json
from tidegate.terminal import Terminal
from tidegate.text import on_one_line

Command = TypeVar("Command", bound=Callable[..., Any])

_FORMS: Final = {
    (True, False): Form.TEXT,
    (True, True): Form.EVENTS,
    (False, False): Form.WHOLE,
    (False, True): Form.JOB,
}
"""By --stream, and --json."""


def _shown(command: Command) -> Command:
    """The options of how a new job is shown."""
    options = (
        click.option("--stream/--no-stream", help="Print the answer as it comes, instead of the job's id."),
        click.option(
            "--wait", is_flag=True, help="Print the answer once it is whole, instead of the job's id."
        ),
        json_option(
            "Print the job as JSON: as accepted, with --wait as it ended; with --stream an event a line."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("prompt", callback=prompts.read, required=False)
@click.option("--model", help="By default the first one served.")
@click.option("--system", help="What the model is told before PROMPT.")
@click.option("--max-tokens", type=click.IntRange(min=1))
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--priority", type=click.Choice(PRIORITIES))
@_shown
def submit(
    prompt: str, model: str | None, system: str | None, stream: bool, wait: bool, as_json: bool, **fields: Any
) -> None:
    """Submit PROMPT, or standard input, as a chat job.

    Standard input is read where there is no PROMPT, or it is -. The exit status with --stream or --wait: 0 answered, 1 failed, 3 it never fits, 4 not now (try again after the
    seconds that are told), 5 cancelled. Without them: 0 accepted, and 3 and 4 for what the API refuses at once.
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    with client_here() as client:
        request = {name: value for name, value in fields.items() if value is not None}
        request |= {"model": model or _first_model(client), "messages": messages}
        _show(client, partial(client.submit, request), stream=stream, wait=wait, as_json=as_json)


def _first_model(client: Client) -> str:
    if models := client.models():
        return str(models[0]["id"])
    raise TidegateError(f"{client.url} serves no model: set TIDEGATE_MODELS where it runs")


@click.command()
@click.argument("job_id", metavar="ID")
@_shown
def retry(job_id: str, stream: bool, wait: bool, as_json: bool) -> None:
    """Ask again what an ended job asked, as a new job.

    The exit status is as `tidegate submit` has it.
    """
    with client_here() as client:
        _show(client, partial(client.retry, job_id), stream=stream, wait=wait, as_json=as_json)


@click.command()
@click.argument("job_id", metavar="ID")
@json_option("Print every event as a line of JSON: event, id, data; the last one's data is the job.")
def stream(job_id: str, as_json: bool) -> None:
    """Print a job's answer from its beginning, as it comes.

    The exit status is as `tidegate submit --stream` has it.
    """
    with client_here() as client:
        _follow(client, {"id": job_id}, Terminal(), Form.EVENTS if as_json else Form.TEXT)


@click.command()
@click.argument("job_id", metavar="ID")
@json_option("Print the job as JSON.")
def cancel(job_id: str, as_json: bool) -> None:
    """Cancel a job; one that has ended stays as it ended."""
    with client_here() as client:
        job = client.cancel(job_id)
    click.echo(json.dumps(job) if as_json else on_one_line(job.get("status")))


COMMANDS = (submit, stream, retry, cancel)


def _show(client: Client, make: Callable[[], Job], *, stream: bool, wait: bool, as_json: bool) -> None:
    """Make a job, and show it as the options say."""
    terminal, began = Terminal(), time.monotonic()
    job = make()
    if not stream and not wait:
        click.echo(json.dumps(job) if as_json else job["id"])
        if terminal.out.is_terminal and not as_json:  # a script needs no advice
            terminal.note(f"`tidegate stream {job['id']}` follows it, `tidegate cancel {job['id']}` ends it")
        return
    form = _FORMS[stream, as_json]
    try:
        _follow(client, job, terminal, form, began)
    except ApiUnreachable as error:
        if job["id"] not in str(error):  # nobody was told it yet
            terminal.note(_goes_on(job["id"]))
        raise


def _follow(client: Client, job: Job, terminal: Terminal, form: Form, began: float | None = None) -> None:
    lost = f"connection lost; trying again; {_goes_on(job['id'])}"
    following = Following(client, job, terminal, form, submitted_at=began)
    with Interruption():
        try:
            following.to_its_end(on_loss=lambda: terminal.note(lost))
        except Interrupted as interrupted:
            terminal.note(_goes_on(job["id"]))
            raise SystemExit(interrupted.exit_status) from None
        except (ClientError, JobCancelled):
            if form.as_json and following.ended:
                told_in_json()
            raise


def _goes_on(job_id: str) -> str:
    return f"{job_id} goes on; `tidegate stream {job_id}` follows it, `tidegate cancel {job_id}` ends it"
