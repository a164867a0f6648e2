"""`python -m sealos_devbox.server`: the engine without devboxfs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sealos_devbox.server.run import Served, ServeError, ServeOptions, serve
from sealos_devbox.server.settings import EngineSettings


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; 0, or 1 when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m sealos_devbox.server", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="where the boxes are")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0, the default: any that is free")
    parser.add_argument("--certificate", type=Path, help="TLS, together with --key")
    parser.add_argument("--key", type=Path, help="the certificate's private key")
    parser.add_argument(
        "--insecure", action="store_true", help="let other machines reach it without TLS"
    )
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--lineage", choices=["M", "R"], default="M")
    parser.add_argument("--domain", default="localhost", help="of the boxes' public addresses")
    parser.add_argument("--admin", action="store_true", help="let faults be injected")
    given = parser.parse_args(argv)

    def ready(served: Served) -> None:
        sys.stdout.write(f"{served.url} {served.kubeconfig}\n")
        sys.stdout.flush()

    settings = EngineSettings(
        given.data_dir.absolute(), lineage=given.lineage, domain=given.domain, admin=given.admin
    )
    options = ServeOptions(
        given.host, given.port, given.certificate, given.key, given.insecure, given.backend
    )
    try:
        serve(settings, options, on_ready=ready)
    except ServeError as error:
        sys.stderr.write(f"{error} {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
