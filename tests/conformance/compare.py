"""Compares an answer with the recorded answer of Ollama, aspect by aspect (see `ASPECTS`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .recorded import DIFFERENT, METHODS, Case, recorded_parts

_PATHS = {method: path for path, (method, _) in METHODS.items()}
_CATALOG = ("list", "ps", "show")
_CONCURRENCY = 4
"""vLLM generates this many answers together in hardly more time than one."""


def answer(client: Any, case: Case) -> list[dict[str, Any]] | Exception:
    """Send the request of a case. Returns the parts of the reply as dictionaries, or the exception."""
    try:
        reply = getattr(client, case.method)(**case.arguments)
    except Exception as error:
        return error
    parts = reply if case.stream else [reply]
    return [part.model_dump(exclude_none=True) for part in parts]


def generates(case: Case) -> bool:
    """Whether the model generates text for the request, which takes long."""
    return case.method in ("chat", "generate")


def all_differences(client: Any, cases: Iterable[Case]) -> dict[str, dict[str, str]]:
    """The differences of each answer by the name of its case.

    Consecutive generations run concurrently. Other requests, which may change the models, keep their order.
    """
    found: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        for concurrent, group in itertools.groupby(cases, generates):
            batch = list(group)
            answers = (pool.map if concurrent else map)(lambda case: answer(client, case), batch)
            found |= {case.name: differences(case, got) for case, got in zip(batch, answers, strict=True)}
    return found


def unexplained(case: Case, found: dict[str, str]) -> dict[str, str]:
    """The differences of an answer that have no reason in `DIFFERENT`."""
    allowed, _ = DIFFERENT.get(case.name, (frozenset(), ""))
    return {aspect: how for aspect, how in found.items() if aspect not in allowed}


def differences(case: Case, got: list[dict[str, Any]] | Exception) -> dict[str, str]:
    """The aspects in which an answer differs from the recorded one, each with a description."""
    if case.status >= 400 or isinstance(got, Exception):
        return _compare_errors(case, got)
    want = recorded_parts(case, _PATHS[case.method])
    if case.method in ("embed", "embeddings"):
        return _compare_vectors(case, want[0], got[0])
    if case.method in _CATALOG:
        return _compare_catalog(want[0], got[0])
    if case.method in ("create", "pull", "copy", "delete"):
        return {} if want[-1] == got[-1] else {"text": f"{want[-1]} got {got[-1]}"}
    return _compare_generations(case, want, got)


def _compare_errors(case: Case, got: list[dict[str, Any]] | Exception) -> dict[str, str]:
    if not isinstance(got, Exception):
        return {"outcome": f"{case.status} {case.body['error']!r} expected, got an answer"}
    if case.status < 400:
        return {"outcome": f"an answer expected, got {got!r}"}
    if type(got).__name__ in ("ValidationError", "RequestError", "TypeError"):
        return {}  # the official client raises before it sends anything
    status, text = getattr(got, "status_code", None), getattr(got, "error", str(got))
    if status != case.status:
        return {"outcome": f"{case.status} {case.body['error']!r} expected, got {status} {text!r}"}
    return {} if text == case.body["error"] else {"text": f"{case.body['error']!r} expected, got {text!r}"}


def _compare_vectors(case: Case, want: dict[str, Any], got: dict[str, Any]) -> dict[str, str]:
    found = _fields(want, got)
    single = case.method == "embeddings"
    wanted = [want["embedding"]] if single else want.get("embeddings", [])
    received = [got["embedding"]] if single else got.get("embeddings", [])
    if [len(vector) for vector in wanted] != [len(vector) for vector in received]:
        found["fields"] = "vectors of different lengths"
    elif any(not _similar(a, b) for a, b in zip(wanted, received, strict=True)):
        found["text"] = "a different vector"
    if want.get("prompt_eval_count") != got.get("prompt_eval_count"):
        found["counts"] = f"{want.get('prompt_eval_count')} expected, got {got.get('prompt_eval_count')}"
    return found


def _similar(a: list[float], b: list[float]) -> bool:
    if not a:
        return True
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return cosine > 0.999 and abs(math.hypot(*a) - math.hypot(*b)) < 0.01


def _compare_catalog(want: dict[str, Any], got: dict[str, Any]) -> dict[str, str]:
    found = {}
    missing = set(want) - set(got)
    if missing:
        found["fields"] = f"missing {sorted(missing)}"
    differing = set(want.get("capabilities") or ()) ^ set(got.get("capabilities") or ())
    if differing:
        found["text"] = f"capabilities differ in {sorted(differing)}"
    return found


def _compare_generations(case: Case, want: list[dict[str, Any]], got: list[dict[str, Any]]) -> dict[str, str]:
    found = _fields(want[-1], got[-1])
    if case.stream and len(want) > 1:
        found |= _fields(*(_union(parts[:-1]) for parts in (want, got)))
    if any(part.get("done") for part in got[:-1]):
        found["fields"] = "done before the end"
    for field in ("model", "done", "done_reason"):
        if want[-1].get(field) != got[-1].get(field):
            found["end"] = f"{field} {want[-1].get(field)!r} expected, got {got[-1].get(field)!r}"
    for field in ("prompt_eval_count", "eval_count"):
        if want[-1].get(field) != got[-1].get(field):
            found["counts"] = f"{field} {want[-1].get(field)} expected, got {got[-1].get(field)}"
    if case.steady and _content(want) != _content(got):
        found["text"] = f"{_content(want)!r} expected, got {_content(got)!r}"
    return found


def _union(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """All fields that the parts of a stream have. The server decides which part carries which field."""
    union: dict[str, Any] = {}
    for part in parts:
        message = {**(union.get("message") or {}), **(part.get("message") or {})}
        union |= {**part, "message": message}
    return union


def _fields(want: dict[str, Any], got: dict[str, Any]) -> dict[str, str]:
    a, b = _shape(want), _shape(got)
    return {} if a == b else {"fields": f"{a} expected, got {b}"}


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in sorted(value.items()) if item is not None and item != []}
    if isinstance(value, (list, tuple)):
        return [_shape(value[0])] if value else []
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _content(parts: list[dict[str, Any]]) -> tuple[str, str, list[Any]]:
    """Text, thinking and tool calls of a reply."""
    messages = [part.get("message") or part for part in parts]
    text = "".join(message.get("content") or message.get("response") or "" for message in messages)
    thinking = "".join(message.get("thinking") or "" for message in messages)
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    return text, thinking, calls
