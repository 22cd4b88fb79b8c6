"""The control plane: discovery, certificate authority, injection and validation in one process, as istiod."""

from pilotfish.daemon.main import main

__all__ = ["main"]
