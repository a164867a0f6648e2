"""Which of a region's templates is meant by what somebody wrote.

A region has one template of each runtime, and no version can be chosen: ``python:3.11`` comes to
the template ``python``, and what is different is said.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from sealos_devbox.models import TemplateMatch

__all__ = ["V1_OLD_RUNTIMES", "V2_RUNTIMES", "check_image", "match_template"]

_SYNONYMS = {
    "py": "python",
    "python3": "python",
    "node": "node.js",
    "nodejs": "node.js",
    "javascript": "node.js",
    "js": "node.js",
    "typescript": "node.js",
    "ts": "node.js",
    "golang": "go",
    "c++": "cpp",
    "cplusplus": "cpp",
    "c#": "net",
    "csharp": "net",
    ".net": "net",
    "dotnet": "net",
    "rustlang": "rust",
    "openjdk": "java",
    "jdk": "java",
    "nextjs": "next.js",
    "nestjs": "nest.js",
    "nuxt": "nuxt3",
    "vuejs": "vue",
    "reactjs": "react",
    "express": "express.js",
    "expressjs": "express.js",
    "vertx": "vert.x",
    "springboot": "spring-boot",
    "spring": "spring-boot",
    "debian": "debian-ssh",
    "debian-ssh": "debian",
    "linux": "debian-ssh",
}
"""What people write, and what regions call it."""

_V2_RUNTIMES = (
    "angular astro c chi claude-code cpp debian-ssh django docusaurus echo express.js flask gin go "
    "hexo iris java net next.js nginx node.js nuxt3 php python quarkus react rocket rust sealaf "
    "svelte ubuntu umi vert.x vitepress vue"
)
V2_RUNTIMES = frozenset(_V2_RUNTIMES.split())
"""What v2alpha takes, whatever the region has."""
V1_OLD_RUNTIMES = V2_RUNTIMES - {"node.js", "claude-code"}
"""What v1 of the older lineage takes."""

_VERSIONED = re.compile(r"(?P<name>[^:@\s]+)\s*[:@]\s*(?P<version>\S+)|(?P<plain>\S.*)")
_TRAILING_VERSION = re.compile(r"(?P<name>.*?[a-z.+#])[- ]?v?(?P<version>\d[\w.]*)")


def match_template(
    runtime: str | None, language: str | None, offered: Sequence[str]
) -> TemplateMatch:
    """Return the template that is meant; raises ValueError, with suggestions, when none is.

    `runtime` comes first; `language` decides where the region has no such runtime, or where no
    runtime is given. Names are taken as people write them (``Node``, ``golang``, ``c++``).
    """
    if not runtime and not language:
        raise ValueError(f"name a runtime or a language; the region has: {_listed(offered)}")
    requested = runtime or language or ""
    name, version = _split(requested)
    found = _find(name, offered)
    if found is None and version is None and (match := _TRAILING_VERSION.fullmatch(name)):
        name, version = match["name"], match["version"]
        found = _find(name, offered)
    if found is not None:
        other = _find(_split(language)[0], offered) if runtime and language else None
        note = _version_note(found, version) if version else ""
        if other is not None and other != found:
            note = f"{note} The language {language!r} was not looked at.".strip()
        return TemplateMatch(requested, found, exact=not note, note=note)
    if runtime and language:
        found = _find(_split(language)[0], offered)
        if found is not None:
            note = f"The region has no template {runtime!r}; the one of {language!r} is taken."
            return TemplateMatch(requested, found, exact=False, note=note)
    raise ValueError(
        f"the region has no template {requested!r}{_suggestion(name, offered)}; "
        f"it has: {_listed(offered)}"
    )


def check_image(match: TemplateMatch, image: str | None) -> TemplateMatch:
    """Return the match with what the image that was taken says of its version."""
    _, version = _split(match.requested)
    if match.exact or version is None or not image or ":" not in image.rpartition("/")[2]:
        return match
    tag = image.rpartition(":")[2]
    if _same_version(version, tag):
        return TemplateMatch(match.requested, match.runtime, exact=True)
    note = f"{match.requested} was asked for, and the region's {match.runtime} is {tag}."
    return TemplateMatch(match.requested, match.runtime, exact=False, note=note)


def _split(text: str | None) -> tuple[str, str | None]:
    match = _VERSIONED.fullmatch((text or "").strip().lower())
    if match is None:
        return "", None
    return (match["plain"], None) if match["plain"] else (match["name"], match["version"])


def _find(name: str, offered: Sequence[str]) -> str | None:
    by_name = {item.lower(): item for item in offered}
    for candidate in (name, _SYNONYMS.get(name)):
        if candidate and candidate in by_name:
            return by_name[candidate]
    # "Node.js" and "node js", "spring boot" and "spring-boot"
    bare = {_bare(item): item for item in offered}
    return bare.get(_bare(name)) if _bare(name) else None


def _bare(name: str) -> str:
    # Not "+" and "#": C, C++ and C# are three languages.
    return re.sub(r"[\s._-]+", "", name.lower())


def _same_version(asked: str, tag: str) -> bool:
    asked, tag = asked.removeprefix("v"), tag.removeprefix("v")
    return tag == asked or tag.startswith((f"{asked}.", f"{asked}-"))


def _version_note(runtime: str, version: str) -> str:
    return (
        f"A region has one version of each template, and none can be chosen: {version} was asked "
        f"for, and the region's {runtime} is taken."
    )


def _suggestion(name: str, offered: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, [item.lower() for item in offered], n=3, cutoff=0.6)
    near += [
        target
        for word in difflib.get_close_matches(name, list(_SYNONYMS), n=1, cutoff=0.75)
        if (target := _SYNONYMS[word]) in offered and target not in near
    ]
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def _listed(offered: Sequence[str]) -> str:
    return ", ".join(sorted(offered)) or "none"
