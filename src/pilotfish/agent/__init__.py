"""What runs beside each workload: one Envoy with its keys, its readiness and its capture rules.

`pilotfish-agent` takes the commands of Istio's pilot-agent that injection templates and users call.
"""

from pilotfish.agent.main import main

__all__ = ["main"]
