"""The annotation by which Multus gives a pod further networks."""

from __future__ import annotations

import json


def with_network(present: str, network: str) -> str:
    """A list of Multus networks with one more: JSON stays JSON, a comma list a comma list."""

    if not present:
        return network
    namespace, slash, name = network.rpartition("/")
    if "]" in present:
        try:
            listed = json.loads(present)
        except ValueError:
            return present
        if any(one.get("name") == name and (one.get("namespace") or "") == namespace for one in listed):
            return present
        added = json.dumps({"name": name, **({"namespace": namespace} if slash else {})})
        before, _, after = present.rpartition("]")
        return f"{before}, {added}]{after}"
    return present if network in {one.strip() for one in present.split(",")} else f"{present}, {network}"
