"""The custom resources of Devbox, in the two lineages that clusters in the field serve.

Composed from what the controllers' API says, for an API server without controllers: fields that the
tests look at have their types, defaults and allowed values, the rest is accepted as it is.
"""

from typing import Any, Literal

GROUP = "devbox.sealos.io"
Version = Literal["v1alpha2", "v1alpha1"]

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
STRINGS: Schema = {"type": "array", "items": STRING}
ANY: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
ANYS: Schema = {"type": "array", "items": ANY}
QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {"x-kubernetes-int-or-string": True},
}

# A box that is being committed keeps its desired state: the API server answers 422 to a change.
NOT_WHILE_COMMITTING: Schema = {
    "rule": (
        "!has(oldSelf.status) || !has(oldSelf.status.contentID)"
        " || !has(oldSelf.status.commitRecords)"
        " || !(oldSelf.status.contentID in oldSelf.status.commitRecords)"
        " || oldSelf.status.commitRecords[oldSelf.status.contentID].commitStatus != 'Committing'"
        " || self.spec.state == oldSelf.spec.state"
    ),
    "message": "cannot change spec.state while a commit is in progress",
}


def custom_resources(version: Version) -> list[dict[str, Any]]:
    """The definitions of a cluster that serves this version and no other."""
    devbox = _devbox_v1alpha2() if version == "v1alpha2" else _devbox_v1alpha1()
    release = _release("version" if version == "v1alpha2" else "newTag")
    return [
        _definition("devboxes", "Devbox", version, devbox),
        _definition("devboxreleases", "DevBoxRelease", version, release),
    ]


def _definition(plural: str, kind: str, version: Version, schema: Schema) -> dict[str, Any]:
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _choice(*values: str, default: str = "") -> Schema:
    return {**STRING, "enum": list(values), **({"default": default} if default else {})}


def _config() -> Schema:
    release = ["/home/devbox/project/entrypoint.sh"]
    return {
        **_object(
            [],
            user={**STRING, "default": "devbox"},
            workingDir={**STRING, "default": "/home/devbox/project"},
            command=STRINGS,
            args=STRINGS,
            releaseCommand={**STRINGS, "default": ["/bin/bash", "-c"]},
            releaseArgs={**STRINGS, "default": release},
            env=ANYS,
            ports=ANYS,
            appPorts=ANYS,
            labels={"type": "object", "additionalProperties": STRING},
            annotations={"type": "object", "additionalProperties": STRING},
            volumes=ANYS,
            volumeMounts=ANYS,
        ),
        "default": {},
    }


def _spec(states: list[str], networks: list[str], **more: Schema) -> Schema:
    return _object(
        ["resource", "image", "templateID", "network"],
        state=_choice(*states, default="Running"),
        resource=QUANTITIES,
        image=STRING,
        templateID=STRING,
        config=_config(),
        network=_object(["type"], type=_choice(*networks), extraPorts=ANYS),
        runtimeClassName=STRING,
        nodeSelector={"type": "object", "additionalProperties": STRING},
        tolerations=ANYS,
        affinity=ANY,
        **more,
    )


def _devbox_v1alpha2() -> Schema:
    record = _object(
        [],
        baseImage=STRING,
        commitImage=STRING,
        node=STRING,
        generateTime=STRING,
        scheduleTime=STRING,
        updateTime=STRING,
        commitTime=STRING,
        commitStatus=_choice("Success", "Failed", "Pending", "Committing"),
    )
    record["required"] = ["commitStatus"]
    status = _object(
        [],
        observedGeneration={"type": "integer"},
        conditions=ANYS,
        contentID=STRING,
        node=STRING,
        state=STRING,
        phase=STRING,
        network=ANY,
        commitRecords={"type": "object", "additionalProperties": record},
        lastContainerStatus=ANY,
    )
    states = ["Running", "Paused", "Stopped", "Shutdown"]
    spec = _spec(states, ["NodePort", "Tailnet", "SSHGate"], storageLimit=STRING)
    schema = _object([], spec=spec, status=status)
    return {**schema, "x-kubernetes-validations": [NOT_WHILE_COMMITTING]}


def _devbox_v1alpha1() -> Schema:
    status = _object([], phase=STRING, state=ANY, lastState=ANY, commitHistory=ANYS, network=ANY)
    states = ["Running", "Stopped", "Shutdown"]
    spec = _spec(states, ["NodePort", "Tailnet"], squash={"type": "boolean"})
    return _object([], spec=spec, status=status)


def _release(tag: str) -> Schema:
    spec = _object(
        ["devboxName", tag],
        devboxName=STRING,
        notes=STRING,
        startDevboxAfterRelease={"type": "boolean", "default": False},
        **{tag: STRING},
    )
    status = _object(
        [],
        phase=STRING,
        originalDevboxState=STRING,
        originalImage=STRING,
        sourceImage=STRING,
        targetImage=STRING,
    )
    return _object([], spec=spec, status=status)
