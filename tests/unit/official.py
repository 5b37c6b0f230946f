"""Reads the installed `ollama`: names, functions, methods and their parameters, fields of requests, paths."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import ollama
from ollama import _types


def functions() -> list[str]:
    """The module-level functions."""
    return sorted(name for name, value in vars(ollama).items() if inspect.ismethod(value))


def methods(client: str) -> list[str]:
    """The public methods of a client."""
    found = inspect.getmembers(getattr(ollama, client), inspect.isfunction)
    return [name for name, _ in found if not name.startswith("_")]


def parameters(function: Any) -> str:
    """The parameters with their defaults, such as `model, stream=False`."""
    found = inspect.signature(function).parameters.values()
    return ", ".join(str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in found)


def fields(model: Any) -> str:
    """The fields of a pydantic model."""
    return ", ".join(sorted(model.model_fields))


def paths() -> list[str]:
    """The paths that the clients request."""
    return sorted(
        set(re.findall(r"""(?:'|\.com)(/(?:api|v1)/\w+)""", inspect.getsource(inspect.getmodule(ollama.Client))))
    )


def record() -> dict[str, Any]:
    """The content of official.json."""
    requests = [value for name, value in vars(_types).items() if name.endswith("Request") and inspect.isclass(value)]
    return {
        "names": sorted(ollama.__all__),
        "functions": functions(),
        "client": {name: parameters(getattr(ollama.Client, name)) for name in ["__init__", *methods("Client")]},
        "async client": {
            name: parameters(getattr(ollama.AsyncClient, name)) for name in ["__init__", *methods("AsyncClient")]
        },
        "requests": {model.__name__: fields(model) for model in (*requests, _types.Options, _types.Message)},
        "paths": paths(),
        "seam": {name: parameters(getattr(ollama.Client, name)) for name in ("_request", "_request_raw")},
    }


if __name__ == "__main__":
    print(json.dumps(record(), indent=1, sort_keys=True))
