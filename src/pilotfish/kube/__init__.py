"""The Kubernetes API client. Objects are plain JSON dictionaries."""
