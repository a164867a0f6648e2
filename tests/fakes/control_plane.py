"""A control plane with the traps of the real one.

Time is counted in looks, not in seconds: a box that was asked to change is on its way for as many
looks at it as `steps` says. Faults are queued for requests that match, in order; one can be raised
after the request was carried out, which is what makes a create ambiguous.
"""

import json
import re
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.fakes.control_documents import (
    PEM,
    TEMPLATES,
    TOKEN,
    FakeBox,
    Reply,
    detail,
    encoded,
    envelope,
    flat_detail,
    listed,
    not_there,
    opened,
    template,
    v2_error,
)


@dataclass
class Fault:
    method: str
    path: str
    reply: Reply
    after: bool


class ControlPlane:
    """The state and the routes. `lineage` is M or R; `has_v2` whether v2alpha answers."""

    def __init__(self, lineage: str = "M", *, has_v2: bool = True) -> None:
        self.lineage = lineage
        self.has_v2 = has_v2
        self.boxes: dict[str, FakeBox] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.steps = 1
        self.token = TOKEN
        self.bad_ports: set[int] = set()
        self.samples = [(1768201200, 12.5, 40.0), (1768201320, 50.0, 41.0)]
        self.address = ""
        self.may_patch = True
        self.served = "v1alpha2"
        self._lock = threading.Lock()

    # -- what tests say ----------------------------------------------------------------------------

    def fail(self, method: str, path: str, reply: Reply, *, times: int = 1, after=False) -> None:
        """Have the next matching requests answered so; `after`: after they were carried out."""
        self.faults += [Fault(method, path, reply, after)] * times

    def add(self, name: str, **values: Any) -> FakeBox:
        box = FakeBox(name, f"uid-of-{name}-{len(self.requests)}", **values)
        self.boxes[name] = box
        return box

    def sent(self, method: str, path: str = "") -> list[Any]:
        """The bodies of the requests so far, of that method and path."""
        return [
            body
            for sent, at, body in self.requests
            if sent == method and re.fullmatch(path or ".*", at)
        ]

    # -- one request -------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: dict[str, str], raw: bytes) -> Reply:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with self._lock:
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                body = ...
            self.requests.append((method, url.path, body))
            self.headers.append(headers)
            fault = next(
                (
                    one
                    for one in self.faults
                    if one.method == method and re.fullmatch(one.path, url.path)
                ),
                None,
            )
            if fault is not None:
                self.faults.remove(fault)
                if fault.after:
                    self._route(method, url.path, query, headers, body)
                return fault.reply
            reply = self._route(method, url.path, query, headers, body)
            if self.lineage == "R" and isinstance(reply.body, dict) and "code" in reply.body:
                reply.status = 200
            return reply

    def _route(self, method: str, path: str, query: Any, headers: Any, body: Any) -> Reply:
        if path.startswith("/box/"):
            return self._agent(path)
        if path.startswith("/apis/"):
            return self._cluster(method, path, headers, body)
        if path.startswith("/api/v2alpha/devbox") and self.has_v2 and self.lineage == "M":
            return self._v2(method, path.removeprefix("/api/v2alpha/devbox"), query, headers, body)
        if path == "/api/templateRepository/listOfficial" and self.lineage == "M":
            one = {"uid": "u1", "name": "Python", "kind": "LANGUAGE", "iconId": "python"}
            return envelope(200, {"templateRepositoryList": [{**one, "tags": []}]})
        if path.startswith("/api/v1/devbox"):
            tail = path.removeprefix("/api/v1/devbox")
            found = self._flat(method, tail, query, headers, body) if self.lineage == "R" else None
            return found or self._v1(method, tail, query, headers, body)
        if self.lineage == "R" and path.startswith("/api/"):
            return self._web(path, query)
        return not_there()

    def _known(self, headers: dict[str, str]) -> bool:
        """Whether the user of the current context has the token, and the namespace is right."""
        text = unquote(headers.get("authorization", ""))
        if "{" not in text and ":" not in text:
            return text == self.token
        config = yaml.safe_load(text)
        names = {one["name"]: one for one in config["contexts"]}
        context = names[config["current-context"]]["context"]
        users = {one["name"]: one["user"] for one in config["users"]}
        # The service takes the namespace of the first context, whatever the current one is.
        namespace = config["contexts"][0]["context"].get("namespace")
        return users[context["user"]].get("token") == self.token and namespace == "ns-mine"

    # -- v1 ----------------------------------------------------------------------------------------

    def _v1(self, method: str, tail: str, query: Any, headers: Any, body: Any) -> Reply:
        known = self._known(headers)
        forbidden = envelope(403, None, "credential error", "unAuthorization")
        crash = envelope(500, None, "Internal server error")
        if (method, tail) == ("GET", "/templates"):
            return envelope(200, [template(one) for one in TEMPLATES])
        if tail == "":
            if self.lineage == "R" and method == "GET":
                return Reply(405)
            if not known:
                return crash
            if method == "GET":
                return envelope(
                    200, [listed(b) for b in self.boxes.values() if not b.template_gone]
                )
            return self._create(body)
        name, _, action = tail.removeprefix("/").partition("/")
        first_group = action.startswith(
            ("start", "restart", "shutdown", "delete", "release", "mon")
        )
        if not known:
            return forbidden if first_group else crash
        box = self.boxes.get(name)
        if action.startswith("release"):
            return self._releases(method, box, action.removeprefix("release"), body)
        if action == "monitor" and method == "GET":
            return Reply(200, self._monitor(query, 100))
        if box is None:
            kind = "HTTP request failed" if first_group else "Devbox not found"
            return envelope(404, "devboxes not found", kind)
        if action == "":
            return self._whole(method, box, body)
        if action == "delete" and method == "DELETE":
            del self.boxes[name]
            return envelope(200, "success delete devbox")
        if action == "ports" and method == "PUT":
            return self._set_ports(box, body["ports"])
        if action == "autostart" and method == "POST":
            return envelope(200, {"devboxName": name, "autostartCreated": True})
        if action == "deploy" and method == "GET":
            app = {"name": f"{name}-v1-abc", "resourceType": "deployment", "tag": "v1"}
            return envelope(200, [app])
        if action in ("start", "pause", "shutdown") and method == "POST":
            if body is None and action != "start":
                return crash
            return self._change(box, action)
        return not_there()

    def _whole(self, method: str, box: FakeBox, body: Any) -> Reply:
        if method == "GET":
            if box.template_gone:
                return envelope(500, None, "Template not found")
            box.look()
            return envelope(200, detail(box))
        if method == "PATCH":
            resource = body["resource"]
            if resource["cpu"] not in (0.1, 0.2, 0.5, 1, 2, 4, 8, 16):
                return envelope(400, [{"path": ["resource", "cpu"], "message": "Invalid"}], "bad")
            box.cpu, box.memory = resource["cpu"], resource["memory"]
            return envelope(200, {"resource": {"name": box.name}})
        return Reply(405)

    def _create(self, body: Any) -> Reply:
        issues = [
            {"code": "invalid_type", "path": [key], "message": "Required"}
            for key in ("name", "runtime", "resource")
            if key not in body
        ]
        if not isinstance(body.get("env", []), list):
            issues.append({"path": ["env"], "message": "Expected array, received object"})
        if issues:
            return envelope(400, issues, "Invalid request body")
        if body["name"] in self.boxes:
            return envelope(409, None, "Devbox already exists")
        if body["runtime"] not in TEMPLATES:
            return envelope(404, None, "Runtime not found or not available")
        resource = body["resource"]
        box = self.add(body["name"], runtime=body["runtime"], cpu=resource["cpu"])
        box.memory, box.env = resource["memory"], body.get("env", [])
        box.phase, box.steps, box.agent_steps = "Pending", self.steps, self.steps
        errors = []
        for port in body.get("ports", []):
            if port["number"] in self.bad_ports:
                errors.append({"port": port["number"], "error": "conflict"})
            else:
                box.ports.append(opened(box, port))
        data = {"name": box.name, "sshPort": 2233, "base64PrivateKey": encoded(PEM)}
        if errors:
            return envelope(201, {**data, "portErrors": errors})
        return envelope(200, data)

    def _change(self, box: FakeBox, action: str) -> Reply:
        desired = {"start": "Running", "pause": "Stopped", "shutdown": "Shutdown"}[action]
        if box.committing and desired != box.desired:
            rule = "spec.state: Forbidden: cannot change while committing"
            return envelope(422, {"message": rule}, "HTTP request failed")
        if box.phase == "Shutdown" and desired == "Stopped":
            return envelope(200, {"message": "ok"})  # accepted, never carried out
        if box.phase != desired:
            passing = {"Running": "Pending", "Stopped": "Stopping", "Shutdown": "Shutting"}
            box.phase, box.desired, box.steps = passing[desired], desired, self.steps
        return envelope(200, {"message": "ok", "devboxName": box.name})

    def _set_ports(self, box: FakeBox, ports: list[dict[str, Any]]) -> Reply:
        by_name = {port["portName"]: port for port in box.ports}
        kept = []
        for port in ports:
            if "portName" in port:
                if port["portName"] not in by_name:
                    return envelope(404, {"type": "PORT_NOT_FOUND"}, "no such port")
                kept.append({**by_name[port["portName"]], **opened(box, port), **port})
            else:
                kept.append(opened(box, port))
        box.ports = kept
        return envelope(200, {"ports": kept})

    def _releases(self, method: str, box: FakeBox | None, tail: str, body: Any) -> Reply:
        if box is None:
            return envelope(404, None, "Devbox not found")
        if tail == "":
            if method == "GET":
                return envelope(200, box.releases[::-1])
            if any(one["tag"] == body["tag"] for one in box.releases):
                return envelope(409, None, "Release tag already exists")
            done = box.phase == "Stopped"
            value = "Success" if done else "Pending"
            box.releases.append(
                {
                    "id": f"release-{len(box.releases)}",
                    "tag": body["tag"],
                    "createTime": "2026-01-12T07:00:02Z",
                    "status": {"value": value, "label": value},
                    "description": body.get("releaseDes") or "release notes",
                    "image": f"registry.example/ns-mine/{box.name}:{body['tag']}",
                }
            )
            return envelope(200, {"devboxName": box.name, "tag": body["tag"]})
        tag, _, action = tail.removeprefix("/").partition("/")
        found = [one for one in box.releases if one["tag"] == tag]
        if not found:
            return envelope(404, None, "Release not found")
        if action == "deploy":
            if found[0]["status"]["value"] != "Success":
                return envelope(500, "tag is not ready", "request error")
            domains = [{"host": "app.usw.sealos.io", "port": 8080}]
            return envelope(200, {"message": "ok", "appName": "app", "publicDomains": domains})
        box.releases.remove(found[0])
        return envelope(200, {"tag": tag})

    def _monitor(self, query: Any, factor: float) -> list[dict[str, Any]]:
        start, end = float(query["start"]), float(query["end"])
        return [
            {"timestamp": at, "readableTime": "", "cpu": cpu * factor, "memory": memory * factor}
            for at, cpu, memory in self.samples
            if start <= at <= end
        ]

    # -- v2alpha -----------------------------------------------------------------------------------

    def _v2(self, method: str, tail: str, query: Any, headers: Any, body: Any) -> Reply:
        if not self._known(headers):
            return v2_error(500, "internal_error", "INTERNAL_ERROR", "Unauthorized")
        if tail == "" and method == "POST":
            if body["name"] in self.boxes:
                return v2_error(409, "resource_error", "ALREADY_EXISTS", "exists")
            box = self.add(body["name"], runtime=body["runtime"], cpu=body["quota"]["cpu"])
            box.memory = body["quota"]["memory"]
            return Reply(202, {"name": box.name, "status": "creating"})
        name, _, action = tail.removeprefix("/").partition("/")
        if action == "monitor":
            return Reply(200, self._monitor(query, 1))
        box = self.boxes.get(name)
        if box is None:
            return v2_error(404, "resource_error", "NOT_FOUND", "Devbox not found")
        if method == "GET" and not action:
            box.look()
            found = detail(box)
            del found["agentServer"]
            found["quota"] = found.pop("resources")
            found["status"] = box.phase.lower()
            return Reply(200, {**found, "createdAt": "2026-01-12T07:00:00+08:00"})
        if method == "PATCH" and not action:
            box.cpu = body["quota"].get("cpu", box.cpu)
            box.memory = body["quota"].get("memory", box.memory)
            return Reply(204)
        return not_there()

    # -- the older lineage -------------------------------------------------------------------------

    def _flat(self, method: str, tail: str, query: Any, headers: Any, body: Any) -> Reply | None:
        known = self._known(headers)
        if not known and tail in ("/list", "/get"):
            return envelope(500, None, "Internal server error")
        name = (body or {}).get("devboxName") or query.get("devboxName")
        box = self.boxes.get(name or "")
        if (method, tail) == ("GET", "/list"):
            found = [{"id": b.uid, "name": b.name} for b in self.boxes.values()]
            return envelope(200, found)
        if (method, tail) == ("POST", "/create"):
            if "runtime" in body or body["runtimeName"] not in ("Node.js", "Python", "Debian"):
                return envelope(400, [], "Invalid request body")
            self.add(body["name"], cpu=body["cpu"] / 1000, memory=body["memory"] / 1024)
            return envelope(200, {"name": body["name"]})
        if (method, tail) == ("POST", "") and "env" in body:
            return envelope(400, [], "env is not supported")
        if (method == "GET" and tail == "/templates") or (method == "GET" and tail == "/x"):
            return not_there()
        if name and box is None:
            return envelope(404, None, "Devbox not found")
        if box is None:
            return None
        if (method, tail) == ("GET", "/get"):
            box.look()
            return envelope(200, flat_detail(box))
        if (method, tail) == ("DELETE", "/delete"):
            del self.boxes[box.name]
            return envelope(200, "ok")
        if (method, tail) == ("POST", "/lifecycle"):
            action = {"stop": "pause"}.get(body["action"], body["action"])
            return self._change(box, action)
        if (method, tail) == ("POST", "/ports/create"):
            box.ports.append({**opened(box, {"number": body["port"]}), "port": body["port"]})
            return envelope(200, "ok")
        if (method, tail) == ("POST", "/ports/remove"):
            box.ports = [port for port in box.ports if port["number"] != body["port"]]
            return envelope(200, "ok")
        if tail in ("/release", "/releases"):
            return self._releases(method, box, "", body)
        return None

    def _web(self, path: str, query: Any) -> Reply:
        if path == "/api/monitor/getMonitorData":
            column = 1 if query["queryKey"] == "average_cpu" else 2
            times = [sample[0] for sample in self.samples]
            values = [f"{sample[column] * 100:.2f}" for sample in self.samples]
            return envelope(200, [{"name": "x", "xData": times, "yData": values}])
        if path == "/api/getDevboxPodsByDevboxName":
            status = {"phase": "Running", "podIP": "10.0.0.1"}
            pod = {"podName": "my-box-abcde", "status": status, "nodeName": "n", "restarts": 1}
            return envelope(200, [pod])
        return not_there()

    def _cluster(self, method: str, path: str, headers: dict[str, str], body: Any) -> Reply:
        """The API server of the cluster: who may what, and merge patches of the custom resource."""
        if headers.get("authorization") != f"Bearer {self.token}":
            return Reply(401, {"kind": "Status", "code": 401, "reason": "Unauthorized"})
        if path.endswith("/selfsubjectaccessreviews"):
            return Reply(201, {"status": {"allowed": self.may_patch}})
        match = re.fullmatch(
            rf"/apis/devbox\.sealos\.io/{self.served}/namespaces/ns-mine/devboxes/(.+)", path
        )
        box = self.boxes.get(match[1]) if match else None
        if method != "PATCH" or box is None:
            return Reply(404, {"kind": "Status", "code": 404, "reason": "NotFound"})
        assert headers["content-type"] == "application/merge-patch+json"
        spec = body["spec"]
        box.storage = spec.get("storageLimit", box.storage)
        box.env = spec.get("config", {}).get("env", box.env)
        return Reply(200, {"kind": "Devbox"})

    def _agent(self, path: str) -> Reply:
        box = self.boxes.get(path.split("/")[2].removeprefix("id-of-"))
        if box is None or box.phase != "Running":
            return Reply(503, b"devbox not running", "text/plain")
        if box.agent_steps > 0:
            box.agent_steps -= 1
            return Reply(502, b"httpgate: nothing listens", "text/plain")
        return Reply(200, {"status": 0, "healthStatus": "ok"})
