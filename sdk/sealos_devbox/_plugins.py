"""What other distributions add, by entry points; PLUGINS.md says how."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from sealos_devbox.errors import ConfigurationError

__all__ = ["load_plugin"]


def load_plugin(group: str, name: str) -> Callable[..., Any]:
    """Return the callable that is registered under `name`.

    Raises ConfigurationError, naming those that there are, when there is none or it cannot be
    imported.
    """
    found = entry_points(group=group)
    for entry in found:
        if entry.name == name:
            break
    else:
        names = ", ".join(sorted({entry.name for entry in found})) or "none"
        raise ConfigurationError(
            f"No installed package offers {name!r} for {group}; offered: {names}."
        )
    try:
        plugin = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"The plugin {entry.value} cannot be loaded: {error}.") from error
    if not callable(plugin):
        raise ConfigurationError(f"The plugin {entry.value} is not callable.")
    return plugin  # type: ignore[no-any-return] # what a plugin returns is its contract's matter
