from pilotfish.envoy.proxies import TYPES

__all__ = ["TYPES"]
