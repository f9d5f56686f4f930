"""The `tidegate` command."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import click

from scheduler import settings as scheduler_settings
from scheduler.job import PRIORITIES, State
from scheduler.settings import Settings
from scheduler.spelling import complaints, is_ours
from tidegate import doctor, one_job, programs, top
from tidegate.client import client_here
from tidegate.completion import completion
from tidegate.embedded import insist_on_queue
from tidegate.job_watch import watch
from tidegate.keys import insist_on_keys, keys
from tidegate.models_command import models
from tidegate.reporting import Group, json_option
from tidegate.service import print_job
from tidegate.settings_file import read_settings_file
from tidegate.terminal import Terminal, console
from tidegate.up import up as run_up
from tidegate.up import with_sample_made
from tidegate.waiting_words import preparing

_WARN_THEMSELVES: Final = frozenset({"api", "worker"})
"""Commands that become a process with a log, where it says which variables are no settings."""

_INTERVAL: Final = click.FloatRange(0.1, 3600)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tidegate")
@click.option("--url", help="The API to speak to; by default the one of TIDEGATE_HOST and TIDEGATE_PORT.")
@click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    help="A file of variables, NAME=VALUE lines, which nobody else may read; those that are set already win.",
)
@click.pass_context
def main(context: click.Context, url: str | None, file: Path | None) -> None:
    """A memory-aware job queue with admission control for MLX text generation."""
    context.meta["settings_file"] = None if file is None else _from_the_root(file)
    told = {} if file is None else read_settings_file(context.meta["settings_file"])
    context.meta["only_here"] = sorted(
        name for name, value in os.environ.items() if value and is_ours(name) and name not in told
    )
    os.environ.update({name: value for name, value in told.items() if not os.environ.get(name)})
    if context.invoked_subcommand not in _WARN_THEMSELVES:
        for complaint in complaints(os.environ):
            click.echo(f"Warning: {complaint}", err=True)
    settings = scheduler_settings.load()
    context.obj = settings
    context.meta["url"] = url or programs.url_of(settings.host, settings.port)
    context.meta["url_given"] = url is not None


def _from_the_root(file: Path) -> Path:
    """A file's path without ``..``, for processes that start elsewhere; the file itself may be a link, and stays one."""
    file = file.expanduser()
    return file.parent.resolve() / file.name


for command in (keys, models, print_job, completion, *one_job.COMMANDS):
    main.add_command(command)


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


_sample: Final = click.option(
    "--sample", is_flag=True, help="Make the sample model, if need be, and serve it, as `up --sample` does."
)


@main.command()
@_sample
@click.pass_obj
def api(settings: Settings, sample: bool) -> None:
    """Become the API's server.

    A server that TIDEGATE_REDIS_URL names may come later; the embedded one must run.
    """
    if settings.redis_url is None:
        insist_on_queue(settings)
    insist_on_keys(settings, settings.host)
    with programs.listen(
        settings.host, settings.port
    ) as listener:  # gunicorn tries a taken port again and again
        settings = with_sample_made(settings, Terminal()) if sample else settings
        listener.set_inheritable(True)
        _become(
            programs.api_command(f"fd://{listener.fileno()}"),
            programs.environment(settings) if sample else {},
        )


@main.command()
@_sample
@click.pass_obj
def worker(settings: Settings, sample: bool) -> None:
    """Become one more worker on the queue in use.

    It is `rq worker -w workers.MetalWorker`, with that queue's address.
    """
    insist_on_queue(settings)
    settings = with_sample_made(settings, Terminal()) if sample else settings
    programs.insist_on_models(settings)
    served = programs.environment(settings) if sample else {}
    _become(programs.worker_command(), served | programs.worker_environment(settings))


def _become(command: tuple[str, ...], environment: Mapping[str, str] | None = None) -> None:
    os.execve(command[0], command, os.environ | dict(environment or {}))  # noqa: S606  # no shell: the words are ours


@main.command()
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--status", type=click.Choice([str(state) for state in State]))
@click.option("--model", help="Only this model's.")
@click.option("--priority", type=click.Choice(PRIORITIES))
@click.option("--watch", "watching", is_flag=True, help="Show them until Ctrl-C, as they change.")
@click.option("--interval", type=_INTERVAL, default=1.0, show_default=True, help="Seconds, with --watch.")
@json_option("Print one job a line, as JSON.")
def jobs(limit: int, watching: bool, interval: float, as_json: bool, **wanted: str | None) -> None:
    """List the newest jobs."""
    with client_here() as client:
        if watching:
            look = partial(client.jobs, limit=limit, **wanted)
            shown = watch(
                look,
                Terminal(),
                seconds=interval,
                as_json=as_json,
                prepare=lambda: preparing(client.workers()),
            )
            raise SystemExit(shown)
        found = client.jobs(limit=limit, **wanted)
        waits = not as_json and any(job.get("queue") for job in found)
        workers = client.workers() if waits else []
    if not as_json:
        Terminal().jobs(found, preparing(workers))
    for job in found if as_json else ():
        click.echo(json.dumps(job))


@main.command("top")
@click.option(
    "--interval", type=_INTERVAL, default=1.0, show_default=True, help="Seconds between two frames."
)
@click.option("--once", is_flag=True, help="Print one frame; so it is too where the output is no terminal.")
@json_option("Print what the API answers, once, as JSON.")
def show_top(interval: float, once: bool, as_json: bool) -> None:
    """Show workers, their memory and the queue, live; q ends it."""
    with client_here() as client:
        raise SystemExit(top.run(client, console(), once=once, as_json=as_json, seconds=interval))


@main.command("doctor")
@json_option("Print the findings as JSON.")
@click.pass_context
def see_doctor(context: click.Context, as_json: bool) -> None:
    """Look for what is amiss here; nothing is changed.

    The exit status is 1 where something is.
    """
    with client_here() as client:
        findings = doctor.examine(context.obj, client, url_given=context.meta["url_given"])
    raise SystemExit(doctor.tell(findings, Terminal().out, as_json=as_json))
