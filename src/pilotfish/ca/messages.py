"""The messages of `istio.v1.auth.IstioCertificateService`, built from their field numbers."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

PATH = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

_FIELD = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="security/v1alpha1/ca.proto",
        package="istio.v1.auth",
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )
    request = file.message_type.add(name="IstioCertificateRequest")
    request.field.add(name="csr", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    request.field.add(name="validity_duration", number=3, type=_FIELD.TYPE_INT64, label=_FIELD.LABEL_OPTIONAL)
    request.field.add(
        name="metadata",
        number=4,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".google.protobuf.Struct",
        label=_FIELD.LABEL_OPTIONAL,
    )
    response = file.message_type.add(name="IstioCertificateResponse")
    response.field.add(name="cert_chain", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_REPEATED)
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
_pool.AddSerializedFile(_file().SerializeToString())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"istio.v1.auth.{name}"))


CertificateRequest: Any = _class("IstioCertificateRequest")
"""csr: PEM PKCS#10; validity_duration: seconds, 0 for the server's default; metadata: Struct."""
CertificateResponse: Any = _class("IstioCertificateResponse")
"""cert_chain: PEM, leaf first, root last."""
