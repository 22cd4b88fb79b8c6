"""What admission fills into pods and claims, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from tests.apiserver.builtin import created, make, of, pod, problems, read

from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.types import admission, rbac_bootstrap, scheduling

Object = dict[str, Any]


class Stored:
    """Objects that admission finds."""

    def __init__(self, *objects: Object) -> None:
        self.objects = [make("v1", "ServiceAccount") | {"metadata": {"name": "default", "namespace": "default"}}]
        self.objects += [read(one) for one in objects] + scheduling.objects()

    def list(self, api_version: str, kind: str, namespace: str) -> list[Object]:
        return [
            one
            for one in self.objects
            if (one["apiVersion"], one["kind"]) == (api_version, kind)
            and one["metadata"].get("namespace", "") == namespace
        ]

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        found = (one for one in self.list(api_version, kind, namespace) if one["metadata"]["name"] == name)
        return next(found, None)


def admitted(obj: Object, *stored: Object) -> Object:
    """The object after admission of its creation."""
    obj, lookup = read(obj), Stored(*stored)
    admission.mutate(of(obj), "CREATE", obj, None, lookup)
    admission.validate(of(obj), "CREATE", obj, None, lookup)
    return obj


def refusal(obj: Object, *stored: Object) -> str:
    with pytest.raises(ApiError) as refused:
        admitted(obj, *stored)
    assert refused.value.code == 403
    return refused.value.message


def account(**fields: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}, **fields}


def test_a_pod_gets_the_token_of_its_account() -> None:
    """Every container finds the account's token, the API's certificate and the namespace in the usual place."""
    spec = admitted(pod({"volumeMounts": []}, initContainers=[{"name": "i", "image": "i"}]))["spec"]
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "default"
    (volume,) = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    token, certificate, namespace = volume["projected"]["sources"]
    assert token == {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    assert certificate["configMap"]["name"] == "kube-root-ca.crt"
    assert namespace["downwardAPI"]["items"][0]["path"] == "namespace"
    for container in spec["containers"] + spec["initContainers"]:
        mount = {"name": volume["name"], "readOnly": True, "mountPath": admission.TOKEN_PATH}
        assert container["volumeMounts"] == [mount]


@pytest.mark.parametrize(
    ("spec", "fields"),
    [({"automountServiceAccountToken": False}, {}), ({}, {"automountServiceAccountToken": False})],
)
def test_a_pod_or_account_can_do_without_token(spec: Object, fields: Object) -> None:
    """Neither volume nor mount appear then."""
    made = admitted(pod(serviceAccountName="a", **spec), account(**fields))["spec"]
    assert "volumes" not in made


def test_the_pod_has_the_last_word_about_the_token() -> None:
    """A pod that wants the token gets it, whatever its account says."""
    made = admitted(
        pod(serviceAccountName="a", automountServiceAccountToken=True), account(automountServiceAccountToken=False)
    )
    assert len(made["spec"]["volumes"]) == 1


def test_a_mount_at_the_place_of_the_token_stays() -> None:
    """A container that mounts something else there is left alone."""
    mount = {"name": "v", "mountPath": admission.TOKEN_PATH}
    made = admitted(pod({"volumeMounts": [mount]}, volumes=[{"name": "v"}]))["spec"]
    assert made["containers"][0]["volumeMounts"] == [mount]
    assert len(made["volumes"]) == 1


def test_credentials_of_registries_come_from_the_account() -> None:
    """They count when the pod names none itself."""
    secrets = [{"name": "s"}]
    assert (
        admitted(pod(serviceAccountName="a"), account(imagePullSecrets=secrets))["spec"]["imagePullSecrets"] == secrets
    )
    own = admitted(pod(serviceAccountName="a", imagePullSecrets=[{"name": "t"}]), account(imagePullSecrets=secrets))
    assert own["spec"]["imagePullSecrets"] == [{"name": "t"}]


def test_an_account_that_is_not_there() -> None:
    """The pod is refused, in Kubernetes' words."""
    why = 'error looking up service account default/b: serviceaccount "b" not found'
    assert refusal(pod(serviceAccountName="b")) == f'pods "p" is forbidden: {why}'


def test_priority() -> None:
    """A pod without class has priority 0 unless a class is the default; a class gives its value."""
    spec = admitted(pod())["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (0, "PreemptLowerPriority")
    assert admitted(pod(priorityClassName="system-node-critical"))["spec"]["priority"] == 2_000_001_000
    default = make("scheduling.k8s.io/v1", "PriorityClass", value=7, globalDefault=True, preemptionPolicy="Never")
    spec = admitted(pod(), default)["spec"]
    assert (spec["priority"], spec["priorityClassName"], spec["preemptionPolicy"]) == (7, "x", "Never")


def test_priority_that_is_refused() -> None:
    """Unknown classes and numbers that are not the class's are refused."""
    assert refusal(pod(priorityClassName="b")).endswith("no PriorityClass with name b was found")
    assert "the integer value of priority (5) must not be provided in pod spec" in refusal(pod(priority=5))


def test_one_priority_class_is_the_default() -> None:
    """A second default class is refused."""
    first = make("scheduling.k8s.io/v1", "PriorityClass", value=7, globalDefault=True)
    second = first | {"metadata": {"name": "y"}}
    assert refusal(second, first).endswith("PriorityClass x is already marked as default. Only one default can exist")


def test_pods_tolerate_a_node_that_is_gone_for_a_while() -> None:
    """Both tolerations are added unless the pod says something about these taints itself."""
    keys = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    added = admitted(pod())["spec"]["tolerations"]
    assert [one["key"] for one in added] == keys
    assert {one["tolerationSeconds"] for one in added} == {300}
    own = {"key": keys[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    assert [t["key"] for t in admitted(pod(tolerations=[own]))["spec"]["tolerations"]] == keys
    anything = [{"operator": "Exists"}]
    assert admitted(pod(tolerations=anything))["spec"]["tolerations"] == anything


def limits(**item: Any) -> Object:
    return make("v1", "LimitRange", spec={"limits": [{"type": "Container"} | item]})


def test_limits_fill_in() -> None:
    """Containers get the namespace's defaults where they say nothing, and an annotation says so."""
    found = admitted(
        pod({"resources": {"requests": {"cpu": "10m"}}}),
        limits(default={"cpu": "1", "memory": "1Gi"}, defaultRequest={"cpu": "100m", "memory": "1Mi"}),
    )
    assert found["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "10m", "memory": "1Mi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }
    text = "LimitRanger plugin set: memory request for container app; cpu, memory limit for container app"
    assert found["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == text


@pytest.mark.parametrize(
    ("item", "resources", "why"),
    [
        (
            {"max": {"cpu": "1"}},
            {"limits": {"cpu": "2"}},
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        (
            {"min": {"cpu": "1"}},
            {"requests": {"cpu": "10m"}},
            "minimum cpu usage per Container is 1, but request is 10m",
        ),
        (
            {"type": "Pod", "max": {"cpu": "1"}},
            {},
            "maximum cpu usage per Pod is 1.  No limit is specified",
        ),
        (
            {"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "1"}},
            {"limits": {"cpu": "2"}},
            "maximum cpu usage per Pod is 1, but limit is 2",
        ),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            {"limits": {"cpu": "5"}, "requests": {"cpu": "2"}},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
        ),
        (
            {"min": {"cpu": "1", "memory": "1Gi"}},
            {"limits": {"cpu": "500m", "memory": "1Mi"}},
            "[minimum cpu usage per Container is 1, but request is 500m, "
            "minimum memory usage per Container is 1Gi, but request is 1Mi]",
        ),
    ],
)
def test_limits_refuse(item: Object, resources: Object, why: str) -> None:
    """What is outside the limits is refused with its reason."""
    assert refusal(pod({"resources": resources}), limits(**item)) == f'pods "p" is forbidden: {why}'


def test_limits_of_claims() -> None:
    """A claim that asks for too much is refused."""
    claim = make("v1", "PersistentVolumeClaim", spec={"resources": {"requests": {"storage": "2Gi"}}})
    rule = limits(type="PersistentVolumeClaim", max={"storage": "1Gi"})
    why = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
    assert refusal(claim, rule) == f'persistentvolumeclaims "x" is forbidden: {why}'


def test_default_classes() -> None:
    """Claims and Ingresses that name no class get the newest that is marked as the default."""
    old = make("storage.k8s.io/v1", "StorageClass", provisioner="p")
    mark = {"storageclass.kubernetes.io/is-default-class": "true"}
    old["metadata"] = {"name": "old", "annotations": mark, "creationTimestamp": "2026-01-01T00:00:00Z"}
    new = old | {"metadata": old["metadata"] | {"name": "new", "creationTimestamp": "2026-02-01T00:00:00Z"}}
    claim = make("v1", "PersistentVolumeClaim", spec={})
    assert admitted(claim, new, old)["spec"]["storageClassName"] == "new"
    assert admitted(claim | {"spec": {"storageClassName": ""}}, new)["spec"]["storageClassName"] == ""


def test_runtime_classes() -> None:
    """A pod takes over what its RuntimeClass says about overhead and nodes."""
    assert refusal(pod(runtimeClassName="r")).endswith('pod rejected: RuntimeClass "r" not found')
    found = make(
        "node.k8s.io/v1",
        "RuntimeClass",
        handler="h",
        overhead={"podFixed": {"cpu": "10m"}},
        scheduling={"nodeSelector": {"a": "b"}},
    )
    spec = admitted(pod(runtimeClassName="x"), found)["spec"]
    assert spec["overhead"] == {"cpu": "10m"}
    assert spec["nodeSelector"] == {"a": "b"}
    why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
    assert refusal(pod(overhead={"cpu": "1"})).endswith(why)


def test_an_update_keeps_the_priority() -> None:
    """A client that sends a pod without priority does not take it away."""
    old = admitted(pod())
    new = read(pod())
    admission.mutate(of(new), "UPDATE", new, old, Stored())
    assert new["spec"]["priority"] == 0
    assert new["spec"]["tolerations"] == old["spec"]["tolerations"]


def test_default_roles_are_valid_and_add_up() -> None:
    """Every default object is accepted by the rules of its kind; `admin` includes what `edit` and `view` grant."""
    made = rbac_bootstrap.objects()
    assert [found for one in made if (found := problems(created(one)))] == []
    roles = {one["metadata"]["name"]: one for one in made if one["kind"] == "ClusterRole"}
    for inner, outer in (("view", "edit"), ("edit", "admin")):
        assert all(rule in roles[outer]["rules"] for rule in roles[inner]["rules"])
    assert roles["cluster-admin"]["rules"][0] == {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    subjects = {one["metadata"]["name"]: one.get("subjects") for one in made if one["kind"] == "ClusterRoleBinding"}
    group = {"kind": "Group", "apiGroup": rbac_bootstrap.GROUP}
    assert subjects["cluster-admin"] == [group | {"name": "system:masters"}]
    assert subjects["system:discovery"] == [group | {"name": "system:authenticated"}]
    assert subjects["system:node"] == [group | {"name": "system:nodes"}]
