"""What the cluster refuses, as its API says it.

The routes translate these: v1 into its envelope, v2alpha into its errors, the cluster's own routes
into a Status.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Refusal", "already_exists", "forbidden_change", "invalid", "not_found"]


class Refusal(Exception):
    """The cluster said no."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    def body(self) -> dict[str, Any]:
        """Return the Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.status,
        }


def not_found(name: str, kind: str = "devboxes.devbox.sealos.io") -> Refusal:
    """Make the refusal for an object that does not exist."""
    return Refusal(404, "NotFound", f'{kind} "{name}" not found')


def already_exists(name: str, kind: str = "devboxes.devbox.sealos.io") -> Refusal:
    """Make the refusal for a name that is taken."""
    return Refusal(409, "AlreadyExists", f'{kind} "{name}" already exists')


def invalid(name: str, message: str) -> Refusal:
    """Make the refusal of the schema or a rule of the custom resource."""
    return Refusal(422, "Invalid", f'Devbox.devbox.sealos.io "{name}" is invalid: {message}')


def forbidden_change(name: str) -> Refusal:
    """Make the refusal of a state that is changed during the commit."""
    return invalid(
        name, "spec.state: Forbidden: cannot change spec.state while the commit is in progress"
    )
