"""Reading what clients send: Go's wording of wrong types, what it drops, unknown and repeated fields, defaults."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pilotfish.local.apiserver import schema, types
from pilotfish.local.apiserver.quantity import canonical
from pilotfish.local.apiserver.schema import Schema


def builtin(name: str) -> Schema:
    return schema.compile_definition(name, types.definitions())


POD = "io.k8s.api.core.v1.Pod"


def pod(**container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "a", "image": "i", **container}]},
    }


@pytest.mark.parametrize(
    ("container", "error"),
    [
        (
            {"env": [{"name": "X", "value": 1}]},
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            {"ports": {"containerPort": 80}},
            "json: cannot unmarshal object into Go struct field Container.spec.containers.ports "
            "of type []v1.ContainerPort",
        ),
        (
            {"ports": [{"containerPort": "80"}]},
            "json: cannot unmarshal string into Go struct field "
            "ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            {"ports": [{"containerPort": 1 << 40}]},
            "json: cannot unmarshal number 1099511627776 into Go struct field "
            "ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            {"tty": "yes"},
            "json: cannot unmarshal string into Go struct field Container.spec.containers.tty of type bool",
        ),
        (
            {"resources": {"limits": {"cpu": "lots"}}},
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ],
)
def test_a_wrong_type_is_worded_as_go_does(container: dict[str, Any], error: str) -> None:
    """The first wrong type is named with its struct, its path and the type that was wanted."""
    assert schema.decode_errors(builtin(POD), pod(**container)) == [error]


def test_normalising_drops_what_go_does_not_print() -> None:
    """Nulls, empty lists and maps and zero scalars that are no pointers go; structs and pointers stay."""
    obj = pod(args=[], env=None, tty=False, livenessProbe={"httpGet": {"port": "web"}, "failureThreshold": None})
    obj["metadata"]["labels"] = {}
    obj["spec"] |= {"volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0}
    assert schema.decode_errors(builtin(POD), obj) == []
    assert obj["metadata"] == {"name": "x"}
    assert obj["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert obj["spec"]["terminationGracePeriodSeconds"] == 0
    assert obj["spec"]["containers"][0] == {"name": "a", "image": "i", "livenessProbe": {"httpGet": {"port": "web"}}}


def test_an_empty_list_of_managers_is_kept() -> None:
    """A client that sends one asks for the bookkeeping to be dropped."""
    obj = pod()
    obj["metadata"] |= {"managedFields": [], "finalizers": []}
    assert schema.decode_errors(builtin(POD), obj) == []
    assert obj["metadata"] == {"name": "x", "managedFields": []}


def test_base64_is_checked_when_read() -> None:
    """A Secret whose data is no base64 cannot be read at all."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "not base64!"}}
    assert schema.decode_errors(builtin("io.k8s.api.core.v1.Secret"), secret) == ["illegal base64 data at input byte 3"]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("100e3", "100e3"),
        ("1000", "1k"),
        ("0", "0"),
        ("0.0", "0"),
        ("1", "1"),
        ("1500m", "1500m"),
        ("123456789", "123456789"),
        ("1Ki", "1Ki"),
        ("0.1Ki", "102400m"),
        ("-500m", "-500m"),
        ("1e3", "1e3"),
        ("5e-1", "500e-3"),
    ],
)
def test_quantities_become_canonical(text: str, form: str) -> None:
    """A quantity is printed as Kubernetes prints it, and that form is its own form."""
    assert canonical(text) == form
    assert canonical(form) == form


@pytest.mark.parametrize("text", ["", "1x", "Mi", "1 Gi", "1.2.3", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """ValueError, not a guess."""
    with pytest.raises(ValueError, match="quantities must match"):
        canonical(text)


def test_unknown_fields_are_named_by_path() -> None:
    """In the order of the document for built-in kinds."""
    obj = pod(imag="x")
    obj["spec"]["containrs"] = []
    obj["metadata"]["lables"] = {"a": "b"}
    assert schema.find_unknown(builtin(POD), obj) == [
        'unknown field "metadata.lables"',
        'unknown field "spec.containers[0].imag"',
        'unknown field "spec.containrs"',
    ]


def test_repeated_fields_are_named_by_path() -> None:
    """Each once, however often it comes."""
    raw = b'{"a":1,"spec":{"x":1,"x":2,"x":3,"l":[{"k":1},{"k":1,"k":2}]},"a":2}'
    assert schema.find_duplicates(raw) == [
        'duplicate field "a"',
        'duplicate field "spec.x"',
        'duplicate field "spec.l[1].k"',
    ]
    assert schema.find_duplicates(b'{"a":{"x":1},"b":{"x":1}}') == []


def test_a_decoder_meets_fields_in_their_order() -> None:
    """Unknown and repeated ones in one list, as they stand in the text."""
    raw = (
        b'{"spec":{"containrs":[],"containers":[{"name":"a","imag":"x","name":"b"}],'
        b'"hostNetwork":false,"hostNetwork":true},"metadata":{"labels":{"any":"thing"}},"extra":1}'
    )
    assert schema.find_strict(builtin(POD), raw) == [
        'unknown field "spec.containrs"',
        'unknown field "spec.containers[0].imag"',
        'duplicate field "spec.containers[0].name"',
        'duplicate field "spec.hostNetwork"',
        'unknown field "extra"',
    ]


def test_defaults_reach_into_what_is_there_and_nowhere_else() -> None:
    """A default inside a list item is set in each item; absent structs do not come to life by it."""
    obj = pod(ports=[{"containerPort": 80}, {"containerPort": 81, "protocol": "UDP"}])
    schema.apply_defaults(builtin(POD), obj)
    container = obj["spec"]["containers"][0]
    assert [port["protocol"] for port in container["ports"]] == ["TCP", "UDP"]
    assert "livenessProbe" not in container
    before = copy.deepcopy(obj)
    schema.apply_defaults(builtin(POD), obj)
    assert obj == before


def test_recursive_definitions_compile() -> None:
    """A schema may contain itself, as that of a CustomResourceDefinition does."""
    crd = builtin("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition")
    props = crd.properties["spec"].properties["versions"].items
    assert props is not None
    inner = props.properties["schema"].properties["openAPIV3Schema"]
    assert inner.properties["properties"].additional is not None
    assert inner.properties["properties"].additional.properties.keys() == inner.properties.keys()


CUSTOM = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "n": {"type": "integer", "default": 3},
                "s": {"type": "string"},
                "maybe": {"type": "string", "nullable": True, "default": "d"},
                "open": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": True,
                    "properties": {"shut": {"type": "object", "properties": {"a": {"type": "integer"}}}},
                },
                "nested": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}}},
                "map": {
                    "type": "object",
                    "additionalProperties": {"type": "object", "properties": {"d": {"type": "string", "default": "y"}}},
                },
            },
        }
    },
}


def custom(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": spec}


def test_null_in_a_custom_resource_is_absence_unless_allowed() -> None:
    """Null becomes the default where none is allowed, disappears without a default, and stays where it is allowed."""
    obj = custom(n=None, s=None, maybe=None)
    schema.apply_defaults(schema.compile_schema(CUSTOM), obj)
    assert obj["spec"] == {"n": 3, "maybe": None, "nested": {"x": 1}}


def test_defaults_fill_in_defaults() -> None:
    """A default that is an object gets the defaults of its own fields; entries of maps do, too."""
    obj = custom(map={"a": {}, "b": {"d": "z"}})
    schema.apply_defaults(schema.compile_schema(CUSTOM), obj)
    assert obj["spec"]["nested"] == {"x": 1}
    assert obj["spec"]["map"] == {"a": {"d": "y"}, "b": {"d": "z"}}


def test_pruning_keeps_what_is_known_or_to_be_preserved() -> None:
    """Fields below a known field are pruned again even where unknown fields are preserved."""
    obj = custom(n=1, x=2, open={"y": {"z": 1}, "shut": {"a": 1, "b": 2}})
    obj["extra"], obj["metadata"]["odd"] = 1, 1
    compiled = schema.compile_schema(CUSTOM)
    assert schema.find_unknown(compiled, obj) == [
        'unknown field "extra"',
        'unknown field "metadata.odd"',
        'unknown field "spec.open.shut.b"',
        'unknown field "spec.x"',
    ]
    schema.prune(compiled, obj)
    assert obj == custom(n=1, open={"y": {"z": 1}, "shut": {"a": 1}})
