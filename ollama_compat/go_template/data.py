"""Messages and tools as a Go template sees them: Ollama's own types (0.33, api/types.go, template/template.go).

A template may ask for any of their fields, write a tool or the arguments of a call, which gives JSON, or hand them to
`json`. Numbers of JSON are floats in Go, and of a tool only what Ollama knows is shown to the model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from . import Map, Slice, Struct, Value

_LARGEST = sys.float_info.max


def of_messages(messages: Sequence[Mapping[str, Any]]) -> Slice:
    """A conversation as `.Messages`."""
    return Slice(_message(message) for message in messages)


def of_tools(tools: Sequence[Mapping[str, Any]] | None) -> Slice:
    """The tools that are offered as `.Tools`; None: the request has no place for any."""
    return Slice((_tool(tool) for tool in tools or ()), nil=tools is None, shown=True)


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
        "Arguments": Map(None if arguments is None else _plain(arguments)),
    }
    inner = Struct("template.templateToolCallFunction", fields)
    return Struct("template.templateToolCall", {"ID": call.get("id") or "", "Function": inner})


def _tool(tool: Mapping[str, Any]) -> Struct:
    kind, items, function = tool.get("type") or "", _plain(tool.get("items")), tool.get("function") or {}
    inner = _function(function)
    return Struct(
        "template.templateTool",
        {"Type": kind, "Items": items, "Function": inner},
        {"type": kind, **_given(items=items), "function": inner},
        shown=True,
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
    kind, items, defs = parameters.get("type") or "", _plain(parameters.get("items")), _plain(parameters.get("$defs"))
    required = Slice(parameters.get("required") or ())
    given = parameters.get("properties")
    properties = Map(None if given is None else {name: _property(each) for name, each in given.items()})
    return Struct(
        "template.templateToolFunctionParameters",
        {"Type": kind, "Defs": defs, "Items": items, "Required": required, "Properties": properties},
        {
            "type": kind,
            **_given(**{"$defs": defs, "items": items, "required": required or None}),
            "properties": properties,
        },
    )


def _property(given: Any) -> Struct:
    given = given if isinstance(given, Mapping) else {}
    types = given.get("type") or ()
    inner = given.get("properties")
    nested = None if inner is None else {name: _property(each) for name, each in inner.items()}
    fields: dict[str, Value] = {
        "AnyOf": Slice(_property(each) for each in given.get("anyOf") or ()),
        "Type": PropertyType([types] if isinstance(types, str) else types),
        "Items": _plain(given.get("items")),
        "Description": given.get("description") or "",
        "Enum": Slice(_plain(list(given.get("enum") or ()))),
        "Properties": None if nested is None else Struct("api.ToolPropertiesMap", {}, nested),
        "Required": Slice(given.get("required") or ()),
    }
    document = {name[0].lower() + name[1:]: value for name, value in fields.items()}
    kept = {name: value for name, value in document.items() if value not in (None, "", [])}
    return Struct("api.ToolProperty", fields, kept)


class PropertyType(Slice):
    """The type of a tool's property, or several of them: one alone is written as its name."""

    def document(self) -> Value:
        """What it is in JSON."""
        return self[0] if len(self) == 1 else list(self)

    def text(self) -> str:
        """What its `String` method gives."""
        names = [str(name) for name in self]
        return f"[{' '.join(names)}]" if len(names) > 1 else "".join(names)


def _given(**values: Value) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    """JSON as Go holds it: its numbers are floats."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return float(value) if abs(value) < _LARGEST else math.inf
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return str(value)
