"""security.istio.io: who may call whom, and how callers prove who they are."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import (
    DEPRECATED,
    REQUIRED,
    Api,
    Duration,
    PolicySelector,
    PolicyTargetReference,
    Rule,
    rule,
    schema,
)

ONE_TARGET = Rule(
    "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
    "only one of targetRefs or selector can be set",
)
TargetRefs = Annotated[tuple[PolicyTargetReference, ...], schema(maxItems=16)]


class MutualTLSMode(StrEnum):
    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTLS(Api, frozen=True):
    mode: MutualTLSMode = MutualTLSMode.UNSET
    """Whether callers must use mutual TLS; UNSET inherits."""


class PeerAuthentication(Api, frozen=True):
    """Whether mutual TLS is demanded of connections to a workload."""

    CEL = (
        Rule(
            "has(self.portLevelMtls) ? (has(self.selector) && has(self.selector.matchLabels) "
            "&& self.selector.matchLabels.size() > 0) : true",
            "portLevelMtls requires selector",
        ),
    )

    selector: PolicySelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    mtls: MutualTLS | None = None
    """Mode for all ports."""
    port_level_mtls: Annotated[
        Mapping[int, MutualTLS] | None,
        schema(minProperties=1),
        rule("self.all(key, 0 < int(key) && int(key) <= 65535)", "port must be between 1-65535"),
    ] = None
    """Mode for single ports, by the port number of the workload."""


class JWTHeader(Api, frozen=True):
    name: Annotated[str, REQUIRED, schema(minLength=1)] = ""
    """Header that carries the token."""
    prefix: str = ""
    """What stands before the token in it, such as `Bearer `."""


class ClaimToHeader(Api, frozen=True):
    header: Annotated[str, REQUIRED, schema(minLength=1, pattern="^[-_A-Za-z0-9]+$")] = ""
    """Header to create."""
    claim: Annotated[str, REQUIRED, schema(minLength=1)] = ""
    """Claim whose value it gets; `a.b` reaches into nested claims."""


class JWTRule(Api, frozen=True):
    """Tokens of one issuer: where they are found and how they are checked."""

    ALIASES = {"jwks_uri": "jwksUri"}
    CEL = (
        Rule(
            "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1",
            "only one of jwks or jwksUri can be set",
        ),
    )

    issuer: Annotated[str, schema(minLength=1)] = ""
    """The token's `iss`."""
    audiences: Annotated[tuple[str, ...], schema(items={"type": "string", "minLength": 1})] = ()
    """Values of `aud` that are accepted; empty accepts any."""
    jwks_uri: Annotated[
        str,
        schema(minLength=1, maxLength=2048),
        rule("url(self).getScheme() in ['http', 'https']", "url must have scheme http:// or https://"),
    ] = ""
    """Where the issuer's public keys are; default found through OpenID discovery."""
    jwks: str = ""
    """The issuer's public keys, as a JSON Web Key Set."""
    from_headers: tuple[JWTHeader, ...] = ()
    """Headers in which the token is looked for."""
    from_params: Annotated[tuple[str, ...], schema(items={"type": "string", "minLength": 1})] = ()
    """Query parameters in which the token is looked for."""
    output_payload_to_header: str = ""
    """Header that gets the token's payload, base64url."""
    from_cookies: Annotated[tuple[str, ...], schema(items={"type": "string", "minLength": 1})] = ()
    """Cookies in which the token is looked for."""
    forward_original_token: bool = False
    """Keep the token on the request."""
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    """Headers that get single claims."""
    timeout: Duration | None = None
    """Time to fetch the keys; default 5s."""
    space_delimited_claims: Annotated[
        tuple[str, ...], schema(maxItems=64, items={"type": "string", "minLength": 1})
    ] = ()
    """Claims whose value is a list separated by spaces."""


class RequestAuthentication(Api, frozen=True):
    """Which tokens requests to a workload may carry. A request without a token passes, one with a bad one does not."""

    CEL = (ONE_TARGET,)

    selector: PolicySelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    target_ref: Annotated[PolicyTargetReference | None, DEPRECATED] = None
    """Object it is attached to. Use targetRefs."""
    target_refs: TargetRefs = ()
    """Objects it is attached to, instead of a selector."""
    jwt_rules: Annotated[tuple[JWTRule, ...], schema(maxItems=4096)] = ()
    """Issuers whose tokens are checked."""


class Action(StrEnum):
    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class Source(Api, frozen=True):
    """Who is calling. Fields must all hold; of the values in one field, one."""

    CEL = (
        Rule(
            "(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) && "
            "!has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true",
            "Cannot set serviceAccounts with namespaces or principals",
        ),
    )

    principals: tuple[str, ...] = ()
    """Identities from mutual TLS, as trust-domain/ns/namespace/sa/account."""
    not_principals: tuple[str, ...] = ()
    """Identities excluded."""
    request_principals: tuple[str, ...] = ()
    """Identities from a token, as issuer/subject."""
    not_request_principals: tuple[str, ...] = ()
    """Token identities excluded."""
    namespaces: tuple[str, ...] = ()
    """Namespaces of the identity."""
    not_namespaces: tuple[str, ...] = ()
    """Namespaces excluded."""
    service_accounts: Annotated[tuple[str, ...], schema(maxItems=16, items={"type": "string", "maxLength": 320})] = ()
    """Service accounts, as [namespace/]account."""
    not_service_accounts: Annotated[
        tuple[str, ...], schema(maxItems=16, items={"type": "string", "maxLength": 320})
    ] = ()
    """Service accounts excluded."""
    ip_blocks: tuple[str, ...] = ()
    """Addresses or CIDRs of the connection's peer."""
    not_ip_blocks: tuple[str, ...] = ()
    """Peer addresses excluded."""
    remote_ip_blocks: tuple[str, ...] = ()
    """Addresses or CIDRs of the original client, from X-Forwarded-For or the PROXY protocol."""
    not_remote_ip_blocks: tuple[str, ...] = ()
    """Client addresses excluded."""
    trust_domains: tuple[str, ...] = ()
    """Trust domains of the identity."""
    not_trust_domains: tuple[str, ...] = ()
    """Trust domains excluded."""


class From(Api, frozen=True):
    source: Source | None = None
    """Who is calling."""


class Operation(Api, frozen=True):
    """What is called. Fields must all hold; of the values in one field, one."""

    hosts: tuple[str, ...] = ()
    """Host headers."""
    not_hosts: tuple[str, ...] = ()
    """Host headers excluded."""
    ports: tuple[str, ...] = ()
    """Ports of the workload."""
    not_ports: tuple[str, ...] = ()
    """Ports excluded."""
    methods: tuple[str, ...] = ()
    """HTTP methods."""
    not_methods: tuple[str, ...] = ()
    """HTTP methods excluded."""
    paths: tuple[str, ...] = ()
    """Paths; `*` at one end, or a template with `{*}` and `{**}`."""
    not_paths: tuple[str, ...] = ()
    """Paths excluded."""


class To(Api, frozen=True):
    operation: Operation | None = None
    """What is called."""


class Condition(Api, frozen=True):
    key: Annotated[str, REQUIRED] = ""
    """Attribute, such as request.headers[x-tenant] or request.auth.claims[group]."""
    values: tuple[str, ...] = ()
    """Values of which one must match."""
    not_values: tuple[str, ...] = ()
    """Values of which none may match."""


class AuthorizationRule(Api, frozen=True):
    """A rule holds when one of `from`, one of `to` and all of `when` hold; a part left out always holds."""

    from_: Annotated[tuple[From, ...], schema(maxItems=512)] = ()
    """Callers."""
    to: tuple[To, ...] = ()
    """Operations."""
    when: tuple[Condition, ...] = ()
    """Further conditions."""


class ExtensionProvider(Api, frozen=True):
    name: str = ""
    """Name of the provider in the mesh's configuration."""


class AuthorizationPolicy(Api, frozen=True):
    """Allows, denies, logs or hands over the decision on calls to a workload."""

    CEL = (ONE_TARGET,)

    selector: PolicySelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    target_ref: Annotated[PolicyTargetReference | None, DEPRECATED] = None
    """Object it is attached to. Use targetRefs."""
    target_refs: TargetRefs = ()
    """Objects it is attached to, instead of a selector."""
    rules: Annotated[tuple[AuthorizationRule, ...], schema(maxItems=512)] = ()
    """The policy takes effect when one of the rules holds; without rules it never does."""
    action: Action = Action.ALLOW
    """What happens when a rule holds."""
    provider: ExtensionProvider | None = None
    """Who decides, with action CUSTOM."""
