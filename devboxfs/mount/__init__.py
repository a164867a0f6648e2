"""One mount from connecting to unmounting.

`life` has the order of things, `parts` what a mount consists of, `answers` what commands ask of it,
`status` what it says of itself.
"""

from devboxfs.mount.life import serve
from devboxfs.mount.parts import service_of

__all__ = ["serve", "service_of"]
