"""Who may do what in a test namespace, and how they prove who they are.

| user | may |
|---|---|
| `admin` | everything, everywhere |
| `owner` | everything in the namespace, as a workspace's Owner and Manager |
| `developer` | get, list and watch boxes, pods and the like; no exec, no create |
| `exec-get` | look at them, and `get` on `pods/exec`: all a WebSocket needs before 1.35 |
| `exec-create` | look at them, and `create` on `pods/exec`: refused to a WebSocket |
| `no-exec` | look at them and at secrets |
| `stranger` | nothing |
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Proof = Literal["token", "certificate", "exec", "token-file", "none"]

READ = ["get", "list", "watch"]
DEVBOX_GROUP = "devbox.sealos.io"
LOOK = [
    {"apiGroups": [""], "resources": ["pods", "pods/log", "services", "events"], "verbs": READ},
    {"apiGroups": [DEVBOX_GROUP], "resources": ["*"], "verbs": READ},
]
_EXEC = {"apiGroups": [""], "resources": ["pods/exec"]}
RULES: dict[str, list[dict[str, Any]]] = {
    "owner": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    "developer": LOOK,
    "exec-get": [*LOOK, {**_EXEC, "verbs": ["get"]}],
    "exec-create": [*LOOK, {**_EXEC, "verbs": ["create"]}],
    "no-exec": [*LOOK, {"apiGroups": [""], "resources": ["secrets"], "verbs": READ}],
}
USERS = ("admin", *RULES, "stranger")


def groups(user: str) -> list[str]:
    return ["system:masters"] if user == "admin" else []


def role_objects(namespace: str) -> list[tuple[str, dict[str, Any]]]:
    """The plural names and objects that give the users their rights in a namespace."""
    rbac = "rbac.authorization.k8s.io"
    objects: list[tuple[str, dict[str, Any]]] = []
    for user, rules in RULES.items():
        meta = {"apiVersion": f"{rbac}/v1", "metadata": {"name": user, "namespace": namespace}}
        subject = {"kind": "User", "name": user, "apiGroup": rbac}
        reference = {"kind": "Role", "name": user, "apiGroup": rbac}
        objects.append(("roles", {**meta, "kind": "Role", "rules": rules}))
        binding = {"kind": "RoleBinding", "subjects": [subject], "roleRef": reference}
        objects.append(("rolebindings", {**meta, **binding}))
    return objects


PLUGIN = """\
#!{python} -I
import json, os, sys, time
spec = json.load(open({spec!r}))
with open({runs!r}, "a") as runs:
    runs.write(os.environ.get("KUBERNETES_EXEC_INFO", "") + "\\n")
if spec.get("failure"):
    sys.exit(spec["failure"])
status = {{"token": spec["token"]}}
if spec.get("lifetime") is not None:
    ends = time.gmtime(time.time() + spec["lifetime"])
    status["expirationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", ends)
kind = {{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}}
print(json.dumps(kind | {{"status": status}}))
"""


@dataclass(frozen=True)
class CredentialPlugin:
    """An exec plugin as kubeconfigs name them; what it answers may change between its runs."""

    directory: Path

    @property
    def command(self) -> Path:
        return self.directory / "plugin"

    @property
    def runs(self) -> int:
        """How often it was run."""
        path = self.directory / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def answer(self, token: str = "", *, lifetime: float | None = None, failure: str = "") -> None:
        """From now on print `token`, expiring after `lifetime` seconds, or fail with a message."""
        spec = {"token": token, "lifetime": lifetime, "failure": failure}
        aside = self.directory / "spec.new"
        aside.touch(mode=0o600)
        aside.write_text(json.dumps(spec))
        aside.rename(self.directory / "spec")

    @classmethod
    def make(cls, directory: Path, token: str) -> "CredentialPlugin":
        directory.mkdir()
        plugin = cls(directory)
        plugin.command.write_text(
            PLUGIN.format(
                python=sys.executable,
                spec=str(directory / "spec"),
                runs=str(directory / "runs"),
            )
        )
        plugin.command.chmod(0o755)
        plugin.answer(token)
        return plugin
