"""`tidegate models`: what is served, and what was measured of it."""

from __future__ import annotations

import json

import click

from scheduler.errors import TidegateError
from tidegate import cards
from tidegate.client import client_here
from tidegate.reporting import json_option
from tidegate.terminal import Terminal
from tidegate.waiting_words import preparing


@click.group(invoke_without_command=True)
@json_option("Print one model a line, as JSON.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List what is served, and whether a worker is ready for it."""
    if context.invoked_subcommand is not None:
        return
    with client_here() as client:
        found, workers = client.models(), () if as_json else client.workers()
    if not as_json:
        Terminal().models(found, preparing(workers), cards.remarks(workers))
    for model in found if as_json else ():
        click.echo(json.dumps(model))


@models.command()
@click.argument("model", required=False)
@json_option("Print one card a line, as JSON.")
def show(model: str | None, as_json: bool) -> None:
    """Print what each worker has measured of its models, or of MODEL."""
    with client_here() as client:
        measured = list(cards.measured(client.workers(), model))
    if not measured:
        raise TidegateError(f"no live worker serves {model or 'any model'}")
    for each in measured:
        if as_json:
            click.echo(json.dumps(each))
        else:
            Terminal().card(cards.title(each), cards.figures(each))
