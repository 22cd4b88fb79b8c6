"""Pilotfish: a service mesh with Istio's API on stock Envoy, and a cluster for one machine."""

__version__ = "0.1.0"
ISTIO_VERSION = "1.31.0"
"""The Istio release whose API and wire contract we speak. Control planes gate features on it, tools compare it."""
