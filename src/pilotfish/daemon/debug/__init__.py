"""The debug pages of the control plane, by Istio's names: over HTTP (`/debug/NAME`) and over xDS (`istio.io/debug`)."""

from pilotfish.daemon.debug.pages import Debug

__all__ = ["Debug"]
