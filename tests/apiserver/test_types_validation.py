"""What is refused, with the field and the reason that Kubernetes gives, kind by kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.apiserver.builtin import created, make, of, pod, problems, read, template, updated, workload

Problems = list[tuple[str, str]]
C = "spec.containers[0]"


def env(**variable: Any) -> dict[str, Any]:
    return pod({"env": [{"name": "A"} | variable]})


def volume(**source: Any) -> dict[str, Any]:
    return pod(volumes=[{"name": "v"} | source])


def service(*ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return make("v1", "Service", spec={"ports": list(ports) or [{"port": 80}]} | spec)


def job(**spec: Any) -> dict[str, Any]:
    return make("batch/v1", "Job", spec={"template": template(restartPolicy="Never")} | spec)


def ingress(**spec: Any) -> dict[str, Any]:
    return make("networking.k8s.io/v1", "Ingress", spec=spec)


def path(text: str, kind: str = "Prefix", **backend: Any) -> dict[str, Any]:
    backend = backend or {"service": {"name": "s", "port": {"number": 80}}}
    return {"http": {"paths": [{"path": text, "pathType": kind, "backend": backend}]}}


def scaler(**spec: Any) -> dict[str, Any]:
    target = {"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "maxReplicas": 3}
    return make("autoscaling/v2", "HorizontalPodAutoscaler", spec=target | spec)


def affinity(**kinds: Any) -> dict[str, Any]:
    return pod(affinity=kinds)


def webhook(**fields: Any) -> dict[str, Any]:
    hook = {
        "name": "a.b.c",
        "clientConfig": {"url": "https://a/b"},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [],
    }
    return make("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", webhooks=[hook | fields])


CASES: list[tuple[str, dict[str, Any], Problems]] = [
    # The containers of pods
    ("no containers", pod(containers=[]), [("Required", "spec.containers")]),
    ("no image", pod({"image": ""}), [("Required", f"{C}.image")]),
    ("space around an image", pod({"image": " a"}), [("Invalid", f"{C}.image")]),
    ("no name", pod({"name": ""}), [("Required", f"{C}.name")]),
    ("a bad name", pod({"name": "A_b"}), [("Invalid", f"{C}.name")]),
    (
        "a name twice",
        pod(containers=[{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]),
        [("Duplicate", "spec.containers[1].name")],
    ),
    (
        "an init container of the same name",
        pod(initContainers=[{"name": "app", "image": "i"}]),
        [("Duplicate", "spec.initContainers[0].name")],
    ),
    (
        "a bad pull policy",
        pod({"imagePullPolicy": "Sometimes"}),
        [("NotSupported", f"{C}.imagePullPolicy")],
    ),
    (
        "a bad message policy",
        pod({"terminationMessagePolicy": "No"}),
        [("NotSupported", f"{C}.terminationMessagePolicy")],
    ),
    ("port 0", pod({"ports": [{"containerPort": 0}]}), [("Required", f"{C}.ports[0].containerPort")]),
    ("port 65536", pod({"ports": [{"containerPort": 65536}]}), [("Invalid", f"{C}.ports[0].containerPort")]),
    (
        "a port name that is too long",
        pod({"ports": [{"containerPort": 1, "name": "a" * 16}]}),
        [("Invalid", f"{C}.ports[0].name")],
    ),
    (
        "a port name of digits",
        pod({"ports": [{"containerPort": 1, "name": "123"}]}),
        [("Invalid", f"{C}.ports[0].name")],
    ),
    (
        "a port name twice",
        pod({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
        [("Duplicate", f"{C}.ports[1].name")],
    ),
    (
        "an unknown protocol",
        pod({"ports": [{"containerPort": 1, "protocol": "HTTP"}]}),
        [("NotSupported", f"{C}.ports[0].protocol")],
    ),
    (
        "a host port twice",
        pod({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}),
        [("Duplicate", f"{C}.ports[1].hostPort")],
    ),
    (
        "another host port in the host's network",
        pod({"ports": [{"containerPort": 1, "hostPort": 2}]}, hostNetwork=True),
        [("Invalid", f"{C}.ports[0].hostPort")],
    ),
    ("env without name", env(name=""), [("Required", f"{C}.env[0].name")]),
    ("env with =", env(name="a=b"), [("Invalid", f"{C}.env[0].name")]),
    ("env from nothing", env(valueFrom={}), [("Invalid", f"{C}.env[0].valueFrom")]),
    (
        "env with a value and a source",
        env(value="a", valueFrom={"fieldRef": {"fieldPath": "metadata.name"}}),
        [("Invalid", f"{C}.env[0].valueFrom")],
    ),
    (
        "env from two sources",
        env(
            valueFrom={
                "fieldRef": {"fieldPath": "metadata.name"},
                "configMapKeyRef": {"name": "c", "key": "k"},
            }
        ),
        [("Invalid", f"{C}.env[0].valueFrom")],
    ),
    (
        "env from a field that is not there",
        env(valueFrom={"fieldRef": {"fieldPath": "spec.containers"}}),
        [("Invalid", f"{C}.env[0].valueFrom.fieldRef.fieldPath")],
    ),
    (
        "env from a resource that is not there",
        env(valueFrom={"resourceFieldRef": {"resource": "limits.disk"}}),
        [("NotSupported", f"{C}.env[0].valueFrom.resourceFieldRef.resource")],
    ),
    (
        "a request above its limit",
        pod({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
        [("Invalid", f"{C}.resources.requests")],
    ),
    (
        "a negative amount",
        pod({"resources": {"requests": {"cpu": "-1"}}}),
        [("Invalid", f"{C}.resources.requests[cpu]")],
    ),
    (
        "an unknown resource",
        pod({"resources": {"requests": {"disk": "1"}}}),
        [
            ("Invalid", f"{C}.resources.requests[disk]"),
            ("Invalid", f"{C}.resources.requests[disk]"),
        ],
    ),
    (
        "a mount of no volume",
        pod({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}),
        [("NotFound", f"{C}.volumeMounts[0].name")],
    ),
    (
        "a path mounted twice",
        pod(
            {"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]},
            volumes=[{"name": "v"}],
        ),
        [("Invalid", f"{C}.volumeMounts[1].mountPath")],
    ),
    (
        "steps back in a sub path",
        pod({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../b"}]}, volumes=[{"name": "v"}]),
        [("Invalid", f"{C}.volumeMounts.subPath")],
    ),
    ("a probe without action", pod({"livenessProbe": {}}), [("Required", f"{C}.livenessProbe")]),
    (
        "a probe with two actions",
        pod({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}),
        [("Forbidden", f"{C}.livenessProbe.tcpSocket")],
    ),
    (
        "a liveness probe that must succeed twice",
        pod({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}),
        [("Invalid", f"{C}.livenessProbe.successThreshold")],
    ),
    (
        "a readiness probe with a grace period",
        pod({"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 2}}),
        [("Invalid", f"{C}.readinessProbe.terminationGracePeriodSeconds")],
    ),
    (
        "a probe of a bad port",
        pod({"livenessProbe": {"httpGet": {"port": 0}}}),
        [("Invalid", f"{C}.livenessProbe.httpGet.port")],
    ),
    (
        "an init container with a readiness probe",
        pod(initContainers=[{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]),
        [("Forbidden", "spec.initContainers[0].readinessProbe")],
    ),
    (
        "a sidecar may have one",
        pod(
            initContainers=[
                {
                    "name": "i",
                    "image": "i",
                    "restartPolicy": "Always",
                    "readinessProbe": {"tcpSocket": {"port": 1}},
                }
            ]
        ),
        [],
    ),
    (
        "a privileged container without escalation",
        pod({"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}}),
        [("Invalid", f"{C}.securityContext")],
    ),
    (
        "a negative user",
        pod({"securityContext": {"runAsUser": -1}}),
        [("Invalid", f"{C}.securityContext.runAsUser")],
    ),
    (
        "ephemeral containers of a new pod",
        pod(ephemeralContainers=[{"name": "e", "image": "i"}]),
        [("Forbidden", "spec.ephemeralContainers")],
    ),
    # Pods: the rest of the spec
    ("an unknown restart policy", pod(restartPolicy="Maybe"), [("NotSupported", "spec.restartPolicy")]),
    ("an unknown DNS policy", pod(dnsPolicy="Mine"), [("NotSupported", "spec.dnsPolicy")]),
    ("no DNS at all", pod(dnsPolicy="None"), [("Required", "spec.dnsConfig")]),
    ("a deadline of 0", pod(activeDeadlineSeconds=0), [("Invalid", "spec.activeDeadlineSeconds")]),
    ("a bad node selector", pod(nodeSelector={"a b": "c"}), [("Invalid", "spec.nodeSelector")]),
    ("a bad account", pod(serviceAccountName="A"), [("Invalid", "spec.serviceAccountName")]),
    ("a bad host name", pod(hostname="a.b"), [("Invalid", "spec.hostname")]),
    ("a bad node", pod(nodeName="A"), [("Invalid", "spec.nodeName")]),
    (
        "processes shared and the host's",
        pod(hostPID=True, shareProcessNamespace=True),
        [("Invalid", "spec.securityContext.shareProcessNamespace")],
    ),
    (
        "a toleration of a value of any",
        pod(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
        [("Invalid", "spec.tolerations[0].operator")],
    ),
    (
        "a toleration of no key",
        pod(tolerations=[{"value": "b"}]),
        [("Invalid", "spec.tolerations[0].operator")],
    ),
    (
        "a toleration for a while of the wrong effect",
        pod(tolerations=[{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1}]),
        [("Invalid", "spec.tolerations[0].effect")],
    ),
    (
        "spreading by nothing",
        pod(topologySpreadConstraints=[{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "X"}]),
        [
            ("Invalid", "spec.topologySpreadConstraints[0].maxSkew"),
            ("Required", "spec.topologySpreadConstraints[0].topologyKey"),
            ("NotSupported", "spec.topologySpreadConstraints[0].whenUnsatisfiable"),
        ],
    ),
    (
        "node affinity without terms",
        affinity(nodeAffinity={"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}),
        [
            (
                "Required",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            )
        ],
    ),
    (
        "pod affinity without topology",
        affinity(podAffinity={"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}),
        [
            (reason, "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey")
            for reason in ("Required", "Invalid", "Invalid")
        ],
    ),
    (
        "a weight of 0",
        affinity(
            podAntiAffinity={
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 0, "podAffinityTerm": {"topologyKey": "a"}}
                ]
            }
        ),
        [
            (
                "Invalid",
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight",
            )
        ],
    ),
    # Volumes
    ("a bad volume name", pod(volumes=[{"name": "A"}]), [("Invalid", "spec.volumes[0].name")]),
    (
        "a volume twice",
        pod(volumes=[{"name": "a"}, {"name": "a"}]),
        [("Duplicate", "spec.volumes[1].name")],
    ),
    (
        "two sources",
        volume(emptyDir={}, hostPath={"path": "/a"}),
        [("Forbidden", "spec.volumes[0].hostPath")],
    ),
    ("a ConfigMap without name", volume(configMap={}), [("Required", "spec.volumes[0].configMap.name")]),
    ("a Secret without name", volume(secret={}), [("Required", "spec.volumes[0].secret.secretName")]),
    (
        "a mode that is too large",
        volume(secret={"secretName": "s", "defaultMode": 512}),
        [("Invalid", "spec.volumes[0].secret.defaultMode")],
    ),
    ("a path of the host with ..", volume(hostPath={"path": "/a/.."}), [("Invalid", "spec.volumes[0].hostPath.path")]),
    (
        "a claim without name",
        volume(persistentVolumeClaim={"claimName": ""}),
        [("Required", "spec.volumes[0].persistentVolumeClaim.claimName")],
    ),
    # Services
    ("no ports", service(ports=[]), [("Required", "spec.ports")]),
    ("no ports, headless", service(ports=[], clusterIP="None", clusterIPs=["None"]), []),
    (
        "ports without names",
        service({"port": 80}, {"port": 81}),
        [("Required", "spec.ports[0].name"), ("Required", "spec.ports[1].name")],
    ),
    (
        "a name twice",
        service({"port": 80, "name": "a"}, {"port": 81, "name": "a"}),
        [("Duplicate", "spec.ports[1].name")],
    ),
    (
        "a port twice",
        service({"port": 80, "name": "a"}, {"port": 80, "name": "b"}),
        [("Duplicate", "spec.ports[1]")],
    ),
    ("port 0", service({"port": 0}), [("Invalid", "spec.ports[0].port"), ("Invalid", "spec.ports[0].targetPort")]),
    ("an unknown type", service(type="Mine"), [("NotSupported", "spec.type")]),
    ("a node port within", service({"port": 80, "nodePort": 30000}), [("Forbidden", "spec.ports[0].nodePort")]),
    ("a bad address", service(clusterIP="1.2.3", clusterIPs=["1.2.3"]), [("Invalid", "spec.clusterIPs[0]")]),
    ("an unknown affinity", service(sessionAffinity="Mine"), [("NotSupported", "spec.sessionAffinity")]),
    (
        "a bad target",
        service({"port": 80, "targetPort": "not a name"}),
        [("Invalid", "spec.ports[0].targetPort")],
    ),
    ("no name outside", make("v1", "Service", spec={"type": "ExternalName"}), [("Required", "spec.externalName")]),
    ("a bad selector", service(selector={"a b": "c"}), [("Invalid", "spec.selector")]),
    # Data
    ("a bad key", make("v1", "ConfigMap", data={"a/b": "c"}), [("Invalid", "data[a/b]")]),
    (
        "a key twice",
        make("v1", "ConfigMap", data={"a": "b"}, binaryData={"a": "eA=="}),
        [("Invalid", "data[a]")],
    ),
    (
        "TLS without keys",
        make("v1", "Secret", type="kubernetes.io/tls"),
        [("Required", "data[tls.crt]"), ("Required", "data[tls.key]")],
    ),
    (
        "registries that are no JSON",
        make("v1", "Secret", type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": "eA=="}),
        [("Invalid", "data[.dockerconfigjson]")],
    ),
    (
        "limits upside down",
        make("v1", "LimitRange", spec={"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}),
        [("Invalid", f"spec.limits[0].{field}[cpu]") for field in ("min", "defaultRequest", "default")],
    ),
    # Workloads
    (
        "a selector of other labels",
        workload("Deployment", selector={"matchLabels": {"app": "y"}}),
        [("Invalid", "spec.template.metadata.labels")],
    ),
    (
        "no selector",
        workload("Deployment", selector={}),
        [("Invalid", "spec.selector")],
    ),
    ("negative replicas", workload("Deployment", replicas=-1), [("Invalid", "spec.replicas")]),
    (
        "neither more nor fewer",
        workload(
            "Deployment",
            strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
        ),
        [("Invalid", "spec.strategy.rollingUpdate.maxUnavailable")],
    ),
    (
        "numbers of a rollout that is none",
        workload("Deployment", strategy={"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
        [("Forbidden", "spec.strategy.rollingUpdate")],
    ),
    (
        "more than all",
        workload("Deployment", strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "101%"}}),
        [("Invalid", "spec.strategy.rollingUpdate.maxUnavailable")],
    ),
    (
        "pods that end",
        workload("Deployment", template=template(restartPolicy="Never")),
        [("NotSupported", "spec.template.spec.restartPolicy")],
    ),
    (
        "a deadline before pods are available",
        workload("Deployment", minReadySeconds=10, progressDeadlineSeconds=5),
        [("Invalid", "spec.progressDeadlineSeconds")],
    ),
    (
        "an unknown order",
        workload("StatefulSet", podManagementPolicy="Mine"),
        [("Invalid", "spec.podManagementPolicy")],
    ),
    (
        "an unknown strategy",
        workload("DaemonSet", updateStrategy={"type": "Mine"}),
        [("NotSupported", "spec.updateStrategy")],
    ),
    (
        "a job of pods that never end",
        job(template=template()),
        [("Required", "spec.template.spec.restartPolicy")],
    ),
    ("a job with negative numbers", job(backoffLimit=-1), [("Invalid", "spec.backoffLimit")]),
    ("an indexed job without number", job(completionMode="Indexed", parallelism=2), [("Required", "spec.completions")]),
    (
        "a bad schedule",
        make("batch/v1", "CronJob", spec={"schedule": "* *", "jobTemplate": {"spec": job()["spec"]}}),
        [("Invalid", "spec.schedule")],
    ),
    (
        "a bad time zone",
        make(
            "batch/v1",
            "CronJob",
            spec={"schedule": "* * * * *", "timeZone": "Nowhere", "jobTemplate": {"spec": job()["spec"]}},
        ),
        [("Invalid", "spec.timeZone")],
    ),
    ("fewer than one", scaler(minReplicas=0), [("Invalid", "spec.minReplicas")]),
    ("more at least than at most", scaler(minReplicas=4), [("Invalid", "spec.maxReplicas")]),
    (
        "a metric without target",
        scaler(metrics=[{"type": "Resource"}]),
        [("Required", "spec.metrics[0].resource")],
    ),
    (
        "both bounds",
        make(
            "policy/v1",
            "PodDisruptionBudget",
            spec={"minAvailable": 1, "maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}},
        ),
        [("Invalid", "spec")],
    ),
    # Networking
    ("an empty ingress", ingress(), [("Invalid", "spec")]),
    ("a relative path", ingress(rules=[path("a")]), [("Invalid", "spec.rules[0].http.paths[0].path")]),
    (
        "an unknown kind of path",
        ingress(rules=[path("/", "Mine")]),
        [("NotSupported", "spec.rules[0].http.paths[0].pathType")],
    ),
    ("a host that is an address", ingress(rules=[{"host": "1.2.3.4"}]), [("Invalid", "spec.rules[0].host")]),
    (
        "a service without port",
        ingress(rules=[path("/", service={"name": "s"})]),
        [("Required", "spec.rules[0].http.paths[0].backend")],
    ),
    (
        "a bad network",
        make(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            spec={"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "1.2.3.4"}}]}]},
        ),
        [("Invalid", "spec.ingress[0].from[0].ipBlock.cidr")],
    ),
    (
        "an exception outside",
        make(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            spec={
                "podSelector": {},
                "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.1.0.0/24"]}}]}],
            },
        ),
        [("Invalid", "spec.ingress[0].from[0].ipBlock.except[0]")],
    ),
    (
        "a peer that is nobody",
        make(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            spec={"podSelector": {}, "ingress": [{"from": [{}]}]},
        ),
        [("Required", "spec.ingress[0].from[0]")],
    ),
    (
        "an address of another family",
        make(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            addressType="IPv4",
            endpoints=[{"addresses": ["2001:db8::1"]}],
            ports=[],
        ),
        [("Invalid", "endpoints[0].addresses")],
    ),
    # Rights and webhooks
    (
        "a rule without verbs",
        make("rbac.authorization.k8s.io/v1", "Role", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": []}]),
        [("Required", "rules[0].verbs")],
    ),
    (
        "addresses within a namespace",
        make("rbac.authorization.k8s.io/v1", "Role", rules=[{"nonResourceURLs": ["/a"], "verbs": ["get"]}]),
        [("Invalid", "rules[0].nonResourceURLs")],
    ),
    (
        "an account without namespace",
        make(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "a"},
            subjects=[{"kind": "ServiceAccount", "name": "s"}],
        ),
        [("Required", "subjects[0].namespace")],
    ),
    ("a short name of a webhook", webhook(name="a"), [("Invalid", "webhooks[0].name")]),
    (
        "no way to a webhook",
        webhook(clientConfig={}),
        [("Required", "webhooks[0].clientConfig")],
    ),
    ("a webhook over HTTP", webhook(clientConfig={"url": "http://a/b"}), [("Invalid", "webhooks[0].clientConfig.url")]),
    (
        "conditions that are none",
        webhook(
            matchConditions=[
                {"name": "a", "expression": "request.name == 'a'"},
                {"name": "b", "expression": "1"},
                {"name": "b", "expression": "a b"},
            ]
        ),
        [
            ("Invalid", "webhooks[0].matchConditions[1].expression"),
            ("Invalid", "webhooks[0].matchConditions[2].expression"),
            ("Duplicate", "webhooks[0].matchConditions[2].name"),
        ],
    ),
    (
        "zones of no value",
        make(
            "storage.k8s.io/v1",
            "StorageClass",
            provisioner="p",
            allowedTopologies=[{"matchLabelExpressions": [{"key": "a b", "values": []}]}],
        ),
        [
            ("Required", "allowedTopologies[0].matchLabelExpressions[0].values"),
            ("Invalid", "allowedTopologies[0].matchLabelExpressions[0].key"),
        ],
    ),
    ("side effects", webhook(sideEffects="Some"), [("NotSupported", "webhooks[0].sideEffects")]),
    ("a patient webhook", webhook(timeoutSeconds=31), [("Invalid", "webhooks[0].timeoutSeconds")]),
    (
        "no versions",
        webhook(admissionReviewVersions=[]),
        [("Required", "webhooks[0].admissionReviewVersions")],
    ),
]


@pytest.mark.parametrize(("given", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refusals(given: dict[str, Any], expected: Problems) -> None:
    """A new object is refused with exactly these reasons at these fields."""
    assert problems(created(given)) == expected


POD_CHANGES: list[tuple[str, dict[str, Any], Problems]] = [
    ("image", {"containers": [{"name": "app", "image": "other:2"}]}, []),
    ("tolerations added", {"tolerations": [{"key": "a", "operator": "Exists"}]}, []),
    ("a shorter deadline", {"activeDeadlineSeconds": 5}, []),
    ("command", {"containers": [{"name": "app", "image": "nginx:1", "command": ["a"]}]}, [("Forbidden", "spec")]),
    ("restart policy", {"restartPolicy": "Never"}, [("Forbidden", "spec")]),
    ("node", {"nodeName": "n"}, [("Forbidden", "spec")]),
    (
        "another container",
        {"containers": [{"name": "app", "image": "a"}, {"name": "b", "image": "a"}]},
        [("Forbidden", "spec.containers")],
    ),
]


@pytest.mark.parametrize(("change", "expected"), [c[1:] for c in POD_CHANGES], ids=[c[0] for c in POD_CHANGES])
def test_what_can_change_in_a_pod(change: dict[str, Any], expected: Problems) -> None:
    """Of a pod's spec only images, the deadline (shorter), tolerations (more) and few more can change."""
    old = created(pod())
    assert problems(updated(old, **change), old) == expected


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any], Problems]] = [
    (
        "selector of a Deployment",
        workload("Deployment"),
        {"selector": {"matchLabels": {"app": "x", "b": "c"}}},
        [("Invalid", "spec.template.metadata.labels"), ("Invalid", "spec.selector")],
    ),
    ("replicas of a StatefulSet", workload("StatefulSet", serviceName="s"), {"replicas": 3}, []),
    (
        "service of a StatefulSet",
        workload("StatefulSet", serviceName="s"),
        {"serviceName": "t"},
        [("Forbidden", "spec")],
    ),
    ("completions of a Job", job(), {"completions": 3}, [("Invalid", "spec.completions")]),
    ("parallelism of a Job", job(), {"parallelism": 3}, []),
]


@pytest.mark.parametrize(("given", "change", "expected"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_what_can_change(given: dict[str, Any], change: dict[str, Any], expected: Problems) -> None:
    """A change of a field that cannot change is refused there."""
    old = created(given)
    assert problems(updated(old, **change), old) == expected


@pytest.mark.parametrize(
    ("given", "field", "new"),
    [
        (make("v1", "ConfigMap", data={"a": "b"}, immutable=True), "data", {"a": "c"}),
        (make("v1", "ConfigMap", immutable=True), "immutable", False),
        (make("v1", "Secret", data={"a": "eA=="}, immutable=True), "data", {"a": "eQ=="}),
    ],
)
def test_immutable_data_cannot_change(given: dict[str, Any], field: str, new: Any) -> None:
    """ConfigMaps and Secrets that are marked immutable stay as they are, the mark included."""
    old = created(given)
    changed = copy.deepcopy(old) | {field: new}
    assert problems(read(changed), old) == [("Forbidden", field)]


def test_the_type_of_a_secret_cannot_change() -> None:
    """Whoever reads a Secret can rely on its type."""
    old = created(make("v1", "Secret"))
    assert problems(read(copy.deepcopy(old) | {"type": "other"}), old) == [("Invalid", "type")]


def test_a_role_that_is_bound_cannot_be_exchanged() -> None:
    """The roleRef of a binding cannot change."""
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "a"}
    old = created(make("rbac.authorization.k8s.io/v1", "RoleBinding", roleRef=ref))
    new = read(copy.deepcopy(old) | {"roleRef": ref | {"name": "b"}})
    assert problems(new, old) == [("Invalid", "roleRef")]


def test_the_template_of_a_job_cannot_change() -> None:
    """The pods of a Job that runs stay what they are."""
    old = created(job())
    new = copy.deepcopy(old)
    new["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    assert problems(read(new), old) == [("Invalid", "spec.template")]


NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"


def true(*kinds: str) -> list[dict[str, str]]:
    return [{"type": kind, "status": "True", "reason": "R", "lastTransitionTime": NOW} for kind in kinds]


ENDED = {"startTime": NOW, "completionTime": LATER, "conditions": true("SuccessCriteriaMet", "Complete")}
STATUSES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], Problems]] = [
    ("a job ends", job(), {}, ENDED, []),
    (
        "a job ends without a word",
        job(),
        {},
        {"conditions": true("Complete")},
        [("Invalid", "status.conditions"), ("Required", "status.completionTime"), ("Required", "status.startTime")],
    ),
    ("a job ends twice", job(), ENDED, ENDED | {"completionTime": NOW}, [("Invalid", "status.completionTime")]),
    ("a job goes on", job(), ENDED, {"startTime": NOW}, [("Invalid", "status.conditions")] * 2),
    ("pods of a job come back", job(), {"failed": 2}, {"failed": 1}, [("Invalid", "status.failed")]),
    ("pods of an ended job", job(), {}, ENDED | {"active": 1}, [("Invalid", "status.active")]),
    ("another start", job(), {"startTime": NOW}, {"startTime": LATER}, [("Invalid", "status.startTime")]),
    ("a negative number", workload("DaemonSet"), {}, {"numberReady": -1}, [("Invalid", "status.numberReady")]),
    (
        "parts beyond the whole",
        workload("ReplicaSet"),
        {},
        {"replicas": 1, "readyReplicas": 2},
        [("Invalid", "status.readyReplicas")],
    ),
    (
        "a condition without reason",
        make("policy/v1", "PodDisruptionBudget", spec={"minAvailable": 1}),
        {},
        {"conditions": [{"type": "A", "status": "Perhaps"}]},
        [
            ("NotSupported", "status.conditions[0].status"),
            ("Required", "status.conditions[0].lastTransitionTime"),
            ("Required", "status.conditions[0].reason"),
        ],
    ),
    (
        "less than nothing",
        make("v1", "PersistentVolumeClaim", spec={}),
        {},
        {"phase": "Bound", "capacity": {"storage": "-1"}},
        [("Invalid", "status.capacity[storage]")],
    ),
]


@pytest.mark.parametrize(("given", "was", "now", "expected"), [c[1:] for c in STATUSES], ids=[c[0] for c in STATUSES])
def test_what_a_status_may_say(
    given: dict[str, Any], was: dict[str, Any], now: dict[str, Any], expected: Problems
) -> None:
    """A status update is refused when it contradicts itself or what the status was."""
    obj = created(given)
    old, new = (copy.deepcopy(obj) | {"status": status} for status in (was, now))
    found = of(obj).strategy.validate_status_update(new, old)
    reasons = [(error.reason.value.removeprefix("FieldValue"), error.path) for error in found]
    assert sorted(reasons) == sorted(expected)
