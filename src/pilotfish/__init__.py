"""Pilotfish: a service mesh with Istio's API on stock Envoy, and a cluster for one machine."""

__version__ = "0.1.0"
