"""Webhook configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.validation import Errors

GROUP = "admissionregistration.k8s.io"
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_REVIEW_VERSIONS = ("v1", "v1beta1")
_NO_SIDE_EFFECTS = ("None", "NoneOnDryRun")
_MAX_CONDITIONS = 64


class WebhookConfigurations(Kind):
    def __init__(self, *, mutating: bool) -> None:
        self.mutating = mutating

    def default(self, obj: Object) -> None:
        for hook in obj.get("webhooks") or ():
            hook.setdefault("failurePolicy", "Fail")
            hook.setdefault("matchPolicy", "Equivalent")
            hook.setdefault("namespaceSelector", {})
            hook.setdefault("objectSelector", {})
            hook.setdefault("timeoutSeconds", 10)
            if self.mutating:
                hook.setdefault("reinvocationPolicy", "Never")
            for rule in hook.get("rules") or ():
                rule.setdefault("scope", "*")
            service = hook.setdefault("clientConfig", {}).get("service")
            if service is not None:
                service.setdefault("port", 443)

    def validate(self, obj: Object) -> Errors:
        errors: Errors = []
        names: set[str] = set()
        for i, hook in enumerate(obj.get("webhooks") or []):
            path, name = f"webhooks[{i}]", hook.get("name", "")
            errors += _webhook(path, hook)
            if name and name in names:
                errors.append(FieldError.duplicate(f"{path}.name", name))
            names.add(name)
        return errors


def _webhook(path: str, hook: Mapping[str, Any]) -> Errors:
    errors = v.qualified_domain(f"{path}.name", hook.get("name", ""), 3)
    for i, rule in enumerate(hook.get("rules") or []):
        errors += _rule(f"{path}.rules[{i}]", rule)
    effects = hook.get("sideEffects")
    if effects is None:
        errors.append(FieldError.required(f"{path}.sideEffects", f"one of {', '.join(_NO_SIDE_EFFECTS)}"))
    for field, allowed in (
        ("failurePolicy", ("Fail", "Ignore")),
        ("matchPolicy", ("Equivalent", "Exact")),
        ("sideEffects", _NO_SIDE_EFFECTS),
        ("reinvocationPolicy", ("IfNeeded", "Never")),
    ):
        if field in hook:
            errors += v.one_of(f"{path}.{field}", hook[field], allowed, missing=False)
    timeout = hook.get("timeoutSeconds", 10)
    if not 1 <= timeout <= 30:
        errors.append(FieldError.invalid(f"{path}.timeoutSeconds", timeout, "must be between 1 and 30 seconds"))
    for field in ("namespaceSelector", "objectSelector"):
        errors += v.label_selector(f"{path}.{field}", hook.get(field))
    errors += client_config(f"{path}.clientConfig", hook.get("clientConfig") or {})
    errors += _conditions(f"{path}.matchConditions", hook.get("matchConditions") or [])
    return errors + _review_versions(f"{path}.admissionReviewVersions", hook.get("admissionReviewVersions") or [])


def _review_versions(path: str, versions: list[str]) -> Errors:
    if not versions:
        return [FieldError.required(path, f"one of {', '.join(_REVIEW_VERSIONS)}")]
    errors: Errors = []
    for i, version in enumerate(versions):
        if version in versions[:i]:
            errors.append(FieldError.invalid(f"{path}[{i}]", version, "duplicate version"))
        else:
            errors += v.check(f"{path}[{i}]", version, v.dns_1035_label)
    if not set(versions) & set(_REVIEW_VERSIONS):
        why = f"must include at least one of {', '.join(_REVIEW_VERSIONS)}"
        errors.append(FieldError.invalid(path, versions, why))
    return errors


def _conditions(path: str, conditions: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    if len(conditions) > _MAX_CONDITIONS:
        errors.append(FieldError.too_many(path, len(conditions), _MAX_CONDITIONS))
    names: set[str] = set()
    for i, condition in enumerate(conditions):
        where, name = f"{path}[{i}]", condition.get("name", "")
        errors += v.required(f"{where}.expression", condition.get("expression", "").strip(), _not_cel)
        errors += v.required(f"{where}.name", name, v.qualified_name)
        if name and name in names:
            errors.append(FieldError.duplicate(f"{where}.name", name))
        names.add(name)
    return errors


def _not_cel(expression: str) -> list[str]:
    from pilotfish.local.apiserver.cel.conditions import compile_condition  # noqa: PLC0415 - few need it
    from pilotfish.local.apiserver.cel.environment import CelError  # noqa: PLC0415 - as above

    try:
        compile_condition(expression)
    except CelError as error:
        return [str(error)]
    return []


def _rule(path: str, rule: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    operations = rule.get("operations") or []
    for field in ("operations", "apiGroups", "apiVersions"):
        values = rule.get(field) or []
        if not values:
            errors.append(FieldError.required(f"{path}.{field}"))
        if len(values) > 1 and "*" in values:
            errors.append(FieldError.invalid(f"{path}.{field}", values, "'*' goes with no others"))
    for i, operation in enumerate(operations):
        errors += v.one_of(f"{path}.operations[{i}]", operation, _OPERATIONS, missing=False)
    for i, version in enumerate(rule.get("apiVersions") or []):
        errors += v.required(f"{path}.apiVersions[{i}]", version)
    errors += _resources(f"{path}.resources", rule.get("resources") or [])
    if "scope" in rule:
        errors += v.one_of(f"{path}.scope", rule["scope"], ("*", "Cluster", "Namespaced"), missing=False)
    return errors


def _resources(path: str, resources: list[str]) -> Errors:
    """`pods`, `pods/status`, `*`, `pods/*`, `*/scale`, `*/*`: none may be part of another."""
    errors = [] if resources else [FieldError.required(path)]
    whole: set[str] = set()
    everywhere: set[str] = set()
    plain_last = False
    for i, one in enumerate(resources):
        if not one:
            errors.append(FieldError.required(f"{path}[{i}]"))
            continue
        name, slash, sub = one.partition("/")
        if not slash:
            plain_last = one != "*"
            continue
        if name in whole:
            errors.append(FieldError.invalid(f"{path}[{i}]", one, f"'{name}/*' is present already"))
        if sub in everywhere:
            errors.append(FieldError.invalid(f"{path}[{i}]", one, f"'*/{sub}' is present already"))
        if sub == "*":
            whole.add(name)
        if name == "*":
            everywhere.add(sub)
    if len(resources) > 1 and "*/*" in resources:
        errors.append(FieldError.invalid(path, resources, "'*/*' goes with no others"))
    if "*" in resources and plain_last:
        errors.append(FieldError.invalid(path, resources, "'*' goes with no others without subresources"))
    return errors


def client_config(path: str, config: Mapping[str, Any]) -> Errors:
    """Where a webhook is: a URL, or a Service of the cluster."""
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        return [FieldError.required(path, "exactly one of url or service")]
    if service is None:
        return _url(f"{path}.url", str(url))
    # Kubernetes mixes the two up: the path of a missing name is that of the namespace
    errors = v.required(f"{path}.service.namespace", service.get("name"))
    errors += v.required(f"{path}.service.name", service.get("namespace"))
    port = service.get("port", 443)
    if wrong := v.port_number(port):
        errors.append(FieldError.invalid(f"{path}.service.port", port, ", ".join(wrong)))
    return errors + _service_path(f"{path}.service.path", service.get("path", ""))


def _service_path(path: str, value: str) -> Errors:
    if value in ("", "/"):
        return []
    if value == "//":
        return [FieldError.invalid(path, value, "segment[0] may not be empty")]
    errors = [] if value.startswith("/") else [FieldError.invalid(path, value, "must start with a '/'")]
    for i, step in enumerate(value[1:].removesuffix("/").split("/")):
        if not step:
            errors.append(FieldError.invalid(path, value, f"segment[{i}] may not be empty"))
        else:
            errors += [FieldError.invalid(path, value, f"segment[{i}] {text}") for text in v.dns_subdomain(step)]
    return errors


def _url(path: str, url: str) -> Errors:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        return [FieldError.required(path, f"a valid URL ({error})")]
    form = "; desired format: https://host[/path]"
    errors: Errors = []
    if parts.scheme != "https":
        errors.append(FieldError.invalid(path, parts.scheme, "'https' is the only allowed URL scheme" + form))
    if not parts.netloc.rpartition("@")[2]:
        errors.append(FieldError.invalid(path, "", "host must be specified" + form))
    if "@" in parts.netloc:
        errors.append(FieldError.invalid(path, "<user>", "user information is not permitted in the URL"))
    if parts.fragment:
        errors.append(FieldError.invalid(path, parts.fragment, "fragments are not permitted in the URL"))
    if parts.query:
        errors.append(FieldError.invalid(path, parts.query, "query parameters are not permitted in the URL"))
    return errors


def _row(obj: Object) -> list[Any]:
    return [printing.name(obj), len(obj.get("webhooks") or []), printing.age(obj)]


RESOURCES = tuple(
    resource(
        f"{GROUP}/v1",
        kind,
        kind.lower() + "s",
        namespaced=False,
        has_generation=True,
        unconditional_update=False,
        categories=("api-extensions",),
        strategy=WebhookConfigurations(mutating=mutating),
        columns=printing.columns("Name, Webhooks#, Age"),
        row=_row,
    )
    for kind, mutating in (("MutatingWebhookConfiguration", True), ("ValidatingWebhookConfiguration", False))
)
