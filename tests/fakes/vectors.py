"""The protocol's test vectors, as Python values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).parents[2] / "sdk" / "testvectors"


def load(name: str) -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads((_DIRECTORY / f"{name}.json").read_text())
    return vectors


def native(value: Any) -> Any:
    """The Python value of a vector's JSON."""
    if isinstance(value, list):
        return [native(part) for part in value]
    if isinstance(value, dict):
        if "bin" in value:
            return bytes.fromhex(value["bin"])
        return {key: native(part) for key, part in value["map"]}
    return value
