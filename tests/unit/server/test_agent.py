"""The agent of a box: files, commands, sessions, and the quirks that clients have to live with."""

import base64
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from sealos_devbox.server.engine import Box, Engine
from sealos_devbox.server.record import new_record
from tests.support.waiting import wait_until
from tests.unit.server.conftest import Clock

FILES, PROCESS = "/api/v1/files", "/api/v1/process"


@pytest.fixture
def box(engine: Engine, clock: Clock) -> Box:
    record = new_record(
        "my-box", runtime="python", template_uid="t", image="i", cpu_millis=1000, memory_mib=1024
    )
    engine.create("my-box", record)
    clock.pass_by(1)
    return engine.box("my-box")


@pytest.fixture
async def agent(app: Starlette, box: Box) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url=f"http://devbox-{box.record.unique_id}-agent.test",
        headers={"Authorization": f"Bearer {box.record.secret}"},
    ) as client:
        yield client


async def post(agent: httpx.AsyncClient, path: str, body: Any) -> dict[str, Any]:
    answer = await agent.post(path, json=body)
    assert answer.status_code == 200, (answer.status_code, answer.text)
    return answer.json()


async def execute(agent: httpx.AsyncClient, script: str, **more: Any) -> dict[str, Any]:
    body = {"command": "bash", "args": ["-c", script], "cwd": ".", **more}
    return await post(agent, f"{PROCESS}/exec-sync", body)


async def test_nothing_is_answered_without_the_boxs_own_token(
    agent: httpx.AsyncClient, app: Starlette
) -> None:
    good = agent.headers["Authorization"]
    for path in ("/health", f"{FILES}/list", "/nowhere", "/ws"):
        for header in ("", "wrong", good.lower(), good + " ", good.replace(" ", "  ")):
            answer = await agent.get(path, headers={"Authorization": header})
            assert (answer.status_code, answer.content) == (401, b"")
    assert (await agent.get("/nowhere")).status_code == 404
    assert (await agent.get(f"{FILES}/write")).status_code == 405
    assert (await agent.get("/health")).json()["healthStatus"] == "ok"
    assert (await agent.get("/health/ready")).json()["readinessStatus"] == "ready"


async def test_the_same_below_a_path(agent: httpx.AsyncClient, box: Box) -> None:
    path = f"/box/{box.record.unique_id}/agent"
    async with httpx.AsyncClient(
        transport=agent._transport, base_url="http://127.0.0.1:1", headers=agent.headers
    ) as client:
        assert (await client.get(f"{path}/health")).json()["healthStatus"] == "ok"
        assert (await client.get(f"{path}/api/v1/files/list")).json()["files"] == []
        assert (await client.get("/box/no-such-abcd/agent/health")).text == "devbox not found"
        assert (await client.get(f"/box/{box.record.unique_id}/8000/")).status_code == 502


async def test_a_box_that_does_not_run(agent: httpx.AsyncClient, engine: Engine) -> None:
    engine.set_state("my-box", "Stopped")
    answer = await agent.get("/health")
    assert (answer.status_code, answer.text) == (503, "devbox not running")


async def test_writing_and_reading(agent: httpx.AsyncClient, box: Box) -> None:
    data = os.urandom(300_000)
    raw = await agent.post(f"{FILES}/write", params={"path": "a/b.bin"}, content=data)
    shown = str(box.workspace / "a/b.bin")
    assert raw.json() == {"status": 0, "message": "success", "path": shown, "size": len(data)}
    answer = await agent.get(f"{FILES}/read", params={"path": "/home/devbox/project/a/b.bin"})
    assert answer.content == data
    assert answer.headers["content-disposition"] == 'attachment; filename="b.bin"'
    text = {"path": "é.txt", "content": base64.b64encode(b"\0\1").decode(), "encoding": "base64"}
    assert (await post(agent, f"{FILES}/write", text))["size"] == 2
    assert (box.workspace / "é.txt").read_bytes() == b"\0\1"
    form = await agent.post(
        f"{FILES}/write", files=[("path", (None, "c/d")), ("file", ("ignored", b"x" * 9))]
    )
    assert form.json()["size"] == 9
    assert (box.workspace / "c/d").read_bytes() == b"x" * 9
    head = await agent.head(f"{FILES}/read", params={"path": "c/d"})
    assert (head.headers["content-length"], head.content) == ("9", b"")


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"path": "none"}, 1404, "File not found"),
        ({"path": "."}, 1422, "Path is a directory, not a file"),
        ({"path": "dangling"}, 1404, "File not found"),
        ({"path": "/etc/passwd"}, 1403, "Permission denied (os error 13)"),
        ({"path": "../../../../../etc/passwd"}, 1403, "Permission denied (os error 13)"),
        ({"path": "out"}, 1403, "Permission denied (os error 13)"),
        ({"path": "up/boxes"}, 1403, "Permission denied (os error 13)"),
    ],
)
async def test_what_cannot_be_read(
    agent: httpx.AsyncClient, box: Box, query: dict[str, str], status: int, message: str
) -> None:
    (box.workspace / "dangling").symlink_to("nothing")
    (box.workspace / "out").symlink_to("/etc/passwd")
    (box.workspace / "up").symlink_to("../../..")
    answer = await agent.get(f"{FILES}/read", params=query)
    assert (answer.status_code, answer.json()) == (200, {"status": status, "message": message})
    assert "content-disposition" not in answer.headers


async def test_no_link_leads_out_of_the_box(
    agent: httpx.AsyncClient, box: Box, engine: Engine
) -> None:
    outside = engine.settings.data_dir / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (box.workspace / "out").symlink_to(outside)
    (box.workspace / "in").mkdir()
    denied = {"status": 1403, "message": "Permission denied (os error 13)"}
    for path, body in (
        ("write", {"path": "out/new", "content": "x"}),
        ("delete", {"path": "out/secret"}),
        ("move", {"source": "out/secret", "destination": "taken"}),
        ("rename", {"oldPath": "in", "newPath": "out/in"}),
        ("chmod", {"path": "out/secret", "mode": "777"}),
        ("search", {"dir": "out", "pattern": "secret"}),
        ("batch-download", {"paths": ["out/secret"]}),
    ):
        assert await post(agent, f"{FILES}/{path}", body) == denied
    listed = await agent.get(f"{FILES}/list", params={"path": "out"})
    assert listed.json() == denied
    upload = await agent.post(
        f"{FILES}/batch-upload", files=[("files", ("out/new", b"x")), ("files", ("good", b"y"))]
    )
    assert [result["success"] for result in upload.json()["results"]] == [False, True]
    assert os.listdir(outside) == ["secret"]
    removed = await post(agent, f"{FILES}/delete", {"path": "out", "recursive": True})
    assert removed["success"] is True
    assert (outside / "secret").read_text() == "secret"


async def test_listing(agent: httpx.AsyncClient, box: Box) -> None:
    for number in range(120):
        (box.workspace / f"f{number}").touch()
    (box.workspace / ".hidden").touch()
    (box.workspace / "d").mkdir(mode=0o700)
    (box.workspace / "link").symlink_to("d")
    everything = {"limit": 1000, "showHidden": "true"}
    first = (await agent.get(f"{FILES}/list")).json()["files"]
    assert len(first) == 100
    found = (await agent.get(f"{FILES}/list", params=everything)).json()["files"]
    by_name = {item["name"]: item for item in found}
    assert len(by_name) == 123
    assert by_name["d"]["isDir"] is True
    assert by_name["d"]["permissions"] == "0700"
    assert by_name["link"] == {
        **by_name["link"],
        "isDir": False,
        "size": 1,
        "permissions": "0777",
        "path": str(box.workspace / "link"),
    }
    (box.workspace / "f0").chmod(0o044)
    again = (await agent.get(f"{FILES}/list", params=everything)).json()["files"]
    assert {item["name"]: item["permissions"] for item in again}["f0"] == "044"
    rest = (await agent.get(f"{FILES}/list", params={"offset": 100})).json()["files"]
    assert len(rest) == 22
    for query in ({"showHidden": "1"}, {"limit": "-1"}, {"offset": "x"}):
        assert (await agent.get(f"{FILES}/list", params=query)).status_code == 400
    missing = (await agent.get(f"{FILES}/list", params={"path": "no"})).json()
    assert missing["status"] == 1404
    a_file = (await agent.get(f"{FILES}/list", params={"path": "f1"})).json()
    assert a_file == {"status": 1500, "message": "Not a directory (os error 20)"}


async def test_deleting_moving_renaming(agent: httpx.AsyncClient, box: Box) -> None:
    top = box.workspace
    (top / "d").mkdir()
    (top / "d/f").write_text("1")
    (top / "g").write_text("2")
    (top / "dangling").symlink_to("nothing")

    async def call(verb: str, **body: Any) -> tuple[int, str]:
        answer = await post(agent, f"{FILES}/{verb}", body)
        return answer["status"], answer.get("message", "")

    assert await call("delete", path="d") == (1500, "Directory not empty (os error 39)")
    assert await call("delete", path="dangling") == (1404, "File not found")
    assert await call("rename", oldPath="g", newPath="d/f") == (1409, "Destination already exists")
    assert await call("rename", oldPath="g", newPath="dangling") == (0, "success")
    assert (top / "dangling").read_text() == "2"
    assert (await call("move", source="dangling", destination="d"))[0] == 1409
    assert await call("move", source="dangling", destination="d", overwrite=True) == (0, "success")
    assert (top / "d").read_text() == "2"
    # Destroys the file, as the real one does.
    assert (await call("move", source="d", destination="d", overwrite=True))[0] == 1404
    assert not (top / "d").exists()
    assert await call("move", source="d", destination="e") == (1404, "Source file not found")


async def test_changing_modes(agent: httpx.AsyncClient, box: Box) -> None:
    (box.workspace / "f").touch(mode=0o600)
    assert (await post(agent, f"{FILES}/chmod", {"path": "f", "mode": "0o4755"}))["status"] == 0
    assert (box.workspace / "f").stat().st_mode & 0o7777 == 0o755
    assert (await post(agent, f"{FILES}/chmod", {"path": "f", "mode": "rwx"}))["status"] == 1422


async def test_searching_finding_replacing(agent: httpx.AsyncClient, box: Box) -> None:
    top = box.workspace
    for name, text in (("src/Main.py", "needle here"), ("dist/main.py", "needle"), (".git/m", "")):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text(text)
    (top / "big.txt").write_text("x" * 40_000 + "\nneedle\n")
    (top / "binary").write_bytes(b"\0needle")
    searched = await post(agent, f"{FILES}/search", {"dir": ".", "pattern": "main"})
    assert searched["files"] == [str(top / "src/Main.py")]
    found = await post(agent, f"{FILES}/find", {"dir": "/home/devbox/project", "keyword": "needle"})
    assert sorted(found["files"]) == [str(top / "big.txt"), str(top / "src/Main.py")]
    body = {"files": ["src/Main.py", "none", "binary"], "from": "needle", "to": "pin"}
    replaced = (await post(agent, f"{FILES}/replace", body))["results"]
    assert [result["status"] for result in replaced] == ["success", "error", "success"]
    assert (top / "src/Main.py").read_text() == "pin here"


# httpx leaves its generator alone when the answer comes before the end of the body.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_frameworks_own_refusals(agent: httpx.AsyncClient) -> None:
    path = f"{FILES}/delete"
    json_type = {"Content-Type": "application/json"}
    assert (await agent.post(path, content=b"{}")).status_code == 415
    assert (await agent.post(path, content=b"{", headers=json_type)).status_code == 400
    assert (await agent.post(path, json={})).status_code == 422
    assert (await agent.post(path, json={"path": 1})).status_code == 422
    assert (await agent.post(path, json={"path": "x" * 2_100_000})).status_code == 413
    assert (await agent.get(f"{FILES}/read")).status_code == 400
    # On this route alone, problems with JSON are in the envelope.
    wrong = await agent.post(f"{FILES}/write", content=b"{", headers=json_type)
    assert (wrong.status_code, wrong.json()["status"]) == (200, 1422)


async def test_a_file_that_is_too_large_takes_the_old_one_with_it(
    agent: httpx.AsyncClient, box: Box, engine: Engine
) -> None:
    object.__setattr__(engine.settings, "max_file_size", 100)
    (box.workspace / "f").write_text("old")
    body = {"path": "f", "content": "x" * 101}
    assert (await post(agent, f"{FILES}/write", body))["message"] == "File too large"
    assert (box.workspace / "f").read_text() == "old"
    raw = await agent.post(f"{FILES}/write", params={"path": "f"}, content=b"x" * 101)
    assert raw.json() == {"status": 1422, "message": "File too large"}
    assert not (box.workspace / "f").exists()


async def test_batches(agent: httpx.AsyncClient, box: Box) -> None:
    parts = [
        ("targetDir", (None, "ignored")),
        ("files", ("p/one", b"1")),
        ("file", ("two", b"")),
        ("files", ("p/one/three", b"3")),
    ]
    answer = (await agent.post(f"{FILES}/batch-upload", files=parts)).json()
    assert (answer["totalFiles"], answer["successCount"]) == (3, 2)
    assert answer["results"][0] == {
        "path": str(box.workspace / "p/one"),
        "success": True,
        "size": 1,
    }
    assert answer["results"][2]["path"] == "p/one/three"
    for form, mode in (("tar", "r:"), ("tar.gz", "r:gz"), (None, "r:gz")):
        body = {"paths": ["p", "two"], "format": form}
        download = await agent.post(f"{FILES}/batch-download", json=body)
        with tarfile.open(fileobj=io.BytesIO(download.content), mode=mode) as archive:
            assert archive.getnames() == ["p", "p/one", "two"]
    mixed = await agent.post(
        f"{FILES}/batch-download", json={"paths": ["p/one"], "format": "multipart"}
    )
    assert mixed.headers["content-type"].startswith("multipart/mixed; boundary=")
    assert b"\r\n\r\n1\r\n--" in mixed.content
    assert (await post(agent, f"{FILES}/batch-download", {"paths": []}))["status"] == 1422
    gone = await post(agent, f"{FILES}/batch-download", {"paths": ["gone"]})
    assert gone["message"] == "File not found: gone"


async def test_commands(
    agent: httpx.AsyncClient, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "the user's own secret")
    done = await execute(agent, 'printf "$HOME $A"; pwd >&2; exit 3', env={"A": "b"})
    assert (done["stdout"], done["stderr"]) == (f"{box.workspace} b", f"{box.workspace}\n")
    assert (done["status"], done["exitCode"]) == (0, 3)
    environment = (await execute(agent, "env"))["stdout"]
    assert "secret" not in environment.replace(box.record.secret, "")
    assert box.record.secret in environment
    assert (await execute(agent, "kill -9 $$"))["exitCode"] is None
    missing = await post(agent, f"{PROCESS}/exec-sync", {"command": "no-such-program"})
    assert (missing["status"], missing["exitCode"]) == (1600, 127)
    assert missing["stderr"] == 'exec: "no-such-program": executable file not found in $PATH'
    assert "message" not in missing
    assert (await execute(agent, "true", cwd="none"))["status"] == 1600
    split = await post(agent, f"{PROCESS}/exec-sync", {"command": "printf '%s|' 'a b' c"})
    assert split["stdout"] == "a b|c|"
    elsewhere = await post(agent, f"{PROCESS}/exec-sync", {"command": "pwd"})
    assert elsewhere["stdout"] != f"{box.workspace}\n"
    binary = await execute(agent, r"printf '\377\0'")
    assert binary["stdout"] == "\ufffd\0"


async def test_a_command_that_takes_too_long_goes_on(agent: httpx.AsyncClient, box: Box) -> None:
    answer = await execute(agent, "while [ ! -e go ]; do sleep 0.01; done; touch done", timeout=0)
    assert answer == {"status": 1500, "message": "Process execution timed out"}
    (box.workspace / "go").touch()
    wait_until((box.workspace / "done").exists)


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            found.append((name[7:], json.loads(data[6:])))
    return found


async def test_output_as_events(agent: httpx.AsyncClient) -> None:
    body = {"command": "bash", "args": ["-c", "echo a; echo b >&2; printf c; exit 4"], "cwd": "."}
    answer = await agent.post(f"{PROCESS}/sync-stream", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert found[0][0] == "start"
    said = [(name, data["output"]) for name, data in found if "output" in data]
    assert sorted(said) == [("stderr", "b\n"), ("stdout", "a\n"), ("stdout", "c")]
    [complete] = [data for name, data in found if name == "complete"]
    assert complete["exitCode"] == 4
    missing = await agent.post(f"{PROCESS}/sync-stream", json={"command": "nope", "args": []})
    assert [name for name, _ in events(missing.text)] == ["start", "error"]
    slow = await agent.post(
        f"{PROCESS}/sync-stream", json={"command": "sleep", "args": ["60"], "timeout": 0}
    )
    assert events(slow.text)[1][1]["error"] == "Execution timeout"


async def test_background_processes(agent: httpx.AsyncClient, box: Box) -> None:
    body = {"command": "bash", "args": ["-c", "echo up; exec sleep 60"], "cwd": "."}
    started = await post(agent, f"{PROCESS}/exec", body)
    path = f"{PROCESS}/{started['processId']}"
    assert started["processStatus"] == "running"
    logs: list[str] = []
    for _ in range(500):
        logs = (await agent.get(f"{path}/logs")).json()["logs"]
        if logs:
            break
        await anyio.sleep(0.01)
    assert logs == ["[stdout] up\n"]
    listed = (await agent.get(f"{PROCESS}/list")).json()["processes"]
    assert [(each["processId"], each["command"]) for each in listed] == [
        (started["processId"], "bash")
    ]
    assert (await agent.post(f"{path}/kill", params={"signal": "SIGTERM"})).json()["success"]
    for _ in range(500):
        status = (await agent.get(f"{path}/status")).json()
        if status["processStatus"] != "running":
            break
        await anyio.sleep(0.01)
    assert (status["processStatus"], status["exitCode"]) == ("killed", 143)
    assert (await agent.post(f"{path}/kill")).json()["status"] == 1409
    assert (await agent.get(f"{PROCESS}/none/status")).json()["status"] == 1404
    failed = await post(agent, f"{PROCESS}/exec", {"command": "no-such-program"})
    assert failed["message"] == "Failed to spawn process: No such file or directory (os error 2)"


async def test_sessions(agent: httpx.AsyncClient, box: Box) -> None:
    made = await post(agent, "/api/v1/sessions/create", {"env": {"A": "1"}})
    path = f"/api/v1/sessions/{made['sessionId']}"
    (box.workspace / "d").mkdir()
    assert (await post(agent, f"{path}/cd", {"path": "d"}))["workingDir"] == "d"
    await post(agent, f"{path}/env", {"env": {"B": "2"}})
    said = await post(agent, f"{path}/exec", {"command": "echo $A$B; pwd"})
    assert (said["exitCode"], said["stdout"]) == (0, "")
    wanted = ["[cd] d\n", "[exec] echo $A$B; pwd\n", "[stdout] 12\n"]
    logs: list[str] = []
    for _ in range(500):
        logs = (await agent.get(f"{path}/logs")).json()["logs"]
        if len(logs) == 4:
            break
        await anyio.sleep(0.01)
    assert logs == [*wanted, f"[stdout] {box.workspace}/d\n"]
    assert (await agent.get("/api/v1/sessions")).json()["sessions"][0]["sessionStatus"] == "active"
    assert (await agent.post(f"{path}/terminate")).json()["success"] is True
    assert (await agent.get(path)).json()["sessionStatus"] == "terminated"
    assert (await agent.get("/api/v1/sessions/none")).json()["status"] == 1404


async def test_ports_are_those_of_the_box(agent: httpx.AsyncClient, box: Box) -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)) as other:
        assert (await agent.get("/api/v1/ports")).json()["ports"] == []
        script = (
            "import socket,sys; s = socket.create_server(('0.0.0.0', 0)); "
            "open('port', 'w').write(str(s.getsockname()[1])); sys.stdin.read()"
        )
        await post(
            agent,
            f"{PROCESS}/exec",
            {"command": "sh", "args": ["-c", f'sleep 60 | python3 -c "{script}"'], "cwd": "."},
        )
        port = box.workspace / "port"
        wait_until(lambda: port.exists() and port.read_text())
        ports = (await agent.get("/api/v1/ports")).json()["ports"]
        assert ports == [int(port.read_text())]
        assert other.getsockname()[1] not in ports


@pytest.fixture(autouse=True)
def _nothing_left(engine: Engine) -> Any:
    yield
    for stored in engine.store.list():
        engine.processes.kill(stored.uid)
