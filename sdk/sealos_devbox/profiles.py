"""The file with the profiles: which services a user has, and which is the usual one.

::

    default_profile = "work"

    [profiles.work]
    endpoint = "https://devbox.example.com"     # derived from the kubeconfig when left out
    kubeconfig = "~/.kube/work.yaml"            # or api_key_file, or credential_source
    context = "work"                            # by default the kubeconfig's current one
    namespace = "ns-me"                         # by default the context's
    namespace = "ns-me"                         # by default the context's

    [profiles.play]
    embedded = true

It holds paths of credentials, never credentials. It is read here and written here; where it is, is
said by `sealos_devbox.config`.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sealos_devbox.errors import CapabilityError, ConfigurationError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

__all__ = [
    "PROFILE_KEYS",
    "ProfileValue",
    "Profiles",
    "read_profiles",
    "remove_profile",
    "set_default_profile",
    "write_profile",
]

ProfileValue = str | bool | int | float

PROFILE_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "embedded": bool,
    "endpoint": str,
    "kubeconfig": str,
    "context": str,
    "namespace": str,
    "api_key_file": str,
    "credential_source": str,
    "transport": str,
    "data_dir": str,
    "ca_file": str,
    "connect_timeout": (int, float),
    "request_timeout": (int, float),
    "idle_timeout": (int, float),
    "total_timeout": (int, float),
    "requests_per_second": (int, float),
}
"""What a profile can say, and of which type. Keys that begin with ``x-`` are left to plugins."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """What the file says."""

    path: Path
    default: str | None = None
    profiles: Mapping[str, Mapping[str, ProfileValue]] = field(default_factory=dict)

    def get(self, name: str) -> Mapping[str, ProfileValue]:
        """Return a profile; raises ConfigurationError, naming the others, when there is none."""
        try:
            return self.profiles[name]
        except KeyError:
            names = ", ".join(sorted(self.profiles)) or "none"
            raise ConfigurationError(
                f"There is no profile {name!r} in {self.path}; there are: {names}.",
                hint="Write one with: devboxfs login",
            ) from None


def read_profiles(path: Path) -> Profiles:
    """Read the file; one that does not exist says nothing. Raises ConfigurationError."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Profiles(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        document = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML file: {error}.") from None
    default = document.pop("default_profile", None)
    tables = document.pop("profiles", {})
    if document:
        raise ConfigurationError(f"{path} has an unknown setting {sorted(document)[0]!r}.")
    if default is not None and not isinstance(default, str):
        raise ConfigurationError(f"{path}: default_profile must be the name of a profile.")
    if not isinstance(tables, dict):
        raise ConfigurationError(f"{path}: profiles must be a table of tables.")
    profiles = {name: _checked(name, table, path) for name, table in tables.items()}
    found = Profiles(path, default, profiles)
    if default is not None:
        found.get(default)
    return found


def write_profile(
    path: Path, name: str, values: Mapping[str, ProfileValue], *, default: bool = False
) -> None:
    """Add or replace a profile, leaving everything else in the file as it is.

    The file is replaced as a whole or not at all, and is readable by its owner only. Raises
    ConfigurationError when the file that is there cannot be understood, or a value is no setting.
    """
    read_profiles(path)
    _checked(name, dict(values), path)
    document = _document(path)
    tables = document.setdefault("profiles", _toml().table(is_super_table=True))
    table = _toml().table()
    for key, value in values.items():
        table[key] = value
    tables[name] = table
    if default:
        document["default_profile"] = name
    _replace(path, document)


def remove_profile(path: Path, name: str) -> None:
    """Take a profile out of the file; raises ConfigurationError when there is none.

    If it was the default one, there is no default any more.
    """
    profiles = read_profiles(path)
    profiles.get(name)
    document = _document(path)
    del document["profiles"][name]
    if profiles.default == name:
        del document["default_profile"]
    _replace(path, document)


def set_default_profile(path: Path, name: str) -> None:
    """Make a profile the default one; raises ConfigurationError when there is none."""
    read_profiles(path).get(name)
    document = _document(path)
    document["default_profile"] = name
    _replace(path, document)


def _replace(path: Path, document: TOMLDocument) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".config-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:  # made with mode 0600
            file.write(document.as_string())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _document(path: Path) -> TOMLDocument:
    document: TOMLDocument
    try:
        document = _toml().parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = _toml().document()
    return document


def _toml() -> ModuleType:
    try:
        import tomlkit
    except ModuleNotFoundError:
        raise CapabilityError(
            "Writing a profile needs the package tomlkit, which is not installed.",
            hint="Install it with: pip install 'sealos-devbox[fuse]'",
        ) from None
    return tomlkit


def _checked(name: str, table: object, path: Path) -> dict[str, ProfileValue]:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: profiles.{name} must be a table.")
    for key, value in table.items():
        if key.startswith("x-"):
            if not isinstance(value, str | bool | int | float):
                raise ConfigurationError(f"{path}: {key} of profile {name!r} must be one value.")
            continue
        wanted = PROFILE_KEYS.get(key)
        if wanted is None:
            raise ConfigurationError(
                f"{path}: profile {name!r} has an unknown setting {key!r}.",
                hint=f"There are: {', '.join(PROFILE_KEYS)}.",
            )
        # True is an int, and nobody means a time by it.
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ConfigurationError(f"{path}: {key} of profile {name!r} has the wrong type.")
    return table
