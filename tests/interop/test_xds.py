"""What proxies are configured with is what Istio's own code makes of the same objects, but for what is listed here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import yaml

from . import world, xds

pytestmark = [pytest.mark.xdist_group("interop-xds")]

GOLDEN = sorted((Path(__file__).parents[1] / "envoy" / "golden").glob("*.in.yaml"))

OTHERWISE = (
    # case, path, and why it is so
    (r"destination-rule", r"outbound\|70\|v1\|.*/typed_extension_protocol_options$", "the same, for TCP"),
    (r"locality", r"inbound\|8080\||destination_port=8080", "ours: a workload's ports come from selectors alone"),
    (r"service-entry", r"selected.test/p0", "the status of a WorkloadEntry is not given to Istio's side"),
    (r".", r"outlier_detection", "ours heeds outlierDetectionHttpErrorCodes, Istio does not yet"),
    (r".", r"/clusters/zipkin$", "ours makes the collector's cluster; Istio has it in the bootstrap"),
    (r".", r"upstream_connect_mode|max_early_data_bytes", "telemetry: whose connection it is"),
    (r".", r"extra_source_addresses|additional_addresses|dns_lookup_family", "ours is dual-stack without a switch"),
    (r".", r"/listeners/fd|/routes/\d+/hosts/\[fd", "ours is dual-stack without a switch"),
    (r".", r"destination_port=53 |/clusters/inbound\|53\|", "a UDP port gets no TCP chains"),
    (r".", r"typed_config/route_config/name$", "a name"),
    (r"gateway", r"server_names=mesh.test/transport_socket", "a gateway's mesh TLS asks for the mesh's trust domain"),
    (r"destination-rule", r"retry_budget", "ours keeps the budget where port levels replace the rest"),
    (r"tls-origination", r"match_typed_subject_alt_names", "an address is asked for in both forms"),
    (r"tcp-and-tls-routes", r"tunneling_config", "ours tunnels by subset"),
    (r"service-entry", r"match_typed_subject_alt_names", "the order of names"),
    (r"credentials|telemetry|tracing", r"/(clusters|endpoints)/outbound\|90\|\|logs", "ours sees a provider of logs"),
    (
        r"sidecar-scope",
        r"/(clusters/inbound\|700[01]|listeners/127.0.0.1:)",
        "a Sidecar's own listeners, see docs/mesh.md",
    ),
    (r"custom-bad-multiple-providers", r"filters$", "two filters that deny, or one"),
    (r"dual-stack|proxy-settings", r"", "settings that Istio's side is not given"),
)


@pytest.fixture(scope="module")
def oracle(programs: Path) -> Iterator[xds.Oracle]:
    made = xds.Oracle(programs)
    yield made
    made.close()


def unexplained(oracle: xds.Oracle, case: xds.Case) -> list[str]:
    """The differences for which there is no line in the list."""
    return [
        f"{case.name} {proxy}{path}: Istio's {str(theirs)[:300]}, ours {str(ours)[:300]}"
        for proxy, path, theirs, ours in xds.compare(oracle, case)
        if not any(re.search(name, case.name) and re.search(where, path) for name, where, _ in OTHERWISE)
    ]


@pytest.mark.parametrize("path", GOLDEN, ids=[p.name.removesuffix(".in.yaml") for p in GOLDEN])
def test_golden_pairs(path: Path, oracle: xds.Oracle) -> None:
    """Our golden inputs come to the same."""
    objects = xds.complete([o for o in yaml.safe_load_all(path.read_text()) if o])
    proxy = next(o for o in objects if o["kind"] == "Proxy")
    assert unexplained(oracle, xds.Case(path.name, objects, {"proxy": proxy})) == []


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("where", ["samples/", "pilot/pkg/security/authz/", "tests/integration/security"])
def test_istios_own_configuration(where: str, part: int, istio_source: Path, oracle: xds.Oracle) -> None:
    """So does the configuration in Istio's samples and tests, over a world of Bookinfo, echoes and gateways."""
    cases = [case for case in world.cases(istio_source) if case[0].startswith(where)]
    found = [
        one
        for name, objects in islice(cases, part, None, 8)
        for one in unexplained(oracle, xds.placed(istio_source, name, objects))
    ]
    assert found == []
