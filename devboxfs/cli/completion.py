"""`devboxfs completion`: what a shell needs to complete commands, options and names of boxes."""

from __future__ import annotations

import click

from devboxfs.cli.group import commands

__all__ = ["completion"]

_VARIABLE = "_DEVBOXFS_COMPLETE"
"""What click looks at to see that a shell asks."""


_SETUP = """\b
bash:  eval "$(devboxfs completion bash)"          in ~/.bashrc
zsh:   eval "$(devboxfs completion zsh)"           in ~/.zshrc
fish:  devboxfs completion fish | source           in ~/.config/fish/config.fish
"""


@commands.command(epilog=_SETUP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:  # the choices above are the ones that click has
        raise click.UsageError(f"There is no completion for {shell}.")
    click.echo(found(commands, {}, "devboxfs", _VARIABLE).source())
