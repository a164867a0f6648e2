"""The templates of the embedded region: what boxes can be made from.

A repository is what the API calls a runtime; its versions cannot be chosen by `create`, which takes
the first. All boxes are directories of this machine, so a template decides what a box says of
itself, not which programs are in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["WORKING_DIR", "Repository", "Template", "Templates"]

WORKING_DIR = "/home/devbox/project"
_NAMESPACE = uuid.UUID("7d1f3a52-5b8c-4f0e-9f34-2f0f4f6f7a10")  # random; keeps uids the same
_APP_PORTS = {"django": 8000, "nest.js": 3000}

# Newest version first: `create` takes the first.
_LANGUAGES = {
    "c": ["gcc-12.2.0"],
    "cpp": ["gcc-12.2.0"],
    "go": ["1.23.0", "1.22.5"],
    "java": ["openjdk17"],
    "net": ["10.0", "8.0"],
    "node.js": ["22", "20", "18"],
    "php": ["8.2", "7.4"],
    "python": ["3.12", "3.11", "3.10"],
    "rust": ["1.81.0"],
}
_FRAMEWORKS = {
    "angular": ["v18"],
    "astro": ["4.10.0"],
    "chi": ["v5.1.0"],
    "django": ["4.2.16"],
    "docusaurus": ["3.5.2"],
    "echo": ["v4.12.0"],
    "express.js": ["4.21.0"],
    "flask": ["3.0.3"],
    "gin": ["v1.10.0"],
    "hexo": ["7.3.0"],
    "hugo": ["v0.135.0"],
    "iris": ["v12.2.11"],
    "laravel": ["5.8.5"],
    "nest.js": ["v11"],
    "next.js": ["14.2.5"],
    "nginx": ["1.22.1"],
    "nuxt3": ["v3.13"],
    "openclaw": ["latest"],
    "quarkus": ["3.16.1"],
    "react": ["18.2.0"],
    "rocket": ["0.5.1"],
    "sandbox": ["v1", "fastgpt"],
    "sealaf": ["1.0.0"],
    "spring-boot": ["3.3.2"],
    "svelte": ["6.4.0"],
    "umi": ["4.3.27"],
    "vert.x": ["4.5.10"],
    "vitepress": ["1.4.0"],
    "vue": ["v3.4.29"],
}
_SYSTEMS = {
    "debian": ["12.6"],
    "debian-ssh": ["12.6"],
    "ubuntu": ["24.04", "22.04"],
    "ubuntu-cuda": ["12.4.1", "24.04"],
    "anolis": ["23.4"],
    "kylin": ["v10-sp3"],
}
_SERVICES = {
    "mcp": ["mcp-proxy", "python-3-12", "typescript-1-8", "csharp-1-0", "spring-boot-3-3-2"],
    "claude-code": ["latest"],
    "node-expt-agent": ["latest"],
}
# The flat routes of the older lineage have names of their own.
FLAT_NAMES = {
    "Debian": "debian-ssh",
    "C++": "cpp",
    "Rust": "rust",
    "Java": "java",
    "Go": "go",
    "Python": "python",
    "Node.js": "node.js",
    ".Net": "net",
    "C": "c",
    "PHP": "php",
}
_BOTH = frozenset(_FRAMEWORKS | _LANGUAGES | dict.fromkeys(["debian-ssh", "ubuntu"])) - {
    # Added later, or never.
    *("hugo", "laravel", "nest.js", "node.js", "openclaw", "sandbox", "spring-boot"),
}
RUNTIMES_R = _BOTH
"""What v1 of the older lineage takes."""
RUNTIMES_V2ALPHA = _BOTH | {"node.js", "claude-code"}
"""What v2alpha takes."""


@dataclass(frozen=True, slots=True)
class Template:
    """One version of a runtime."""

    uid: str
    version: str
    image: str


@dataclass(frozen=True, slots=True)
class Repository:
    """One runtime."""

    uid: str
    name: str
    kind: str
    versions: tuple[Template, ...]

    @property
    def config(self) -> dict[str, Any]:
        """What a box of it is given, as the service writes it."""
        app_port = _APP_PORTS.get(self.name, 8080)
        return {
            "user": "devbox",
            "workingDir": "/home/devbox/workspace" if self.name == "sandbox" else WORKING_DIR,
            "releaseCommand": ["/bin/bash", "-c"],
            "releaseArgs": [f"{WORKING_DIR}/entrypoint.sh"],
            "ports": [{"containerPort": 22, "name": "devbox-ssh-port", "protocol": "TCP"}],
            "appPorts": [
                {
                    "name": "devbox-app-port",
                    "port": app_port,
                    "protocol": "TCP",
                    "targetPort": app_port,
                }
            ],
        }

    @property
    def app_port(self) -> int:
        """Where programs of this runtime listen."""
        return _APP_PORTS.get(self.name, 8080)


class Templates:
    """The templates of one region."""

    def __init__(self) -> None:
        kinds = (
            ("LANGUAGE", _LANGUAGES),
            ("FRAMEWORK", _FRAMEWORKS),
            ("OS", _SYSTEMS),
            ("SERVICE", _SERVICES),
        )
        self._by_name = {
            name: _repository(kind, name, versions)
            for kind, runtimes in kinds
            for name, versions in runtimes.items()
        }

    def __iter__(self) -> Iterator[Repository]:
        return iter(self._by_name.values())

    def find(self, runtime: str) -> Repository | None:
        """Return the repository of that icon ID, None when the region has none."""
        return self._by_name.get(runtime)

    def by_template(self, template_uid: str) -> Repository | None:
        """Return the repository that holds a template."""
        for repository in self._by_name.values():
            if any(template.uid == template_uid for template in repository.versions):
                return repository
        return None


def _repository(kind: str, name: str, versions: list[str]) -> Repository:
    templates = tuple(
        Template(
            str(uuid.uuid5(_NAMESPACE, f"template {name} {version}")),
            version,
            f"registry.invalid/devbox/{name}:{version}",
        )
        for version in versions
    )
    return Repository(str(uuid.uuid5(_NAMESPACE, f"repository {name}")), name, kind, templates)
