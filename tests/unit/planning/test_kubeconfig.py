"""What of a kubeconfig is sent, and what is not."""

import json
from typing import Any
from urllib.parse import unquote

import pytest

from sealos_devbox import ConfigurationError
from sealos_devbox._planning import kubeconfig
from tests.fakes.control_documents import KUBECONFIG, TOKEN


def no_files(path: str) -> bytes:
    raise AssertionError(path)


def selected(text: str = KUBECONFIG, context: str | None = None) -> kubeconfig.Selected:
    return kubeconfig.select(kubeconfig.merge([("/etc/kube/config", text)]), context)


def with_user(user: dict[str, Any]) -> str:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://usw.sealos.io:6443"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    return json.dumps(config)


def test_one_context_that_is_first_and_current() -> None:
    config = json.loads(kubeconfig.minimised(selected(), no_files))
    assert [one["context"]["namespace"] for one in config["contexts"]] == ["ns-mine"]
    assert config["current-context"] == config["contexts"][0]["name"]
    assert [one["user"] for one in config["users"]] == [{"token": TOKEN}]
    assert "certificate-authority-data" not in json.dumps(config)


def test_the_users_name_is_kept_for_a_namespace_that_is_derived_from_it() -> None:
    config = json.loads(kubeconfig.minimised(selected(with_user({"token": "a"})), no_files))
    assert config["contexts"][0]["context"] == {"cluster": "c", "user": "u"}


def test_another_context() -> None:
    found = selected(context="other")
    assert (found.namespace, found.user["token"]) == ("ns-other", "not-this-token")
    with pytest.raises(ConfigurationError, match="no context 'x'; it has: other, mine"):
        selected(context="x")
    with pytest.raises(ConfigurationError, match="no current context") as caught:
        selected(KUBECONFIG.replace("current-context: mine", ""))
    assert "other, mine" in caught.value.hint


def test_files_that_it_names_are_put_into_it() -> None:
    read: list[str] = []

    def reader(path: str) -> bytes:
        read.append(path)
        return b"content of " + path.encode()

    user = {"client-certificate": "pki/me.crt", "client-key": "/pki/me.key"}
    config = json.loads(kubeconfig.minimised(selected(with_user(user)), reader))
    assert read == ["/etc/kube/pki/me.crt", "/pki/me.key"]
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    config = json.loads(kubeconfig.minimised(selected(with_user({"tokenFile": "t"})), reader))
    assert config["users"][0]["user"] == {"token": "content of /etc/kube/t"}


def test_a_user_with_a_token_needs_no_certificate() -> None:
    user = {"token": "a", "client-certificate-data": "b", "client-key-data": "c"}
    config = json.loads(kubeconfig.minimised(selected(with_user(user)), no_files))
    assert config["users"][0]["user"] == {"token": "a"}


def test_a_user_without_credential() -> None:
    for user in ({}, {"client-certificate-data": "b"}, {"username": "me"}):
        with pytest.raises(ConfigurationError, match="neither a token nor a certificate"):
            kubeconfig.minimised(selected(with_user(user)), no_files)


def test_several_files_are_merged_as_kubectl_does() -> None:
    second = KUBECONFIG.replace(TOKEN, "overridden").replace("current-context: mine", "")
    merged = kubeconfig.merge([("/a", KUBECONFIG), ("/b", second)])
    assert kubeconfig.select(merged, None).user["token"] == TOKEN
    merged = kubeconfig.merge([("/b", second), ("/a", KUBECONFIG)])
    assert kubeconfig.select(merged, None).user["token"] == "overridden"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1"),
        ("{", "no JSON"),
        ("just words", "has no contexts"),
        ("contexts: {a: 1}", "contexts is no list"),
        ("contexts: [{a: 1}]", "has no name"),
    ],
)
def test_what_is_no_kubeconfig(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        kubeconfig.merge([("the file", text)])


def test_a_secret_in_broken_yaml_is_not_quoted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        kubeconfig.merge([("the file", f"users:\n  token: {TOKEN}: [")])
    assert TOKEN not in f"{caught.value} {caught.value.__cause__}"


def test_the_header_decodes_to_the_text() -> None:
    for text in ("token", KUBECONFIG, "ä%2B+ /\n", "x" * 7_000, '{"' * 3_000):
        value = kubeconfig.header_value(text)
        assert unquote(value) == text
        assert value.isascii()
        assert value.isprintable()
    assert len(kubeconfig.header_value('{"' * 3_000)) == 6_000  # all encoded it would be 18,000
    with pytest.raises(ConfigurationError, match="bytes") as caught:
        kubeconfig.header_value("x" * 20_000)
    assert "token" in caught.value.hint


def test_the_endpoint_is_derived_as_the_services_own_clients_do() -> None:
    assert kubeconfig.derived_endpoint(selected(with_user({}))) == "https://devbox.usw.sealos.io"
    nowhere = kubeconfig.Selected("x", None, {}, {}, "u")
    with pytest.raises(ConfigurationError, match="cannot be derived"):
        kubeconfig.derived_endpoint(nowhere)


def test_which_texts_are_kubeconfigs() -> None:
    assert kubeconfig.is_kubeconfig(KUBECONFIG)
    assert kubeconfig.is_kubeconfig('{"clusters":[]}')
    assert not kubeconfig.is_kubeconfig(f"{TOKEN}\n")
    assert kubeconfig.unquoted(kubeconfig.header_value(KUBECONFIG)) == KUBECONFIG
    assert kubeconfig.unquoted("100%25") == "100%25"
