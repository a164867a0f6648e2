"""`devboxfs serve`: the embedded engine, for programs that speak to a Devbox service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.terminal import tell
from devboxfs.config import ExitCode, MountError, Places

__all__ = ["serve"]


@commands.command(epilog=CODES)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9750,
    show_default=True,
    help="0: any that is free.",
)
@click.option("--certificate", type=click.Path(path_type=Path), help="TLS, together with --key.")
@click.option("--key", type=click.Path(path_type=Path), help="The certificate's private key.")
@click.option("--insecure", is_flag=True, help="Let other machines reach it without TLS.")
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop.",
)
@click.option(
    "--lineage",
    type=click.Choice(["M", "R"]),
    default="M",
    show_default=True,
    help="The control plane to be like: the current one, or the older one's flat routes.",
)
@click.option(
    "--domain",
    default="localhost",
    show_default=True,
    help="What public addresses of boxes are made of.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the boxes are.")
@click.option("--admin", is_flag=True, help="Let faults be injected, for tests of clients.")
def serve(
    data_dir: Path | None,
    lineage: Any,  # noqa: ANN401 - click has checked it
    domain: str,
    *,
    admin: bool,
    **options: Any,  # noqa: ANN401 - ServeOptions declares them
) -> None:
    """Serve embedded boxes as a Devbox service does, until interrupted."""
    try:
        from sealos_devbox.errors import DevboxError
        from sealos_devbox.server.run import Served, ServeOptions
        from sealos_devbox.server.run import serve as run
        from sealos_devbox.server.settings import EngineSettings
    except ImportError as error:
        raise MountError(
            f"The engine is not installed ({error}): pip install 'sealos-devbox[server]'.",
            ExitCode.FAILED,
        ) from None

    directory = Places.from_environment().data if data_dir is None else data_dir.absolute()
    settings = EngineSettings(directory, lineage=lineage, domain=domain, admin=admin)

    def ready(served: Served) -> None:
        tell(f"The embedded engine serves {served.url}; boxes are in {directory / 'boxes'}.")
        tell(f"Credential: {served.token_file}, or {served.kubeconfig} for clients of clusters.")

    try:
        run(
            settings,
            ServeOptions(**options),
            on_ready=ready,
        )
    except DevboxError as error:
        text = f"{error} {error.hint}" if error.hint else str(error)
        raise MountError(text, ExitCode.FAILED) from None
