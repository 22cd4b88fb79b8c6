"""How much a rule may cost: an estimate from the checked expression and the limits in the schema.

The model is that of cel-go and of the Kubernetes API server: what a request of 3 MiB could at most hold bounds every
list, map and string that the schema does not bound.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

from pilotfish.local.apiserver.cel.names import escape

OpenApi = Mapping[str, Any]

RULE = 10_000_000
"""What one rule may cost each time a request could make it run."""
TOTAL = 100_000_000
"""What all rules of a schema may cost."""
DOUBT = 10_000
"""The estimate errs on the high side, and a definition that a real server takes must not be refused: only what exceeds
a limit by this factor is (nested loops over unbounded lists still do)."""
_REQUEST = 3 * 1024 * 1024
_UNBOUNDED = (1 << 64) - 1
_TRAVERSAL = 0.1
"""The cost of looking at one character."""
_REGEX = 0.25


def message(what: str, cost: int, limit: int) -> str:
    exceeded = cost / limit
    factor = "more than 100x" if exceeded > 100 else f"{exceeded:f}x" if exceeded < 1.5 else f"{exceeded:.1f}x"
    return (
        f"{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, "
        "and maxLength where arrays, maps, and strings are declared)"
    )


@dataclass(slots=True)
class Total:
    """The costs of all rules of a schema."""

    cost: int = 0
    rules: list[tuple[int, str]] = field(default_factory=list)

    def add(self, path: str, cost: int) -> None:
        self.cost = min(_UNBOUNDED, self.cost + cost)
        self.rules.append((cost, path))

    @property
    def exceeded(self) -> bool:
        return self.cost > TOTAL * DOUBT

    @property
    def expensive(self) -> list[str]:
        """The rules to blame: the four that cost most, of those that cost at least a hundredth of the limit."""
        return [path for cost, path in sorted(self.rules, reverse=True)[:4] if cost > TOTAL // 100]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule stands: its schema, and how often it may run in one request."""

    schema: OpenApi
    times: int | None
    """None: as often as a request can hold the value."""

    @classmethod
    def root(cls, schema: OpenApi) -> Place:
        return cls(schema, 1)

    def field(self, schema: OpenApi) -> Place:
        return Place(schema, self.times)

    def many(self, schema: OpenApi, child: OpenApi) -> Place:
        """An item of the list or an entry of the map `schema`."""
        limit = schema.get("maxItems", schema.get("maxProperties"))
        times = None if limit is None or self.times is None else self.times * int(limit)
        return Place(child, times)

    @property
    def runs(self) -> int:
        if self.times is not None:
            return self.times
        return _REQUEST // (smallest(self.schema) + 1)


def smallest(schema: OpenApi) -> int:
    """The fewest bytes of JSON that a value takes."""
    if schema.get("x-kubernetes-int-or-string"):
        return 1
    kind = schema.get("type")
    if kind == "string":
        return {"date": 10, "date-time": 20, "duration": 2}.get(schema.get("format", ""), 2)
    if kind == "boolean":
        return 4
    if kind == "object" and not isinstance(schema.get("additionalProperties"), Mapping):
        properties = schema.get("properties") or {}
        needed = [key for key in schema.get("required") or () if properties.get(key, {}).get("default") is None]
        return 2 + sum(len(key) + 4 + smallest(properties[key]) for key in needed if key in properties)
    return {"array": 2, "object": 2}.get(str(kind), 1)


_FORMATTED = {"date": 10, "date-time": 32, "duration": 32}
"""The most characters that a string of the format has."""


def largest(schema: OpenApi | None) -> int:
    """How many items, entries or bytes of text a value has at most (a character may be four bytes)."""
    if schema is None:
        return _UNBOUNDED
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items") or {}
        return int(schema.get("maxItems", _REQUEST // (smallest(items) + 1)))
    if kind == "object":
        entries = schema.get("additionalProperties")
        room = _REQUEST // (smallest(entries) + 6 if isinstance(entries, Mapping) else 2)
        return int(schema.get("maxProperties", room))
    if kind == "string":
        if schema.get("enum"):
            return max(len(str(one)) for one in schema["enum"])
        if size := _FORMATTED.get(schema.get("format", "")):
            return size
        return int(schema["maxLength"]) * 4 if "maxLength" in schema else _REQUEST - 2
    return 1


# ------------------------------------------------------------------------------------------------ checked expressions


@functools.cache
def _expression_type() -> Any:
    """CheckedExpr of cel/expr/checked.proto, as far as it is read here."""
    field_type = descriptor_pb2.FieldDescriptorProto
    shapes: dict[str, list[tuple[str, int, str, bool]]] = {
        "Checked": [("expr", 4, "Expr", False)],
        "Expr": [
            ("const", 3, "Constant", False),
            ("ident", 4, "Ident", False),
            ("select", 5, "Select", False),
            ("call", 6, "Call", False),
            ("list", 7, "List", False),
            ("struct", 8, "Struct", False),
            ("loop", 9, "Loop", False),
        ],
        "Constant": [("string", 6, "string", False)],
        "Ident": [("name", 1, "string", False)],
        "Select": [("operand", 1, "Expr", False), ("field", 2, "string", False)],
        "Call": [("target", 1, "Expr", False), ("function", 2, "string", False), ("args", 3, "Expr", True)],
        "List": [("elements", 1, "Expr", True)],
        "Struct": [("entries", 2, "Entry", True)],
        "Entry": [("map_key", 3, "Expr", False), ("value", 4, "Expr", False)],
        "Loop": [
            ("iter_var", 1, "string", False),
            ("iter_range", 2, "Expr", False),
            ("accu_var", 3, "string", False),
            ("accu_init", 4, "Expr", False),
            ("condition", 5, "Expr", False),
            ("step", 6, "Expr", False),
            ("result", 7, "Expr", False),
            ("iter_var2", 8, "string", False),
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(name="checked.proto", package="c", syntax="proto2")
    for name, fields in shapes.items():
        made = file.message_type.add(name=name)
        for label, number, kind, repeated in fields:
            one = made.field.add(name=label, number=number)
            one.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind == "string":
                one.type = field_type.TYPE_STRING
            else:
                one.type, one.type_name = field_type.TYPE_MESSAGE, f".c.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("c.Checked"))


def estimate(checked: bytes, place: Place) -> int:
    """The cost of a rule at a place: of one run, times the runs that one request can cause."""
    packed = any_pb2.Any.FromString(checked)
    expression = _expression_type().FromString(packed.value).expr
    variables: dict[str, _Known] = {name: _Known(place.schema) for name in ("self", "oldSelf", "old_self")}
    cost, _ = _Estimator(variables).visit(expression)
    return int(min(_UNBOUNDED, cost * max(1, place.runs)))


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a value: its schema, or its size."""

    schema: OpenApi | None = None
    size: int | None = None
    item: _Known | None = None
    """The largest item of a list that the expression makes."""

    @property
    def bound(self) -> int:
        return self.size if self.size is not None else largest(self.schema)

    def element(self) -> _Known:
        if self.schema is None:
            return self.item or _UNKNOWN
        for key in ("items", "additionalProperties"):
            if isinstance(self.schema.get(key), Mapping):
                return _Known(self.schema[key])
        return _UNKNOWN

    def keys(self) -> bool:
        return self.schema is not None and self.schema.get("type") == "object"


_UNKNOWN = _Known()
_ONE = _Known(size=1)
_SCALAR = {"size", "int", "uint", "double", "bool", "duration", "timestamp", "quantity", "isQuantity", "compareTo"}
"""Functions whose result takes no walk to compare."""
_LINEAR = {"contains", "startsWith", "endsWith", "lowerAscii", "upperAscii", "replace", "split", "substring", "trim"}


class _Estimator:
    def __init__(self, variables: dict[str, _Known]) -> None:
        self.variables = variables

    def visit(self, expression: Any) -> tuple[float, _Known]:
        """(the cost, what is known of the value)."""
        if expression.HasField("const"):
            text = expression.const
            return 0, _Known(size=len(text.string)) if text.HasField("string") else _ONE
        if expression.HasField("ident"):
            return 1, self.variables.get(expression.ident.name, _UNKNOWN)
        if expression.HasField("select"):
            return self.select(expression.select)
        if expression.HasField("call"):
            return self.call(expression.call)
        if expression.HasField("list"):
            elements = [self.visit(one) for one in expression.list.elements]
            item = max((known for _, known in elements), key=lambda known: known.bound, default=None)
            return 10 + sum(cost for cost, _ in elements), _Known(size=len(elements), item=item)
        if expression.HasField("struct"):
            entries = expression.struct.entries
            costs = [self.visit(one.map_key)[0] + self.visit(one.value)[0] for one in entries]
            return 30 + sum(costs), _Known(size=len(costs))
        return self.loop(expression.loop) if expression.HasField("loop") else (0, _ONE)

    def select(self, select: Any) -> tuple[float, _Known]:
        cost, of = self.visit(select.operand)
        schema = of.schema or {}
        properties = schema.get("properties") or {}
        child = properties.get(select.field)
        if child is None:
            child = next((one for name, one in properties.items() if escape(name) == select.field), None)
        if child is None and isinstance(schema.get("additionalProperties"), Mapping):
            child = schema["additionalProperties"]
        return cost + 1, _Known(child)

    def call(self, call: Any) -> tuple[float, _Known]:
        parts = [call.target] if call.HasField("target") else []
        visited = [self.visit(one) for one in (*parts, *call.args)]
        costs = [cost for cost, _ in visited]
        known = [value for _, value in visited]
        function = call.function
        if function in ("_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"):
            smaller = min(value.bound for value in known)
            return sum(costs) + max(1, smaller * _TRAVERSAL), _ONE
        if function == "_?_:_":
            branch = known[1] if known[1].bound >= known[2].bound else known[2]
            return costs[0] + max(costs[1:]), branch
        if function in ("_[_]", "_[?_]"):
            return sum(costs) + 1, known[0].element()
        if function == "@in" and len(known) == 2:
            return sum(costs) + (1 if known[1].keys() else min(known[1].bound, _UNBOUNDED)), _ONE
        if function == "matches":
            return sum(costs) + max(1, known[0].bound * _TRAVERSAL) * max(1, known[-1].bound * _REGEX), _ONE
        if function in _LINEAR:
            return sum(costs) + max(1, known[0].bound * _TRAVERSAL), known[0]
        if function == "_+_":
            size = min(_UNBOUNDED, known[0].bound + known[1].bound)
            item = known[1].item or known[0].item
            return sum(costs) + (max(1, size * _TRAVERSAL) if size > 2 else 1), _Known(size=size, item=item)
        return sum(costs) + 1, _ONE if function in _SCALAR else _UNKNOWN_SMALL

    def loop(self, loop: Any) -> tuple[float, _Known]:
        range_cost, over = self.visit(loop.iter_range)
        init_cost, accumulated = self.visit(loop.accu_init)
        inner = dict(self.variables)
        inner[loop.accu_var] = accumulated
        element = _Known({"type": "string"}) if over.keys() else over.element()
        if element.schema is not None and element.schema.get("type") == "string":
            # All of them together fit into one request: many strings are short ones.
            element = _Known({**element.schema, "maxLength": min(element.bound, _REQUEST // max(1, over.bound))})
        inner[loop.iter_var] = element
        if loop.iter_var2:
            inner[loop.iter_var], inner[loop.iter_var2] = _ONE, over.element()
        body = _Estimator(inner)
        step_cost, stepped = body.visit(loop.step)
        each = body.visit(loop.condition)[0] + step_cost
        result_cost, _ = body.visit(loop.result)
        times = over.bound
        return range_cost + init_cost + times * each + result_cost, _Known(size=times, item=stepped.item)


_UNKNOWN_SMALL = _Known(size=64)
"""The result of a function nobody has told the size of."""
