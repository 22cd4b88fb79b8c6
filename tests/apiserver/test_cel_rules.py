"""CEL rules of custom resources: checked when the definition is written, evaluated when a resource is."""

from __future__ import annotations

from typing import Any

import pytest

from pilotfish.local.apiserver import schema
from pilotfish.local.apiserver.cel import CelError, check_rules, compile_condition
from pilotfish.local.apiserver.cel.checking import rule_errors
from pilotfish.local.apiserver.schema.node import ABSENT

Object = dict[str, Any]
INT, STR = {"type": "integer"}, {"type": "string"}
FIELDS: Object = {
    "n": INT,
    "m": INT,
    "x": {"type": "number"},
    "s": {**STR, "maxLength": 64},
    "b": {"type": "boolean"},
    "l": {"type": "array", "maxItems": 10, "items": {**STR, "maxLength": 16}},
    "ints": {"type": "array", "maxItems": 10, "items": INT},
    "nested": {"type": "array", "maxItems": 4, "items": {"type": "array", "maxItems": 4, "items": INT}},
    "map": {"type": "object", "maxProperties": 8, "additionalProperties": INT},
    "obj": {"type": "object", "properties": {"a": INT, "metadata": {"type": "object", "properties": {"y": INT}}}},
    "port": {"x-kubernetes-int-or-string": True},
    "time": {**STR, "format": "date-time"},
    "wait": {**STR, "format": "duration"},
    "data": {**STR, "format": "byte"},
    "maybe": {**INT, "nullable": True},
    "namespace": {**STR, "maxLength": 8},
    "a-b": INT,
    "a.b": INT,
    "a__b": INT,
    "embedded": {
        "type": "object",
        "x-kubernetes-embedded-resource": True,
        "x-kubernetes-preserve-unknown-fields": True,
    },
    "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
}


def root(*rules: Any, **fields: Any) -> Object:
    made = [rule if isinstance(rule, dict) else {"rule": rule} for rule in rules]
    spec = {"type": "object", "properties": {**FIELDS, **fields}, "x-kubernetes-validations": made}
    return {"type": "object", "properties": {"spec": spec}}


def compiles(rule: str) -> list[str]:
    return [str(error) for error in rule_errors("p", root(rule))]


def holds(rule: Any, spec: Object, old: Object | None = None) -> list[str]:
    """The errors of one rule over a spec."""
    compiled = schema.compile_schema(root(rule)).properties["spec"]
    return [str(error) for error in check_rules(compiled, spec, ABSENT if old is None else old, "spec")]


@pytest.mark.parametrize(
    "rule",
    [
        "self.n > self.m",
        "self.x > 0.5 && self.x * 2.0 < 9.0",
        "has(self.s) ? self.s.startsWith('a') : true",
        "self.l.all(x, x.matches('^[a-z]+$'))",
        "self.l.exists_one(x, x == self.s) || self.l.filter(x, size(x) > 2).map(x, x.lowerAscii()).size() == 0",
        "self.map.all(k, self.map[k] > 0) && 'a' in self.map",
        "self.nested[0][1] == 2",
        "self.obj.a == 1 && self.obj.metadata.y == 2",
        "self.port == 80 || self.port == 'http'",
        "self.time < timestamp('2030-01-01T00:00:00Z') && self.time.getFullYear() > 2000",
        "self.wait <= duration('1h')",
        "self.data == b'x'",
        "self.maybe == null || self.maybe > 3",
        "self.__namespace__ == 'n' && self.a__dash__b == 1 && self.a__dot__b == 2 && self.a__underscores__b == 3",
        "self.embedded.kind == 'X' && self.embedded.metadata.name == 'x'",
        "self.?s.orValue('x') == 'x'",
        "self.s.split(',').join('-').size() > 3 && '%s %d'.format([self.s, self.n]) != ''",
        "self.ints.sum() > 3 && self.ints.max() < 9 && self.ints.isSorted()",
        "self.s.find('[0-9]+') == '1' && self.s.findAll('[0-9]', 2).size() < 3",
        "quantity(self.s).isLessThan(quantity('1Gi')) && quantity('1k').asInteger() == 1000",
        "isIP(self.s) && ip(self.s).family() == 4 && cidr('10.0.0.0/8').containsIP(self.s)",
        "url(self.s).getHost() == 'example.com' && isURL(self.s)",
        "semver(self.s).major() == 1 && semver('1.2.3').isGreaterThan(semver('1.2.3-a'))",
        "sets.contains(self.ints, [1]) && sets.intersects(self.ints, [1, 2])",
        "type(self.n) == int && dyn(self.n) == 1.0",
    ],
)
def test_what_is_right_compiles(rule: str) -> None:
    """Fields, macros, functions of CEL and those that Kubernetes adds."""
    assert compiles(rule) == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("self.nope > 1", "undefined field 'nope'"),
        ("self.obj.nope > 1", "undefined field 'nope'"),
        ("self.open.x == 1", "undefined field 'x'"),
        ("self.embedded.metadata.labels", "undefined field 'labels'"),
        ("1 + 1", "must evaluate to a bool"),
        ("self.n", "must evaluate to a bool"),
        ("self.n >", "Syntax error"),
        ("self.n == 'x'", "no matching overload"),
        ("self.l.all(x, x > 1)", "no matching overload"),
        ("self.map['a'] == 'x'", "no matching overload"),
        ("self.n.startsWith('x')", "no matching overload"),
        ("quantity(self.s) > 1", "no matching overload"),
        ("nope(self.n)", "undeclared reference to 'nope'"),
        ("other == 1", "undeclared reference to 'other'"),
        ("self.namespace == 'x'", ""),
    ],
)
def test_what_is_wrong_does_not_compile(rule: str, text: str) -> None:
    """The error is at the rule and says why."""
    (error,) = compiles(rule)
    assert error.startswith("p.properties[spec].x-kubernetes-validations[0].rule: Invalid value")
    assert text in error


def test_a_rule_that_may_cost_too_much_is_refused() -> None:
    """Loops in loops over lists that nothing bounds; bounding them helps."""
    nested = "self.u.all(x, self.u.all(y, x != y))"
    unbounded = {"type": "array", "items": STR}
    paths = [error.path for error in rule_errors("p", root(nested, u=unbounded))]
    rule = "p.properties[spec].x-kubernetes-validations[0].rule"
    assert sorted(paths) == ["p", rule, rule]
    bounded = {"type": "array", "maxItems": 10, "items": {**STR, "maxLength": 10}}
    assert rule_errors("p", root(nested, u=bounded)) == []
    assert rule_errors("p", root("self.u.all(x, x != 'a')", u=unbounded)) == []


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("self.n < self.m", {"n": 1, "m": 2}, {"n": 2, "m": 2}),
        ("self.x / 2.0 > 1.0", {"x": 3}, {"x": 1}),
        ("self.l.exists(x, x == 'a')", {"l": ["b", "a"]}, {"l": []}),
        ("self.map.all(k, self.map[k] > 1)", {"map": {"a": 2}}, {"map": {"a": 2, "b": 1}}),
        ("self.port == 80 || self.port == 'http'", {"port": 80}, {"port": "80"}),
        (
            "self.time < timestamp('2030-01-01T00:00:00Z')",
            {"time": "2024-01-01T00:00:00+01:00"},
            {"time": "2031-01-01T00:00:00Z"},
        ),
        ("self.wait <= duration('1h')", {"wait": "59m59s"}, {"wait": "1h1s"}),
        ("self.data == b'x'", {"data": "eA=="}, {"data": "eQ=="}),
        ("self.maybe == null", {"maybe": None}, {"maybe": 1}),
        (
            "self.__namespace__ == 'n' && self.a__dash__b == 1",
            {"namespace": "n", "a-b": 1},
            {"namespace": "n", "a-b": 2},
        ),
        ("!has(self.s) || self.s != ''", {}, {"s": ""}),
        ("self.?n.orValue(5) == 5", {}, {"n": 4}),
        ("quantity(self.s) == quantity('1Gi')", {"s": "1024Mi"}, {"s": "1G"}),
        ("quantity(self.s).add(quantity('500m')).compareTo(quantity('1')) == 0", {"s": "0.5"}, {"s": "1"}),
        ("isQuantity(self.s)", {"s": "1Ki"}, {"s": "1KiB"}),
        ("ip(self.s).isLoopback()", {"s": "127.0.0.1"}, {"s": "10.0.0.1"}),
        (
            "cidr(self.s).containsCIDR('10.1.0.0/16') && cidr(self.s).prefixLength() == 8",
            {"s": "10.0.0.0/8"},
            {"s": "11.0.0.0/8"},
        ),
        (
            "url(self.s).getPort() == '8080' && url(self.s).getQuery()['a'] == ['1']",
            {"s": "https://x:8080/p?a=1"},
            {"s": "https://x:81/?a=1"},
        ),
        ("semver(self.s).isLessThan(semver('1.10.0'))", {"s": "1.9.0"}, {"s": "1.11.0"}),
        ("self.ints.sum() == 6 && self.ints.isSorted()", {"ints": [1, 2, 3]}, {"ints": [3, 2, 1]}),
        ("sets.equivalent(self.ints, [1, 2])", {"ints": [2, 1, 2]}, {"ints": [2]}),
        ("self.s.findAll('[0-9]+') == ['1', '22']", {"s": "a1b22"}, {"s": "1"}),
        ("'%s-%d'.format([self.s, self.n]) == 'a-1'", {"s": "a", "n": 1}, {"s": "a", "n": 2}),
    ],
)
def test_rules_hold_or_fail(rule: str, good: Object, bad: Object) -> None:
    """For one spec and not for another."""
    assert compiles(rule) == []
    assert holds(rule, good) == []
    assert holds(rule, bad) == [f'spec: Invalid value: "object": failed rule: {rule}']


def test_a_failure_says_what_the_rule_says() -> None:
    """Message, message expression, reason and field path."""
    assert holds({"rule": "self.n > 1", "message": "more"}, {"n": 1}) == ['spec: Invalid value: "object": more']
    rule = {"rule": "self.n > 1", "messageExpression": "'got %d'.format([self.n])", "message": "unused"}
    assert holds(rule, {"n": 1}) == ['spec: Invalid value: "object": got 1']
    fallback = {"rule": "self.n > 1", "messageExpression": "self.s", "message": "used"}
    assert holds(fallback, {"n": 1}) == ['spec: Invalid value: "object": used']
    for reason, text in (
        ("FieldValueForbidden", "Forbidden: m"),
        ("FieldValueRequired", "Required value: m"),
        ("FieldValueDuplicate", 'Duplicate value: "object": m'),
    ):
        assert holds({"rule": "false", "message": "m", "reason": reason, "fieldPath": ".n"}, {}) == [f"spec.n: {text}"]
    assert holds({"rule": "false", "message": "m", "fieldPath": ".map.k"}, {})[0].startswith("spec.map[k]: ")
    assert holds({"rule": "false", "message": "m", "fieldPath": "['a-b']"}, {})[0].startswith("spec.a-b: ")


def test_a_rule_that_cannot_be_evaluated_is_an_error() -> None:
    """A missing field is named."""
    assert holds("self.n > 1", {}) == ['spec: Invalid value: "object": no such key: n evaluating rule: self.n > 1']
    (error,) = holds("1 / self.n == 1", {"n": 0})
    assert "divide by zero" in error


def test_transition_rules_compare_with_what_was() -> None:
    """They run only where there was something before."""
    rule = "self.n >= oldSelf.n"
    assert holds(rule, {"n": 1}) == []
    assert holds(rule, {"n": 1}, {"n": 1}) == []
    assert len(holds(rule, {"n": 1}, {"n": 2})) == 1
    optional = {"rule": "oldSelf.hasValue() ? self.n > oldSelf.value().n : self.n == 0", "optionalOldSelf": True}
    assert rule_errors("p", root(optional)) == []
    assert holds(optional, {"n": 0}) == []
    assert len(holds(optional, {"n": 1})) == 1
    assert holds(optional, {"n": 2}, {"n": 1}) == []
    assert len(holds(optional, {"n": 1}, {"n": 1})) == 1


def test_rules_without_a_past_tolerate_what_has_not_changed() -> None:
    """An object that was wrong before the rule came can still be updated elsewhere."""
    assert holds("self.n > 1", {"n": 1}, {"n": 1}) == []
    assert len(holds("self.n > 1", {"n": 1, "m": 2}, {"n": 1})) == 1


def test_list_items_have_a_past_only_by_key() -> None:
    """oldSelf inside other lists is refused when the definition is written."""
    item: Object = {"type": "object", "required": ["k"], "properties": {"k": {**STR, "maxLength": 5}, "v": INT}}
    item["x-kubernetes-validations"] = [{"rule": "self.v >= oldSelf.v"}]
    plain: Object = {"type": "array", "maxItems": 5, "items": item}
    keyed = {**plain, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
    (error,) = rule_errors("p", root(u=plain))
    assert error.path == "p.properties[spec].properties[u].items.x-kubernetes-validations[0].rule"
    assert rule_errors("p", root(u=keyed)) == []
    compiled = schema.compile_schema(root(u=keyed)).properties["spec"]
    old = {"u": [{"k": "a", "v": 5}, {"k": "b", "v": 1}]}
    new = {"u": [{"k": "b", "v": 1}, {"k": "c", "v": 0}, {"k": "a", "v": 4}]}
    assert [e.path for e in check_rules(compiled, new, old, "spec")] == ["spec.u[2]"]


def test_rules_run_where_they_stand() -> None:
    """On scalars, items and entries, with the type of the value shown and the path of the place."""
    rules = [{"rule": "self > 1", "message": "m"}]
    compiled = schema.compile_schema(
        root(
            p={**INT, "x-kubernetes-validations": rules},
            q={"type": "array", "items": {**INT, "x-kubernetes-validations": rules}},
            r={"type": "object", "additionalProperties": {**INT, "x-kubernetes-validations": rules}},
        )
    )
    obj = {"apiVersion": "v", "kind": "K", "metadata": {"name": "x"}, "spec": {"p": 1, "q": [2, 1], "r": {"a": 1}}}
    assert [str(e) for e in schema.validate(compiled, obj)] == [
        'spec.p: Invalid value: "integer": m',
        'spec.q[1]: Invalid value: "integer": m',
        'spec.r[a]: Invalid value: "integer": m',
    ]


def test_rules_wait_until_the_object_is_valid() -> None:
    """An object with wrong types is not shown to them, and that is said."""
    compiled = schema.compile_schema(root("self.n > 1"))
    obj = {"apiVersion": "v", "kind": "K", "metadata": {"name": "x"}, "spec": {"n": "x"}}
    errors = schema.validate(compiled, obj)
    assert [e.path for e in errors] == ["spec.n", "<nil>"]
    assert "some validation rules were not checked" in errors[1].text


def test_rules_at_the_root_see_the_name() -> None:
    """And nothing else of metadata."""
    whole = {"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name == 'x'", "message": "m"}]}
    assert rule_errors("p", whole) == []
    compiled = schema.compile_schema(whole)
    obj = {"apiVersion": "v", "kind": "K", "metadata": {"name": "y"}}
    assert [e.path for e in schema.validate(compiled, obj)] == ["<nil>"]
    obj["metadata"] = {"name": "x"}
    assert schema.validate(compiled, obj) == []
    whole["x-kubernetes-validations"] = [{"rule": "self.metadata.labels == {}"}]
    assert len(rule_errors("p", whole)) == 1


def test_conditions_of_webhooks_see_object_and_request() -> None:
    """The old object is null when there is none."""
    request = {"operation": "CREATE", "userInfo": {"username": "u"}, "resource": {"resource": "pods"}}
    pod = {"metadata": {"name": "x", "labels": {"a": "b"}}}
    for expression, expected in (
        ("object.metadata.labels['a'] == 'b'", True),
        ("oldObject == null && request.operation == 'CREATE'", True),
        ("!(request.userInfo.username in ['u'])", False),
        ("has(object.spec) && object.spec.x > 1", False),
        ("request.resource.resource.startsWith('po')", True),
    ):
        assert compile_condition(expression).matches(request, pod, None) is expected


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("", "not specified"),
        ("1", "bool"),
        ("object.", "Syntax error"),
        ("nope", "undeclared reference"),
        ("authorizer.group('').check('get').allowed()", "authorizer"),
    ],
)
def test_what_is_no_condition_says_why(expression: str, text: str) -> None:
    """When it is compiled, not when a request comes."""
    with pytest.raises(CelError, match=text):
        compile_condition(expression)


def test_a_condition_that_fails_says_why() -> None:
    """The webhook's failure policy then decides."""
    with pytest.raises(CelError, match="no such key: spec"):
        compile_condition("object.spec.x == 1").matches({}, {"metadata": {}}, None)
    with pytest.raises(CelError, match="no bool"):
        compile_condition("object.x").matches({}, {"x": 1}, None)
