"""`devboxfs ports`, `env`, `release`, `pods`, `templates` and `runtimes`."""

from tests.cli.conftest import User


def test_ports(user: User, box: str) -> None:
    private = user.json("ports", "open", box, "9000/ws:private", *user.service)
    assert (private["number"], private["protocol"], private["public"]) == (9000, "ws", False)
    assert "Port 8000 of work is open: https://" in user.does(
        "ports", "open", box, "8000", *user.service
    )
    listed = user.json("ports", "list", box, *user.service)
    assert set(listed[0]) == {
        *("number", "protocol", "public", "name", "public_url", "private_url", "custom_domain"),
    }
    lines = user.does("ports", "list", box, *user.service).splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == ["8000", "9000"]
    user.does("ports", "close", box, "9000", *user.service)
    gone = user.run("ports", "close", box, "9000", *user.service)
    assert (gone.returncode, "open are: 8000" in gone.stderr) == (17, True)


def test_variables(user: User, box: str) -> None:
    secret = "not-to-be-shown"
    user.does(
        *("env", "set", box, "MODE=dev", "--from-file", "-", *user.service),
        stdin=f"# one\nDB_PASSWORD={secret}\n",
    )
    plain = user.does("env", "list", box, *user.service)
    assert [line.split() for line in plain.splitlines()[1:]] == [
        ["DB_PASSWORD", "[hidden]"],
        ["MODE", "dev"],
    ]
    hidden, shown = user.json("env", "list", box, *user.service)
    assert hidden == {"name": "DB_PASSWORD", "value": None, "secret": None, "hidden": True}
    assert shown["value"] == "dev"
    assert secret in user.does("env", "list", box, "--show-secrets", *user.service)
    user.does("env", "unset", box, "DB_PASSWORD", *user.service)
    assert [one["name"] for one in user.json("env", "list", box, *user.service)] == ["MODE"]
    assert user.run("env", "unset", box, "NONE", *user.service).returncode == 17
    wrong = user.run("env", "set", box, secret, *user.service)
    assert (wrong.returncode, secret in wrong.stderr) == (2, False)


def test_releases(user: User, box: str) -> None:
    pending = user.does("release", "create", box, "v1", "-m", "first", *user.service)
    assert "is pending" in pending
    made = user.json("release", "create", box, "v2", "--stop-box", *user.service)
    assert set(made) == {"tag", "state", "description", "created_at", "image", "uid"}
    assert made["state"] == "success"
    assert "v1" in user.does("release", "wait", box, "v1", *user.service)
    tags = {one["tag"] for one in user.json("release", "list", box, *user.service)}
    assert tags == {"v1", "v2"}
    deployed = user.json("release", "deploy", box, "v2", *user.service)
    (running,) = user.json("release", "deployments", box, *user.service)
    assert running["name"] == deployed["name"]
    assert user.run("release", "create", box, "v2", *user.service).returncode == 11
    assert user.run("release", "delete", box, "v1", *user.service).returncode == 2
    user.does("release", "delete", box, "v1", "--yes", *user.service)
    assert user.run("release", "delete", box, "v1", "--yes", *user.service).returncode == 17
    assert user.run("release", "wait", box, "v9", *user.service).returncode == 17


def test_what_the_region_has(user: User, box: str) -> None:
    templates = user.json("templates", *user.service)
    assert set(templates[0]) == {"runtime", "user", "working_dir", "ports", "release_command"}
    runtimes = user.json("runtimes", *user.service)
    assert set(runtimes[0]) == {"name", "kind", "description", "tags"}
    assert {one["name"] for one in runtimes} == {one["runtime"] for one in templates}
    (pod,) = user.json("pods", box, *user.service)
    assert (pod["name"], pod["state"]) == (box, "running")
    assert "runs true" in user.does("autostart", box, "true", *user.service)
