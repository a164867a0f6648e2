"""The settings of a test cluster's daemons: what they need to run on one machine, and no more."""

import json
from collections.abc import Mapping
from pathlib import Path

NODE = "localhost"


def etcd_arguments(directory: Path, client_port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    flags = {
        "data-dir": directory / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "unsafe-no-fsync": "true",
    }
    return [f"--{flag}={value}" for flag, value in flags.items()]


def api_server_arguments(
    directory: Path, etcd_port: int, port: int, gates: Mapping[str, bool]
) -> list[str]:
    pki = directory / "pki"
    flags: dict[str, object] = {
        "etcd-servers": f"http://127.0.0.1:{etcd_port}",
        "bind-address": "127.0.0.1",
        "secure-port": port,
        "advertise-address": "127.0.0.1",
        "endpoint-reconciler-type": "none",
        "tls-cert-file": pki / "api.crt",
        "tls-private-key-file": pki / "api.key",
        "client-ca-file": pki / "ca.crt",
        "token-auth-file": directory / "tokens.csv",
        "authorization-mode": "RBAC",
        "service-cluster-ip-range": "10.0.0.0/24",
        "allow-privileged": "true",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-signing-key-file": pki / "service-accounts.key",
        "service-account-key-file": pki / "service-accounts.key",
        "kubelet-client-certificate": pki / "admin.crt",
        "kubelet-client-key": pki / "admin.key",
        "kubelet-preferred-address-types": "Hostname",
        # Nobody makes the service account `default` that it would ask for.
        "disable-admission-plugins": "ServiceAccount",
        "v": 2,
    }
    if gates:
        flags["feature-gates"] = ",".join(f"{k}={str(v).lower()}" for k, v in gates.items())
    return [f"--{flag}={value}" for flag, value in flags.items()]


def kubelet_arguments(directory: Path, port: int, kubeconfig: Path) -> list[str]:
    """Write its configuration and return its arguments."""
    resources = "memory.available nodefs.available nodefs.inodesFree imagefs.available "
    resources += "imagefs.inodesFree"
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": port,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "tlsCertFile": str(directory / "pki" / "kubelet.crt"),
        "tlsPrivateKeyFile": str(directory / "pki" / "kubelet.key"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(directory / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{directory}/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "failCgroupV1": False,
        "makeIPTablesUtilChains": False,
        "resolvConf": "",
        # Without it, pods that ask for ephemeral storage are refused, and boxes ask for it.
        "localStorageCapacityIsolation": True,
        "evictionHard": dict.fromkeys(resources.split(), "0%"),
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(directory / "pod-logs"),
        "volumePluginDir": str(directory / "volume-plugins"),
        # With it and without cgroupsPerQOS, kubelet 1.34 panics at a pod that has limits.
        "featureGates": {"InPlacePodVerticalScaling": False},
    }
    path = directory / "kubelet.json"
    path.write_text(json.dumps(config))
    flags = {
        "config": path,
        "kubeconfig": kubeconfig,
        "root-dir": directory / "kubelet",
        "cert-dir": directory / "kubelet" / "pki",
        "hostname-override": NODE,
    }
    return [f"--{flag}={value}" for flag, value in flags.items()]
