"""Names of boxes."""

from __future__ import annotations

import re

__all__ = ["check_box_name", "made_name"]

# RFC 1123 label, as Kubernetes demands of a Devbox's name.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST = 63
_LETTERS = "bcdfghjklmnpqrstvwxz"


def check_box_name(name: str) -> None:
    """Raise ValueError, with a suggestion, unless `name` can be a box's name."""
    if len(name) <= _LONGEST and _NAME.fullmatch(name):
        return
    nearest = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST].strip("-")
    suggestion = f"; {nearest!r} would do" if nearest else ""
    raise ValueError(
        f"{name!r} cannot be a box's name: 1 to 63 lower-case letters, digits and hyphens, "
        f"beginning and ending with a letter or digit{suggestion}"
    )


def made_name(kind: str, random: bytes) -> str:
    """Return a name for a box that was given none.

    Without a hyphen: the service mixes the metrics of boxes whose names agree up to the last one.
    """
    letters = "".join(_LETTERS[byte % len(_LETTERS)] for byte in random)
    return f"{re.sub('[^a-z0-9]', '', kind.lower())[:20] or 'box'}{letters}"
