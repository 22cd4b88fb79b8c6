"""Pods, and the templates they are made from."""

from __future__ import annotations

from pilotfish.local.apiserver.resource import Subresource
from pilotfish.local.apiserver.types.declare import PROXY_VERBS, READ_WRITE, asked, resource

FIELD_LABELS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
)

RESOURCES = (
    resource(
        "v1",
        "Pod",
        "pods",
        Subresource("attach", "PodAttachOptions", ("create", "get")),
        Subresource("binding", "Binding", ("create",)),
        Subresource("ephemeralcontainers", "Pod", READ_WRITE),
        Subresource("eviction", "Eviction", ("create",), "policy", "v1"),
        Subresource("exec", "PodExecOptions", ("create", "get")),
        Subresource("log", "Pod", ("get",)),
        Subresource("portforward", "PodPortForwardOptions", ("create", "get")),
        Subresource("proxy", "PodProxyOptions", PROXY_VERBS),
        Subresource("resize", "Pod", READ_WRITE),
        short="po",
        all_category=True,
        status=True,
        has_generation=True,
        field_labels=FIELD_LABELS,
    ),
    resource("v1", "PodTemplate", "podtemplates", has_generation=True),
    asked("v1", "Binding", "bindings", namespaced=True),
)
