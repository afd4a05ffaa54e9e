"""Protobuf messages as plain JSON in the contracts' own field names."""

import math
from datetime import UTC
from typing import Any

from google.protobuf.message import Message

from chassis.canonical import Json
from chassis.clock import iso

_TIMESTAMP, _DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"


def plain(message: Message) -> Json:
    """Every field by name. Unset optionals and messages are None; times ISO 8601; durations seconds.

    Enum values lose their prefix; levels stay in capitals (GUIDE), all others are small (ok, minor); UNSPECIFIED is "".
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _value(inner, each) for key, each in sorted(value.items())}
    if field.is_repeated:
        return [_value(field, each) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return _enum(field.enum_type, value)
    if field.message_type is None:
        return None if isinstance(value, float) and not math.isfinite(value) else value
    if field.message_type.full_name == _TIMESTAMP:
        return iso(value.ToDatetime(tzinfo=UTC))
    if field.message_type.full_name == _DURATION:
        return float(value.seconds) + value.nanos / 1e9
    return plain(value)


def _enum(kind: Any, number: int) -> str:
    known = kind.values_by_number.get(number)
    if known is None or number == 0:
        return ""
    prefix = "".join("_" + letter if letter.isupper() else letter.upper() for letter in kind.name).lstrip("_") + "_"
    name = str(known.name).removeprefix(prefix)
    return name if kind.name == "Level" else name.lower()
