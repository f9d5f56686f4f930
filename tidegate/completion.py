"""`tidegate completion`: what a shell is told to complete this command's words by; click's own."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script by which SHELL completes commands and options.

    \b
      bash  tidegate completion bash > ~/.local/share/bash-completion/completions/tidegate
      zsh   tidegate completion zsh > a folder of $fpath/_tidegate
      fish  tidegate completion fish > ~/.config/fish/completions/tidegate.fish
    """  # noqa: D301  # click keeps a paragraph as it is behind the character itself
    made = get_completion_class(shell)
    assert made is not None
    root = context.find_root().command
    asked = made(root, {}, "tidegate", "_TIDEGATE_COMPLETE")
    click.echo(asked.source_template % asked.source_vars())  # its source() runs a bash, to look how old it is
