"""Kubernetes for one machine: an API server, its controllers and a node that runs pods as processes."""
