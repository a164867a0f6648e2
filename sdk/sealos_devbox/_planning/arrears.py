"""What objects of a cluster say of a workspace whose account is in arrears.

The service's account controller (labring/sealos, controllers/account) annotates the namespace with
where it is with suspending it, and while it is suspended keeps a ResourceQuota of nothing in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sealos_devbox.models import Arrears

__all__ = ["QUOTA", "read_arrears"]

QUOTA: Final = "debt-limit0"
"""The ResourceQuota under which no pod can be made."""
STATUS: Final = "debt.sealos/status"
_WELL: Final = frozenset({"", "Normal", "Resume", "ResumeCompleted"})
"""The others are Suspend, TerminateSuspend and FinalDeletion, and each of them with Completed; what
is not known yet is not taken for being well."""


def read_arrears(
    namespace: Mapping[str, Any] | None, quota: Mapping[str, Any] | None
) -> Arrears | None:
    """Return what the two objects say; None for one that is not there, or that may not be read.

    While a workspace is being resumed the quota is still there: that counts.
    """
    annotations = ((namespace or {}).get("metadata") or {}).get("annotations") or {}
    status = str(annotations.get(STATUS) or "")
    status = "" if status in _WELL else status
    if not status and quota is None:
        return None
    return Arrears(status, no_pods=quota is not None)
