"""The mesh's configuration: defaults, overlays and merges are Istio's."""

from __future__ import annotations

import pytest

from pilotfish import api
from pilotfish.api.mesh import OutboundMode, ProxyConfig, decode_mesh_config, decode_mesh_networks, decode_proxy_config
from pilotfish.api.meta import Duration
from pilotfish.api.validation import validate_mesh


def test_defaults() -> None:
    """An empty configuration is Istio's default one."""
    mesh, unknown = decode_mesh_config("")
    assert unknown == ()
    assert mesh.outbound_traffic_policy.mode is OutboundMode.ALLOW_ANY
    assert (mesh.trust_domain, mesh.root_namespace, mesh.enable_auto_mtls) == ("cluster.local", "istio-system", True)
    assert mesh.connect_timeout == Duration.parse("10s")
    assert [provider.name for provider in mesh.extension_providers] == ["prometheus", "stackdriver", "envoy"]


def test_fields_replace_as_a_whole_but_default_config_is_merged() -> None:
    """`outboundTrafficPolicy: {}` is REGISTRY_ONLY (its zero value); `defaultConfig` keeps its other defaults."""
    mesh, _ = decode_mesh_config(
        """
        accessLogFile: /dev/stdout
        outboundTrafficPolicy: {}
        meshMTLS: {minProtocolVersion: TLSV1_3}
        defaultConfig: {proxyMetadata: {A: b}, concurrency: 0}
        extensionProviders:
        - name: envoy
          envoyFileAccessLog: {path: /tmp/log, logFormat: {labels: {a: "%REQ(b)%"}}}
        - name: zip
          zipkin: {service: zipkin.ns.svc, port: 9411, enable64bitTraceId: true}
        """
    )
    assert mesh.outbound_traffic_policy.mode is OutboundMode.REGISTRY_ONLY
    assert mesh.mesh_mtls.min_protocol_version == "TLSV1_3"
    assert mesh.default_config.proxy_metadata == {"A": "b"}
    assert mesh.default_config.concurrency == 0
    assert mesh.default_config.discovery_address == "istiod.istio-system.svc:15012"
    assert [provider.name for provider in mesh.extension_providers] == ["prometheus", "stackdriver", "envoy", "zip"]
    envoy = mesh.provider("envoy")
    assert envoy is not None
    assert envoy.envoy_file_access_log is not None
    assert envoy.envoy_file_access_log.path == "/tmp/log"  # noqa: S108 - a path in a configuration
    assert mesh.provider("none") is None


def test_unknown_fields_and_wrong_types() -> None:
    """Unknown fields are listed; wrong types are errors with paths."""
    _, unknown = decode_mesh_config("accesLogFile: x\ndefaultConfig: {foo: 1}")
    assert [error.path for error in unknown] == ["accesLogFile", "defaultConfig.foo"]
    with pytest.raises(api.DecodeError, match="enableAutoMtls: must be true or false"):
        decode_mesh_config('enableAutoMtls: "yes"')
    with pytest.raises(api.DecodeError, match="mapping"):
        decode_mesh_config("- a")
    with pytest.raises(api.DecodeError, match="line 2"):
        decode_mesh_config("a: b\n  c: [")


def test_proxy_config_overlay() -> None:
    """An annotation's fields replace, also with a default value; metadata and headers are merged."""
    base, _ = decode_proxy_config(
        "interceptionMode: TPROXY\nproxyMetadata: {A: a, B: b}\nproxyHeaders: {server: {value: x}}\nstatusPort: 1"
    )
    merged, _ = decode_proxy_config(
        "interceptionMode: REDIRECT\nproxyMetadata: {B: c}\nproxyHeaders: {requestId: {disabled: true}}", base
    )
    assert merged.interception_mode == "REDIRECT"
    assert merged.status_port == 1
    assert merged.proxy_metadata == {"A": "a", "B": "c"}
    assert merged.proxy_headers is not None
    assert merged.proxy_headers.server is not None
    assert merged.proxy_headers.request_id is not None
    assert decode_proxy_config("", ProxyConfig())[0] == ProxyConfig()


def test_networks() -> None:
    """The networks of a multicluster mesh."""
    networks, _ = decode_mesh_networks(
        "networks: {n1: {endpoints: [{fromRegistry: c1}], gateways: [{address: 1.2.3.4, port: 15443}]}}"
    )
    assert networks.networks["n1"].gateways[0].address == "1.2.3.4"


EXPRESSION = "discoverySelectors[0].matchExpressions[0]"
MATCHER = "defaultConfig.proxyStatsMatcher.inclusionRegexps"


REFUSED = {
    "proxyListenPort",
    "connectTimeout",
    "trustDomain",
    "localityLbSetting.distribute[0].to",
    "defaultTrafficPolicy.connectionPool",
    "defaultConfig.discoveryAddress",
    "defaultConfig.drainDuration",
    "defaultConfig.statusPort",
    "defaultConfig.tracing.zipkin.address",
    "meshMTLS.ecdhCurves",
}


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("defaultConfig: {drainDuration: 1500ms}", "defaultConfig.drainDuration", "whole seconds"),
        ("defaultConfig: {statusPort: 0}", "defaultConfig.statusPort", "65535"),
        ("defaultConfig: {tracing: {zipkin: {address: z}}}", "defaultConfig.tracing.zipkin.address", "host:port"),
        ("meshMTLS: {ecdhCurves: [P-256]}", "meshMTLS.ecdhCurves", "cannot be chosen"),
        ("proxyListenPort: 0", "proxyListenPort", "65535"),
        ("connectTimeout: 0s", "connectTimeout", "1ms"),
        ("trustDomain: spiffe://a", "trustDomain", "cluster.local"),
        ("rootNamespace: a.b", "rootNamespace", "label"),
        ("defaultServiceExportTo: [a b]", "defaultServiceExportTo[0]", "namespace"),
        ("localityLbSetting: {distribute: [{from: a, to: {a: 10}}]}", "localityLbSetting.distribute[0].to", "100"),
        ("defaultHttpRetryPolicy: {attempts: -1}", "defaultHttpRetryPolicy.attempts", "negative"),
        ("defaultTrafficPolicy: {connectionPool: {}}", "defaultTrafficPolicy.connectionPool", "at least one"),
        (
            "discoverySelectors: [{matchExpressions: [{key: a, operator: in}]}]",
            "discoverySelectors[0].matchExpressions[0].operator",
            "In, NotIn",
        ),
        (
            "discoverySelectors: [{matchExpressions: [{key: a, operator: In}]}]",
            "discoverySelectors[0].matchExpressions[0].values",
            "needs values",
        ),
        ("extensionProviders: [{name: a}]", "extensionProviders[3]", "no kind"),
        ("extensionProviders: [{zipkin: {service: z, port: 1}}]", "extensionProviders[3].name", "required"),
        ("extensionProviders: [{name: a, zipkin: {service: z}}]", "extensionProviders[3].zipkin.port", "65535"),
        ("extensionProviders: [{name: a, zipkin: {port: 1}}]", "extensionProviders[3].zipkin.service", "empty"),
        (
            "extensionProviders: [{name: a, prometheus: {}, envoyFileAccessLog: {}}]",
            "extensionProviders[3]",
            "only one",
        ),
        ("defaultProviders: {tracing: [b]}", "defaultProviders.tracing[0]", "extensionProviders"),
        ("defaultConfig: {concurrency: -1}", "defaultConfig.concurrency", "negative"),
        ("defaultConfig: {discoveryAddress: istiod}", "defaultConfig.discoveryAddress", "host:port"),
        ("defaultConfig: {tracing: {sampling: 101}}", "defaultConfig.tracing.sampling", "100"),
        (
            "defaultConfig: {proxyStatsMatcher: {inclusionRegexps: ['(']}}",
            "defaultConfig.proxyStatsMatcher.inclusionRegexps[0]",
            "RE2",
        ),
    ],
)
def test_what_is_wrong(text: str, path: str, words: str) -> None:
    """Each with its path, and nothing else: refused, or, where Istio goes on, told as a warning."""
    errors, warnings = validate_mesh(decode_mesh_config(text)[0])
    told = [*map(str, errors), *warnings]
    assert all(one.startswith(f"{path}: ") for one in told), told
    assert words in told[0]
    assert bool(errors) == (path in REFUSED)


def test_the_default_configuration_is_right() -> None:
    """Also the networks and proxies that are."""
    assert validate_mesh(decode_mesh_config("")[0]) == ([], [])
    assert validate_mesh(ProxyConfig()) == ([], [])
    networks, _ = decode_mesh_networks("networks: {a: {endpoints: [{}, {fromCidr: x}], gateways: [{}]}}")
    errors, warnings = validate_mesh(networks)
    assert [error.path for error in errors] == ["networks[a].endpoints[1].fromCidr", "networks[a].gateways[0].port"]
    told = [one.partition(": ")[0] for one in warnings if "no effect yet" not in one]
    assert told == ["networks[a].endpoints[0]", "networks[a].gateways[0]"]
