"""`devboxfs box`: from making a box to deleting it."""

import pytest

from tests.cli.conftest import User

BOX = {
    "name",
    "uid",
    "state",
    "runtime",
    "resources",
    "image",
    "created_at",
    "ssh",
    "env",
    "ports",
    "pods",
    "unique_id",
    "agent_url",
    "working_dir",
}
"""The fields that programs may count on."""


def test_a_box_from_making_to_deleting_by_endpoint(user: User) -> None:
    made = user.spawn("box", "create", "alpha", "--runtime", "python:2.7", *user.service)
    assert (made.stdout, made.returncode) == ("alpha is ready.\n", 0)
    assert f"using {user.url}" in made.stderr
    assert "python:2.7 was asked for" in made.stderr
    assert user.spawn("box", "list", "-q", *user.service).stdout == "alpha\n"
    assert user.spawn("box", "pause", "alpha", *user.service).stdout == "alpha is stopped.\n"
    assert user.spawn("box", "start", "alpha", *user.service).stdout == "alpha is running.\n"
    assert user.spawn("box", "wait", "alpha", *user.service).stdout == "alpha is ready.\n"
    assert (
        user.spawn("box", "delete", "alpha", "--yes", *user.service).stdout == "alpha is deleted.\n"
    )
    assert user.spawn("box", "list", "-q", *user.service).stdout == ""


def test_tables_and_json_by_profile(member: User) -> None:
    made = member.json(
        *("box", "create", "beta", "--runtime", "python", "--cpu", "500m", "--memory", "1Gi"),
        *("--port", "8000", "--port", "9000/ws:private", "--env", "MODE=dev"),
        *("--env", "API_TOKEN=not to be shown"),
    )
    assert set(made) == BOX
    try:
        assert made["resources"] == {"cpu": 0.5, "memory": 2**30, "storage": None}
        assert [(one["number"], one["public"]) for one in made["ports"]] == [
            (8000, True),
            (9000, False),
        ]
        assert made["created_at"].endswith("Z")
        assert made["ssh"]["private_key"] is None
        (listed,) = member.json("box", "list")
        assert set(listed) == BOX
        lines = member.spawn("box", "list").stdout.splitlines()
        assert lines[0].split() == ["NAME", "STATE", "RUNTIME", "CPU", "MEMORY"]
        assert lines[1].split() == ["beta", "running", "python", "0.5", "1Gi"]
        shown = member.does("box", "show", "beta")
        assert "MODE=dev" in shown
        assert "not to be shown" not in shown + str(made)
        assert "PRIVATE KEY" not in shown
        asked = member.does("box", "show", "beta", "--show-secrets")
        assert "API_TOKEN=not to be shown" in asked
        assert "PRIVATE KEY-----" in asked
        changed = member.json("box", "update", "beta", "--cpu", "2")
        assert changed["resources"]["cpu"] == 2
        assert member.json("box", "health", "beta")["ok"] is True
    finally:
        member.does("box", "delete", "beta", "--yes", "--no-wait")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["box", "creat"], 2, "Did you mean 'create'?"),
        (["box", "create", "x", "--runtime", "pyton"], 2, "did you mean 'python'?"),
        (["box", "create", "x", "--runtime", "python", "--cpu", "3000"], 2, "between"),
        (["box", "create", "x", "--template", "pythn"], 17, "Did you mean 'python'?"),
        (["box", "create", "Not-A-Name"], 2, "name"),
        (["box", "create", "x", "--port", "80000"], 2, "no port"),
        (["box", "create", "x", "--port", "80/udp"], 2, "http, grpc or ws"),
        (["box", "create", "--exist-ok"], 2, "needs the name"),
        (["box", "update", "x"], 2, "--cpu, --memory or --storage"),
        (["box", "show", "there-is-none"], 6, "There is no box"),
        (["box", "delete", "x"], 2, "--yes"),
        (["box", "list", "--endpoint", "http://127.0.0.1:9"], 13, ""),
        (["box", "list", "--profile", "nobody"], 18, "devboxfs login"),
        (["box", "list", "--embedded", "--endpoint", "http://127.0.0.1:9"], 2, "exclude"),
    ],
)
def test_what_goes_wrong_has_an_exit_code_and_says_what_to_do(
    user: User, arguments: list[str], code: int, said: str
) -> None:
    if "--endpoint" in arguments:
        env = {"DEVBOX_KUBECONFIG": str(user.kubeconfig)} if "--embedded" not in arguments else {}
    else:
        env = {"DEVBOX_ENDPOINT": user.url, "DEVBOX_KUBECONFIG": str(user.kubeconfig)}
    env |= {"DEVBOX_TOTAL_TIMEOUT": "3"}
    done = user.run(*arguments, env=env)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr


def test_one_failure_does_not_keep_the_others(member: User) -> None:
    member.does("box", "create", "gamma", "--runtime", "python")
    twice = member.run("box", "create", "gamma", "--runtime", "python")
    assert (twice.returncode, "already" in twice.stderr) == (11, True)
    again = member.does("box", "create", "gamma", "--runtime", "python", "--exist-ok")
    assert again == "gamma is ready.\n"
    near = member.run("box", "show", "gama")
    assert "Did you mean 'gamma'?" in near.stderr
    done = member.run("box", "delete", "no-such-box", "gamma", "--yes")
    assert (done.stdout, done.returncode) == ("gamma is deleted.\n", 6)
    assert "no-such-box" in done.stderr


def test_waiting_ends(member: User) -> None:
    member.does("box", "create", "delta", "--runtime", "python")
    member.does("box", "pause", "delta")
    assert member.run("box", "wait", "delta").returncode == 14
    assert member.does("box", "wait", "delta", "--for", "stopped") == "delta is stopped.\n"
    late = member.run("box", "wait", "delta", "--for", "running", "--timeout", "0.2")
    assert (late.returncode, "after 0.2 s" in late.stderr) == (9, True)
    assert member.run("box", "health", "delta").returncode == 14
    member.does("box", "delete", "delta", "--yes", "--no-wait")
    assert member.does("box", "wait", "delta", "--for", "deleted") == "delta is deleted.\n"


def test_boxes_of_the_embedded_engine(user: User) -> None:
    assert user.does("box", "create", "local", "--embedded") == "local is ready.\n"
    (listed,) = user.json("box", "list", "--embedded")
    assert (listed["name"], set(listed)) == ("local", BOX)
    assert user.does("box", "delete", "local", "--yes", "--embedded") == "local is deleted.\n"


def test_a_refused_credential(user: User) -> None:
    done = user.run("box", "list", "--endpoint", user.url, env={"DEVBOX_API_KEY": "wrong-secret"})
    assert done.returncode == 12
    assert "does not accept the credential" in done.stderr
    assert "wrong-secret" not in done.stderr
