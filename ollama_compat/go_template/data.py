"""Converts messages and tools into the Go values that Ollama passes to a template (0.33, api/types.go, template.go).

A template may read any field, and may print a tool or the arguments of a call, which gives JSON. A number in JSON is a
float in Go. A tool field that Ollama does not define is left out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from . import Map, Slice, Struct, Value


def messages_value(messages: Sequence[Mapping[str, Any]]) -> Slice:
    """The value of `.Messages`. Each message has a `role` and a `content`."""
    return Slice(_message(message) for message in messages)


def tools_value(tools: Sequence[Mapping[str, Any]] | None) -> Slice:
    """The value of `.Tools`. None: the request has no such field, so the value is nil."""
    return Slice((_tool(tool) for tool in tools or ()), nil=tools is None, prints_json=True)


def _message(message: Mapping[str, Any]) -> Struct:
    calls = message.get("tool_calls") or ()
    return Struct(
        "template.templateMessage",
        {
            "Role": message["role"],
            "Content": message["content"],
            "Thinking": message.get("thinking") or "",
            "Images": Slice(nil=True),
            "ToolCalls": Slice((_call(call) for call in calls), nil=not calls),
            "ToolName": message.get("tool_name") or "",
            "ToolCallID": message.get("tool_call_id") or "",
        },
    )


def _call(call: Mapping[str, Any]) -> Struct:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    fields: dict[str, Value] = {
        "Index": int(function.get("index") or 0),
        "Name": function.get("name") or "",
        "Arguments": Map(None if arguments is None else _go_value(arguments)),
    }
    inner = Struct("template.templateToolCallFunction", fields)
    return Struct("template.templateToolCall", {"ID": call.get("id") or "", "Function": inner})


def _tool(tool: Mapping[str, Any]) -> Struct:
    kind, items, function = tool.get("type") or "", _go_value(tool.get("items")), tool.get("function") or {}
    inner = _function(function)
    return Struct(
        "template.templateTool",
        {"Type": kind, "Items": items, "Function": inner},
        {"type": kind, **_without_none(items=items), "function": inner},
        prints_json=True,
    )


def _function(function: Mapping[str, Any]) -> Struct:
    name, description = function.get("name") or "", function.get("description") or ""
    parameters = _parameters(function.get("parameters") or {})
    return Struct(
        "template.templateToolFunction",
        {"Name": name, "Description": description, "Parameters": parameters},
        {"name": name, "description": description, "parameters": parameters},
    )


def _parameters(parameters: Mapping[str, Any]) -> Struct:
    kind = parameters.get("type") or ""
    items, defs = _go_value(parameters.get("items")), _go_value(parameters.get("$defs"))
    required = Slice(parameters.get("required") or ())
    properties = Map(_properties(parameters))
    return Struct(
        "template.templateToolFunctionParameters",
        {"Type": kind, "Defs": defs, "Items": items, "Required": required, "Properties": properties},
        {
            "type": kind,
            **_without_none(**{"$defs": defs, "items": items, "required": required or None}),
            "properties": properties,
        },
    )


def _properties(schema: Mapping[str, Any]) -> dict[str, Value] | None:
    properties = schema.get("properties")
    return None if properties is None else {name: _property(each) for name, each in properties.items()}


def _property(schema: Any) -> Struct:
    schema = schema if isinstance(schema, Mapping) else {}
    types = schema.get("type") or ()
    nested = _properties(schema)
    fields: dict[str, Value] = {
        "AnyOf": Slice(_property(each) for each in schema.get("anyOf") or ()),
        "Type": PropertyType([types] if isinstance(types, str) else types),
        "Items": _go_value(schema.get("items")),
        "Description": schema.get("description") or "",
        "Enum": Slice(_go_value(list(schema.get("enum") or ()))),
        "Properties": None if nested is None else Struct("api.ToolPropertiesMap", {}, nested),
        "Required": Slice(schema.get("required") or ()),
    }
    json_fields = {name[0].lower() + name[1:]: value for name, value in fields.items() if value not in (None, "", [])}
    return Struct("api.ToolProperty", fields, json_fields)


class PropertyType(Slice):
    """The types of a tool's property. A single type is formatted as its name alone."""

    def json_value(self) -> Value:
        """The value to encode as JSON."""
        return self[0] if len(self) == 1 else list(self)

    def string(self) -> str:
        """The result of its `String` method."""
        names = [str(name) for name in self]
        return f"[{' '.join(names)}]" if len(names) > 1 else "".join(names)


def _without_none(**values: Value) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}


def _go_value(value: Any) -> Any:
    """A JSON value as Go decodes it: a number is a float."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return float(value) if abs(value) < sys.float_info.max else math.inf
        case Mapping():
            return {str(key): _go_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_go_value(item) for item in value]
    return str(value)
