"""What the fake control plane answers: boxes, and the documents that show them."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6InNlY3JldCJ9.the-token-of-the-test"
AGENT_TOKEN = "bcdfghjklmnpqrstvwxzbcdfghjklmnp"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nZmFrZQ==\n-----END OPENSSH PRIVATE KEY-----\n"
TEMPLATES = ["python", "node.js", "go", "cpp", "debian-ssh", "ubuntu"]
KUBECONFIG = f"""
apiVersion: v1
kind: Config
clusters:
- name: other
  cluster: {{server: "https://other.example:6443"}}
- name: sealos
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority-data: {base64.b64encode(b"certificate " * 500).decode()}
users:
- name: other
  user: {{token: not-this-token}}
- name: me
  user: {{token: "{TOKEN}"}}
contexts:
- name: other
  context: {{cluster: other, user: other, namespace: ns-other}}
- name: mine
  context: {{cluster: sealos, user: me, namespace: ns-mine}}
current-context: mine
"""


@dataclass
class Reply:
    status: int = 200
    body: Any = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Close the connection in the middle of the body."""
    slow: float = 0.0
    """Seconds before the second half of the body."""

    def encoded(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


HTML_ERROR = Reply(502, b"<html><h1>502 Bad Gateway</h1></html>", "text/html")


def envelope(code: int, data: Any = None, message: str = "", text: str = "") -> Reply:
    return Reply(code, {"code": code, "statusText": text, "message": message, "data": data})


@dataclass
class FakeBox:
    name: str
    uid: str
    runtime: str = "python"
    cpu: float = 1
    memory: float = 2
    phase: str = "Running"
    desired: str = "Running"
    steps: int = 0
    agent_steps: int = 0
    ports: list[dict[str, Any]] = field(default_factory=list)
    env: list[dict[str, Any]] = field(default_factory=list)
    releases: list[dict[str, Any]] = field(default_factory=list)
    template_gone: bool = False
    storage: str = "10Gi"

    def look(self) -> None:
        """Let the time of one look pass."""
        if self.steps > 0:
            self.steps -= 1
        elif self.phase != self.desired:
            self.phase = self.desired
            if self.phase == "Stopped":
                for release in self.releases:
                    release["status"] = {"value": "Success", "label": "Success"}
        elif self.phase == "Running" and self.agent_steps > 0:
            self.agent_steps -= 1

    @property
    def committing(self) -> bool:
        return self.phase in ("Stopping", "Shutting")


def not_there() -> Reply:
    return Reply(404, b"<!DOCTYPE html><html>404: This page could not be found</html>", "text/html")


def v2_error(status: int, kind: str, code: str, message: str) -> Reply:
    return Reply(status, {"error": {"type": kind, "code": code, "message": message}})


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def template(runtime: str) -> dict[str, Any]:
    config = {
        "user": "devbox",
        "workingDir": "/home/devbox/project",
        "releaseCommand": ["/bin/bash", "-c"],
        "releaseArgs": ["/home/devbox/project/entrypoint.sh"],
        "appPorts": [{"name": "devbox-app-port", "port": 8080, "protocol": "TCP"}],
    }
    return {"runtime": runtime, "config": config}


def listed(box: FakeBox) -> dict[str, Any]:
    resources = {"cpu": box.cpu * 1000, "memory": box.memory * 1024}
    return {
        "name": box.name,
        "uid": box.uid,
        "resourceType": "devbox",
        "runtime": box.runtime,
        "status": box.phase,
        "resources": resources,
    }


def opened(box: FakeBox, port: dict[str, Any]) -> dict[str, Any]:
    number, public = port["number"], port.get("exposesPublicDomain", True)
    found = {
        "number": number,
        "portName": f"port-{number}",
        "protocol": port.get("protocol", "HTTP"),
        "exposesPublicDomain": public,
        "privateAddress": f"http://{box.name}.ns-mine:{number}",
    }
    if public:
        found["publicAddress"] = f"https://p{number}.usw.sealos.io"
    return found


def detail(box: FakeBox) -> dict[str, Any]:
    ready = box.phase == "Running" and box.agent_steps == 0
    return {
        "name": box.name,
        "uid": box.uid,
        "resourceType": "devbox",
        "runtime": box.runtime,
        "image": f"registry.example/devbox/{box.runtime}:3.12",
        "status": box.phase,
        "resources": {"cpu": box.cpu, "memory": box.memory},
        "ssh": {
            "host": "usw.sealos.io",
            "port": 0,
            "user": "devbox",
            "workingDir": "/home/devbox/project",
            "privateKey": encoded(PEM),
        },
        "env": box.env,
        "ports": box.ports,
        "pods": [{"name": box.name, "status": "Running"}] if box.phase == "Running" else [],
        "operationalStatus": {
            "phase": box.phase,
            "network": {"type": "SSHGate", "uniqueID": f"id-of-{box.name}" if ready else ""},
        },
        "agentServer": {
            "url": f"id-of-{box.name}" if ready else "",
            "token": encoded(AGENT_TOKEN),
        },
    }


def flat_detail(box: FakeBox) -> dict[str, Any]:
    return {
        "id": box.uid,
        "name": box.name,
        "status": box.phase,
        "createTime": "2026-01-12T07:00:02Z",
        "imageName": "registry.example/devbox/python:3.12",
        "cpu": box.cpu * 1000,
        "memory": box.memory * 1024,
        "networks": box.ports,
        "sshPort": 30022,
        "base64PrivateKey": encoded(PEM),
        "userName": "devbox",
        "workingDir": "/home/devbox/project",
        "domain": "old.sealos.io",
    }
