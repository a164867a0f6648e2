"""Who gets in, and how: proofs of identity, rights, and the words of a refusal."""

import json
import os
import subprocess

import httpx
import pytest

from tests.cluster import binaries
from tests.cluster.boxes import Box
from tests.cluster.cluster import NAMESPACE, SERVER_NAME, ApiServer, Cluster
from tests.cluster.users import Proof
from tests.node.exec_stream import Refused


def kubectl(kubeconfig: object, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binaries.directory() / "kubectl", "--kubeconfig", str(kubeconfig), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/proc/absent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("proof", ["token", "token-file", "certificate", "exec"])
def test_every_kubeconfig_says_who_one_is(cluster: Cluster, proof: Proof) -> None:
    done = kubectl(cluster.kubeconfig("owner", proof), "auth", "whoami", "-o", "json")
    assert json.loads(done.stdout)["status"]["userInfo"]["username"] == "owner", done.stderr


def test_kubectl_runs_a_command_in_a_box(box: Box, cluster: Cluster) -> None:
    done = kubectl(cluster.kubeconfig(), "exec", box.name, "--", "sh", "-c", "echo $0; exit 5")
    assert (done.stdout, done.returncode) == ("sh\n", 5)


def test_an_exec_plugin_is_run_and_may_fail(cluster: Cluster) -> None:
    plugin = cluster.credential_plugin("stranger")
    kubeconfig = cluster.kubeconfig("stranger", "exec")
    before = plugin.runs
    assert kubectl(kubeconfig, "auth", "whoami").returncode == 0
    assert plugin.runs > before
    plugin.answer(failure="the login has expired")
    done = kubectl(kubeconfig, "auth", "whoami")
    plugin.answer(cluster.tokens["stranger"])
    assert done.returncode != 0
    assert "the login has expired" in done.stderr


def test_nobody_is_401(cluster: Cluster) -> None:
    url = f"{cluster.api.url}/api/v1/namespaces/{NAMESPACE}/pods"
    with httpx.Client(verify=cluster.tls(), trust_env=False) as client:
        anonymous = client.get(url)
        wrong = client.get(url, headers={"authorization": "Bearer wrong"})
    assert (anonymous.status_code, wrong.status_code) == (403, 401)
    assert 'User "system:anonymous" cannot list resource "pods"' in anonymous.json()["message"]
    assert wrong.json()["message"] == "Unauthorized"


def test_a_wrong_token_is_refused_the_upgrade(box: Box, cluster: Cluster) -> None:
    right, cluster.tokens["owner"] = cluster.tokens["owner"], "wrong"
    try:
        with pytest.raises(Refused) as refused:
            box.exec("true")
    finally:
        cluster.tokens["owner"] = right
    assert (refused.value.code, refused.value.status["reason"]) == (401, "Unauthorized")


@pytest.mark.parametrize("user", ["developer", "no-exec", "exec-create", "stranger"])
def test_without_get_on_exec_the_upgrade_is_403(box: Box, any_api: ApiServer, user: str) -> None:
    """`create` alone is no use: the upgrade is a GET."""
    with pytest.raises(Refused) as refused:
        box.exec("true", user=user, api=any_api)
    assert (refused.value.code, refused.value.status["reason"]) == (403, "Forbidden")
    message = refused.value.status["message"]
    assert f'User "{user}" cannot get resource "pods/exec"' in message
    assert NAMESPACE in message


def test_get_on_exec_is_enough_before_1_35(box: Box, any_api: ApiServer) -> None:
    with box.exec("true", user="exec-get", api=any_api) as stream:
        assert stream.rest().exit_code == 0


def test_a_pod_that_is_not_there_is_404_to_those_who_may(box: Box) -> None:
    with pytest.raises(Refused) as refused:
        box.exec("true", pod="no-such-pod")
    assert (refused.value.code, refused.value.status["reason"]) == (404, "NotFound")


@pytest.mark.parametrize(
    ("user", "verbs"),
    [("owner", {"get", "create"}), ("exec-get", {"get"}), ("developer", set())],
)
def test_one_may_ask_what_one_may(cluster: Cluster, user: str, verbs: set[str]) -> None:
    headers = {"authorization": f"Bearer {cluster.tokens[user]}"}
    allowed = set()
    with httpx.Client(verify=cluster.tls(), trust_env=False, headers=headers) as client:
        for verb in ("get", "create"):
            wanted = {"namespace": NAMESPACE, "verb": verb, "resource": "pods"}
            review = {"spec": {"resourceAttributes": {**wanted, "subresource": "exec"}}}
            path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            answer = client.post(f"{cluster.api.url}{path}", json=review)
            if answer.json()["status"]["allowed"]:
                allowed.add(verb)
    assert allowed == verbs


def test_the_certificate_has_a_further_name(cluster: Cluster) -> None:
    settings = {"tls-server-name": SERVER_NAME}
    good = kubectl(cluster.kubeconfig(cluster_settings=settings), "auth", "whoami")
    settings = {"tls-server-name": "other.name"}
    bad = kubectl(cluster.kubeconfig(cluster_settings=settings), "auth", "whoami")
    assert good.returncode == 0
    assert "not other.name" in bad.stderr


def test_a_service_account_has_a_token(cluster: Cluster) -> None:
    headers = {"authorization": f"Bearer {cluster.service_account_token('inside')}"}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    with httpx.Client(verify=cluster.tls(), trust_env=False, headers=headers) as client:
        assert client.get(f"{cluster.api.url}{path}").status_code == 200
