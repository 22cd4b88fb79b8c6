"""The node: pods as processes in network namespaces, their volumes, probes, services and names."""
