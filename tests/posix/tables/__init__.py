"""The tables of cases, by name."""

from collections.abc import Callable

from tests.posix.stage import Case
from tests.posix.tables import attributes, contents, names, rights

_GENERATORS = [
    names.shapes,
    names.kinds,
    names.chains,
    names.addresses,
    names.two_names,
    names.across,
    rights.directories,
    rights.files,
    rights.sticky,
    rights.moved_directories,
    rights.access_types,
    rights.written_modes,
    attributes.chmod,
    attributes.chown,
    attributes.set_id_bits,
    attributes.times,
    attributes.births,
    attributes.regrouped,
    attributes.fchmod_and_fchown,
    attributes.missing_permissions,
    contents.flags,
    contents.offsets,
    contents.descriptors,
    contents.reading,
    contents.xattrs,
]

TABLES: dict[str, Callable[[], list[Case]]] = {
    generator.__name__: (lambda generator=generator: list(generator())) for generator in _GENERATORS
}
