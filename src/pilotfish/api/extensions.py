"""extensions.istio.io: code of the user's own inside proxies."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import (
    DEPRECATED,
    REQUIRED,
    UNIMPLEMENTED,
    Api,
    FreeForm,
    Int32,
    Mode,
    PolicySelector,
    PolicyTargetReference,
    Rule,
    UInt32,
    rule,
    schema,
)
from pilotfish.api.security import ONE_TARGET, TargetRefs

_URL = rule(
    "isURL(self) ? (url(self).getScheme() in ['', 'http', 'https', 'oci', 'file']) : "
    "(isURL('http://' + self) && url('http://' + self).getScheme() in ['', 'http', 'https', 'oci', 'file'])",
    "url must have schema one of [http, https, file, oci]",
)
_BY_NUMBER = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]}


class PluginType(StrEnum):
    UNSPECIFIED_PLUGIN_TYPE = "UNSPECIFIED_PLUGIN_TYPE"
    HTTP = "HTTP"
    NETWORK = "NETWORK"


class PluginPhase(StrEnum):
    UNSPECIFIED_PHASE = "UNSPECIFIED_PHASE"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class ExecutionPhase(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class PullPolicy(StrEnum):
    UNSPECIFIED_POLICY = "UNSPECIFIED_POLICY"
    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"


class FailStrategy(StrEnum):
    FAIL_CLOSE = "FAIL_CLOSE"
    FAIL_OPEN = "FAIL_OPEN"
    FAIL_RELOAD = "FAIL_RELOAD"


class EnvValueSource(StrEnum):
    INLINE = "INLINE"
    HOST = "HOST"


class EnvVar(Api, frozen=True):
    CEL = (
        Rule(
            "(has(self.valueFrom) && self.valueFrom == 'HOST') ? !has(self.value) : true",
            "value may only be set when valueFrom is INLINE",
        ),
    )

    name: Annotated[str, REQUIRED, schema(minLength=1, maxLength=256)] = ""
    """Name of the variable."""
    value_from: EnvValueSource = EnvValueSource.INLINE
    """Whether the value is given here or taken from the proxy's environment."""
    value: Annotated[str, schema(maxLength=2048)] = ""
    """The value."""


class VmConfig(Api, frozen=True):
    env: Annotated[
        tuple[EnvVar, ...],
        schema(maxItems=256, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = ()
    """Environment of the module."""


class Port(Api, frozen=True):
    number: Annotated[UInt32, REQUIRED, schema(minimum=1, maximum=65535)] = 0
    """Port number."""


class TrafficSelector(Api, frozen=True):
    mode: Mode = Mode.UNDEFINED
    """Which side of connections; default both."""
    ports: Annotated[tuple[Port, ...], schema(**_BY_NUMBER)] = ()
    """Ports; default all."""


class WasmConfig(Api, frozen=True):
    """A WebAssembly module and how it is run."""

    url: Annotated[str, REQUIRED, schema(minLength=1), _URL, UNIMPLEMENTED] = ""
    """Where the module is: oci:// (the default), http://, https:// or file://."""
    sha256: Annotated[str, schema(pattern="(^$|^[a-f0-9]{64}$)")] = ""
    """Checksum of the module."""
    image_pull_policy: PullPolicy = PullPolicy.UNSPECIFIED_POLICY
    """When an image is fetched anew."""
    image_pull_secret: Annotated[str, schema(minLength=1, maxLength=253), UNIMPLEMENTED] = ""
    """Secret with the registry's credentials."""
    verification_key: str = ""
    """Key for the image's signature. Has no effect."""
    plugin_config: Annotated[FreeForm | None, UNIMPLEMENTED] = None
    """Configuration passed to the module."""
    plugin_name: Annotated[str, schema(minLength=1, maxLength=256), UNIMPLEMENTED] = ""
    """Root ID of the plugin in the module."""
    fail_strategy: Annotated[FailStrategy, UNIMPLEMENTED] = FailStrategy.FAIL_CLOSE
    """What happens to traffic when the module cannot run."""
    vm_config: Annotated[VmConfig | None, UNIMPLEMENTED] = None
    """Settings of the virtual machine."""
    type: PluginType = PluginType.UNSPECIFIED_PLUGIN_TYPE
    """HTTP (the default) or NETWORK filter."""


class WasmPlugin(WasmConfig, frozen=True):
    """A WebAssembly module that becomes a filter of the proxies."""

    CEL = (ONE_TARGET,)

    selector: PolicySelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    target_ref: Annotated[PolicyTargetReference | None, DEPRECATED] = None
    """Object it is attached to. Use targetRefs."""
    target_refs: TargetRefs = ()
    """Objects it is attached to, instead of a selector."""
    phase: PluginPhase = PluginPhase.UNSPECIFIED_PHASE
    """Where in the chain of filters it goes."""
    priority: Int32 | None = None
    """Order within the phase, higher first; default 0."""
    match: tuple[TrafficSelector, ...] = ()
    """Traffic it applies to; default all."""


class LuaConfig(Api, frozen=True):
    inline_code: Annotated[str, REQUIRED, schema(minLength=1, maxLength=65536)] = ""
    """The script, with envoy_on_request or envoy_on_response."""


class TrafficExtension(Api, frozen=True):
    """A WebAssembly module or a Lua script that becomes a filter of the proxies."""

    ONE_OF = (("wasm", "lua"),)
    CEL = (
        Rule(
            "(has(self.selector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
            "only one of targetRefs or selector can be set",
        ),
        Rule("has(self.wasm) != has(self.lua)", "exactly one of wasm or lua must be set"),
    )

    selector: PolicySelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    target_refs: TargetRefs = ()
    """Objects it is attached to, instead of a selector."""
    phase: ExecutionPhase = ExecutionPhase.UNSPECIFIED
    """Where in the chain of filters it goes."""
    priority: Int32 | None = None
    """Order within the phase, higher first; default 0."""
    match: tuple[TrafficSelector, ...] = ()
    """Traffic it applies to; default all."""
    wasm: WasmConfig | None = None
    """A WebAssembly module."""
    lua: Annotated[LuaConfig | None, UNIMPLEMENTED] = None
    """A Lua script."""
