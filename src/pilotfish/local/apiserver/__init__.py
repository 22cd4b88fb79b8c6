"""A Kubernetes API server on SQLite."""
