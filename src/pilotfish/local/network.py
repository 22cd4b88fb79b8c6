"""The addresses of the local cluster. They exist only inside the node's own network namespace, which has no uplink."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

POD_CIDR = IPv4Network("10.244.0.0/16")
SERVICE_CIDR = IPv4Network("10.96.0.0/16")
NODE_IP = IPv4Address("10.244.0.1")
"""The node's own address: pods reach the API server (port 6443), the DNS server and NodePorts here."""
API_PORT = 6443
"""Port of the API server inside the node's network."""
API_SERVICE_IP = IPv4Address("10.96.0.1")
"""ClusterIP of `kubernetes.default`."""
DNS_SERVICE_IP = IPv4Address("10.96.0.10")
"""ClusterIP of `kube-dns.kube-system`, the nameserver in every pod's resolv.conf."""
NODE_PORTS = range(30000, 32768)
CLUSTER_DOMAIN = "cluster.local"
NODE_NAME = "pilotfish"
