"""A pod's names: its host name, /etc/hosts and /etc/resolv.conf. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.network import CLUSTER_DOMAIN, DNS_SERVICE_IP, NODE_NAME

Object = Mapping[str, Any]

_MAX_HOSTNAME = 63


def subdomain(pod: Object) -> str:
    """The pod's domain if it has a `subdomain`, else empty."""
    name = pod["spec"].get("subdomain")
    return f"{name}.{pod['metadata']['namespace']}.svc.{CLUSTER_DOMAIN}" if name else ""


def hostname(pod: Object) -> str:
    """What `hostname` prints in the pod."""
    spec = pod["spec"]
    if spec.get("hostnameOverride"):
        return str(spec["hostnameOverride"])
    if spec.get("hostNetwork"):
        return NODE_NAME
    short = str(spec.get("hostname") or pod["metadata"]["name"])[:_MAX_HOSTNAME].rstrip("-.")
    domain = subdomain(pod)
    return f"{short}.{domain}" if spec.get("setHostnameAsFQDN") and domain else short


def hosts(pod: Object, ip: str) -> str:
    """The text of /etc/hosts."""
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    name = hostname(pod)
    domain = subdomain(pod)
    short = name.partition(".")[0]
    lines.append(f"{ip}\t{short}.{domain}\t{short}" if domain else f"{ip}\t{name}")
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join([alias["ip"], *(alias.get("hostnames") or ())]) for alias in aliases]
    return "\n".join(lines) + "\n"


def resolv_conf(pod: Object) -> str:
    """The text of /etc/resolv.conf by dnsPolicy and dnsConfig. The node itself has no resolver but the cluster's."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    namespace = pod["metadata"]["namespace"]
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    if policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not spec.get("hostNetwork")):
        servers = [str(DNS_SERVICE_IP)]
        searches = [f"{namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN]
        options = {"ndots": "5"}
    elif policy != "None":
        servers = [str(DNS_SERVICE_IP)]
    config = spec.get("dnsConfig") or {}
    servers = list(dict.fromkeys([*servers, *(config.get("nameservers") or ())]))
    searches = list(dict.fromkeys([*searches, *(config.get("searches") or ())]))
    for option in config.get("options") or ():
        options[option["name"]] = str(option.get("value") or "")
    lines = []
    if searches:
        lines.append("search " + " ".join(searches))
    lines += [f"nameserver {server}" for server in servers]
    if options:
        lines.append("options " + " ".join(f"{k}:{v}" if v else k for k, v in options.items()))
    return "\n".join(lines) + "\n"
