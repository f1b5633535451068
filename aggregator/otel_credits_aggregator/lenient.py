"""OTLP's messages, with texts that need not be UTF-8.

The protobuf library refuses a whole message for one text that is not UTF-8, though other senders let such texts pass (the
Collector does, and drops the batch that is refused for good). Declared as bytes, a field has the same form on the wire.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

__all__ = ["without_utf8_check"]

_FieldType = descriptor_pb2.FieldDescriptorProto


def without_utf8_check(message: type[Message]) -> type[Message]:
    """A class that parses the same bytes as this one, and does not look into texts."""
    pool = descriptor_pool.DescriptorPool()
    _add(pool, message.DESCRIPTOR.file, set())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(message.DESCRIPTOR.full_name))


def _add(pool: descriptor_pool.DescriptorPool, file: Any, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, added)
    declared = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(declared)
    for message in declared.message_type:
        _texts_to_bytes(message)
    pool.Add(declared)


def _texts_to_bytes(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if field.type == _FieldType.TYPE_STRING:
            field.type = _FieldType.TYPE_BYTES
    for nested in message.nested_type:
        _texts_to_bytes(nested)
