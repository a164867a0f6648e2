"""Reading kubeconfigs: where from, what counts, and that nothing secret is told."""

from __future__ import annotations

import base64
import json
import os
import textwrap
import time
from pathlib import Path

import pytest
import trustme

from sealos_devbox._transport.kube.kubeconfig import (
    ClusterCredentials,
    KubeconfigSource,
    load_credentials,
)
from sealos_devbox._transport.kube.proxies import choose_proxy, without_password
from sealos_devbox.errors import ConfigurationError
from tests.fakes.exec_server import kubeconfig

URL = "https://cluster.example:6443"


def load(text: str = "", **options) -> ClusterCredentials:
    return load_credentials(KubeconfigSource(text=text, **options))


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def config(name: str, server: str, token: str, current: str | None = None) -> str:
    value = {
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    return json.dumps(value | ({"current-context": current} if current else {}))


def plugin(tmp_path: Path, body: str, **settings) -> str:
    script = tmp_path / "plugin"
    script.write_text("#!/bin/sh\n" + textwrap.dedent(body))
    script.chmod(0o755)
    spec = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(script),
        "interactiveMode": "Never",
        **settings,
    }
    return kubeconfig(URL, exec=spec)


def credential(**status: str) -> str:
    value = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    return f"printf %s '{json.dumps(value | {'status': status})}'\n"


def test_a_text():
    loaded = load(kubeconfig(URL, token="t0ken"))
    assert loaded.server == URL
    assert loaded.namespace == "ns-test"
    assert loaded.context_name == "x"
    assert loaded.authorization == "Bearer t0ken"
    assert "t0ken" not in repr(loaded) + repr(loaded.source) + str(loaded.source)


def test_a_list_of_files_is_merged_and_the_first_context_counts(tmp_path):
    one = written(tmp_path / "one", config("a", "https://a", "ta"))
    two = written(tmp_path / "two", config("b", "https://b", "tb", current="b"))
    three = written(tmp_path / "three", config("c", "https://c", "tc", current="c"))
    paths = (str(tmp_path / "absent"), one, two, three)
    assert load_credentials(KubeconfigSource(paths=paths)).server == "https://b"
    chosen = load_credentials(KubeconfigSource(paths=paths, context="a"))
    assert (chosen.server, chosen.authorization) == ("https://a", "Bearer ta")


def test_the_places_in_which_kubectl_looks(tmp_path):
    listed = {"KUBECONFIG": f"/one{os.pathsep}{os.pathsep}/two", "HOME": str(tmp_path)}
    assert KubeconfigSource.from_environment(listed).paths == ("/one", "/two")
    home = {"HOME": str(tmp_path)}
    default = str(tmp_path / ".kube" / "config")
    assert KubeconfigSource.from_environment(home).paths == (default,)
    account = tmp_path / "account"
    written(account / "token", "t\n")
    pod = {**home, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert KubeconfigSource.from_environment(pod, service_account=account).in_cluster
    written(Path(default), "{}")
    assert not KubeconfigSource.from_environment(pod, service_account=account).in_cluster


def test_files_are_relative_to_the_kubeconfig(tmp_path):
    authority = trustme.CA()
    (tmp_path / "here").mkdir()
    authority.cert_pem.write_to_path(tmp_path / "here" / "ca.crt")
    written(tmp_path / "here" / "token", "from a file\n")
    text = kubeconfig(URL, {"certificate-authority": "ca.crt"}, tokenFile="token")
    path = written(tmp_path / "here" / "config", text)
    loaded = load_credentials(KubeconfigSource(paths=(path,)))
    assert loaded.authorization == "Bearer from a file"
    assert loaded.ssl_context is not None
    assert len(loaded.ssl_context.get_ca_certs()) == 1


def test_in_a_pod(tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    written(tmp_path / "token", "one\n")
    written(tmp_path / "namespace", "ns-pod\n")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    loaded = load_credentials(
        KubeconfigSource(in_cluster=True), environment=environ, service_account=tmp_path
    )
    assert loaded.server == "https://[fd00::1]:443"
    assert loaded.namespace == "ns-pod"
    assert loaded.authorization == "Bearer one"
    written(tmp_path / "token", "two\n")
    assert loaded.renew()
    assert loaded.authorization == "Bearer two"
    with pytest.raises(ConfigurationError, match="does not run in a pod"):
        load_credentials(
            KubeconfigSource(in_cluster=True), environment={"A": "b"}, service_account=tmp_path
        )


def test_a_client_certificate_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    pair = trustme.CA().issue_cert("client@example.com")
    user = {
        "client-certificate-data": base64.b64encode(pair.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(pair.private_key_pem.bytes()).decode(),
    }
    loaded = load(kubeconfig(URL, **user))
    assert loaded.authorization is None
    assert loaded.certificates == 1
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delattr("os.memfd_create")
    assert load(kubeconfig(URL, **user)).certificates == 1
    assert list(tmp_path.iterdir()) == []


def test_the_credential_of_a_plugin(tmp_path):
    record = tmp_path / "info"
    text = plugin(
        tmp_path,
        f'printf %s "$KUBERNETES_EXEC_INFO" >{record}; cat >/dev/null\n{credential(token="abc")}',
        provideClusterInfo=True,
        env=[{"name": "X", "value": "y"}],
    )
    assert load(text).authorization == "Bearer abc"
    info = json.loads(record.read_text())
    assert info["spec"] == {"interactive": False, "cluster": {"server": URL}}


def test_a_plugin_is_run_again_before_its_credential_expires(tmp_path):
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
    counter = tmp_path / "runs"
    answer = credential(token="TOKEN", expirationTimestamp=soon).replace("TOKEN", "'$n'")
    text = plugin(tmp_path, f"echo >>{counter}; n=$(wc -l <{counter})\n{answer}")
    loaded = load(text)
    assert not loaded.is_fresh
    assert loaded.renew()
    assert loaded.authorization == "Bearer 2"


def test_a_certificate_of_a_plugin(tmp_path):
    pair = trustme.CA().issue_cert("client@example.com")
    answer = credential(
        clientCertificateData=pair.cert_chain_pems[0].bytes().decode(),
        clientKeyData=pair.private_key_pem.bytes().decode(),
    )
    assert load(plugin(tmp_path, answer)).certificates == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo no card >&2; exit 3", "failed with exit code 3: no card"),
        ("echo secret-garbage", "answered no JSON"),
        ("echo '{}'", "answered no ExecCredential"),
        (credential(), "neither a token nor a certificate"),
        (credential(clientCertificateData="x"), "neither a token nor a certificate"),
    ],
)
def test_a_plugin_that_fails_is_an_error(tmp_path, body, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(plugin(tmp_path, body))
    assert "secret-garbage" not in str(caught.value)


def test_a_plugin_that_is_not_there():
    spec = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/no/such/plugin"}
    text = kubeconfig(URL, exec={**spec, "installHint": "Get it from the shop."})
    with pytest.raises(ConfigurationError, match="could not be started") as caught:
        load(text)
    assert caught.value.hint == "Get it from the shop."


@pytest.mark.parametrize(
    "text",
    [
        "users: [{name: u, user: {token: s3cret}}\n  x: ]",
        json.dumps({"users": [{"user": {"token": "s3cret"}}], "current-context": "x"}),
        json.dumps({"users": {"token": "s3cret"}, "contexts": 3, "current-context": "x"}),
        "s3cret",
        "[]",
        "",
        kubeconfig("cluster.example", token="s3cret"),
        kubeconfig(URL, token="s3cret\ntwo lines"),
        kubeconfig(URL, {"certificate-authority-data": "s3cret"}, token="s3cret"),
        kubeconfig(URL, {"certificate-authority": "/absent"}, token="s3cret"),
        kubeconfig(URL, **{"client-certificate-data": "s3cret", "client-key-data": "s3cret"}),
        kubeconfig(URL, **{"client-certificate-data": "s3cret"}),
        kubeconfig(URL, tokenFile="/absent"),
        kubeconfig(URL, **{"auth-provider": {"name": "azure", "config": {"x": "s3cret"}}}),
        kubeconfig(URL).replace('"u"', '"v"', 1),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_nonsense_is_an_error_that_tells_no_secret(tmp_path, text, from_file):
    source = KubeconfigSource(text=text)
    if from_file:
        source = KubeconfigSource(paths=(written(tmp_path / "config", text),))
    with pytest.raises(ConfigurationError) as caught:
        load_credentials(source)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "s3cret" not in str(chain)
        chain = chain.__cause__


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigurationError, match="/no/such/file does not exist"):
        load_credentials(KubeconfigSource(paths=("/no/such/file",)))


def test_acting_as_another():
    user = {"token": "t", "as": "jane", "as-groups": ["a", "b"], "as-user-extra": {"k": ["v"]}}
    assert load(kubeconfig(URL, **user)).headers == [
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-k", "v"),
    ]


@pytest.mark.parametrize(
    ("server", "environ", "expected"),
    [
        (URL, {}, None),
        (URL, {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        (URL, {"https_proxy": "p:1"}, "http://p:1"),
        (URL, {"HTTP_PROXY": "http://p:1"}, None),
        ("http://a", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://127.0.0.1:6443", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://localhost:6443", {"HTTPS_PROXY": "http://p:1"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x, *.example"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample"}, "http://p:1"),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "cluster.example:6443"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "cluster.example:1"}, "http://p:1"),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("https://10.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://[fd00::1]", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "fd00::/8"}, None),
    ],
)
def test_proxies_of_the_environment(server, environ, expected):
    assert choose_proxy(server, None, environ) == expected
    assert choose_proxy(server, "http://q", environ) == "http://q"


def test_a_proxy_is_shown_without_its_password():
    assert without_password("http://user:secret@proxy:8080/") == "http://proxy:8080/"
