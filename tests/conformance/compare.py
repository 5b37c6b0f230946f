"""Compares an answer with the recorded one, aspect by aspect."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .recorded import DIFFERENT, METHODS, Case, recorded_parts

_PATHS = {method: path for path, (method, _) in METHODS.items()}
_CATALOG = ("list", "ps", "show")
_AT_ONCE = 4
"""vLLM works on so many generations at once in hardly more time than on one."""


def asked(ask: Any, case: Case) -> list[dict[str, Any]] | Exception:
    """What the client answers: the parts as dictionaries, or the exception."""
    try:
        reply = getattr(ask, case.method)(**case.arguments)
    except Exception as problem:
        return problem
    parts = reply if case.stream else [reply]
    return [part.model_dump(exclude_none=True) for part in parts]


def generates(case: Case) -> bool:
    """Whether the model has to write for it, which takes long."""
    return case.method in ("chat", "generate")


def all_differences(ask: Any, cases: Iterable[Case]) -> dict[str, dict[str, str]]:
    """How each answer differs, by the names of the cases. What changes the models is asked in its turn."""
    differing: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for at_once, group in itertools.groupby(cases, generates):
            together = list(group)
            answers = (pool.map if at_once else map)(lambda case: asked(ask, case), together)
            differing |= {case.name: differences(case, got) for case, got in zip(together, answers, strict=True)}
    return differing


def unexplained(case: Case, found: dict[str, str]) -> dict[str, str]:
    """Of the differences of an answer, those that have no reason in `DIFFERENT`."""
    allowed, _ = DIFFERENT.get(case.name, (frozenset(), ""))
    return {aspect: how for aspect, how in found.items() if aspect not in allowed}


def differences(case: Case, got: list[dict[str, Any]] | Exception) -> dict[str, str]:
    """The aspects in which the answer is another one, and how."""
    if case.status >= 400 or isinstance(got, Exception):
        return _compare_errors(case, got)
    want = recorded_parts(case, _PATHS[case.method])
    if case.method in ("embed", "embeddings"):
        return _compare_vectors(case, want[0], got[0])
    if case.method in _CATALOG:
        return _compare_catalog(want[0], got[0])
    if case.method in ("create", "pull", "copy", "delete"):
        return {} if want[-1] == got[-1] else {"words": f"{want[-1]} got {got[-1]}"}
    return _compare_generations(case, want, got)


def _compare_errors(case: Case, got: list[dict[str, Any]] | Exception) -> dict[str, str]:
    if not isinstance(got, Exception):
        return {"outcome": f"{case.status} {case.body['error']!r} expected, got an answer"}
    if case.status < 400:
        return {"outcome": f"an answer expected, got {got!r}"}
    if type(got).__name__ in ("ValidationError", "RequestError", "TypeError"):
        return {}  # the official client refuses it before anything is sent
    status, text = getattr(got, "status_code", None), getattr(got, "error", str(got))
    if status != case.status:
        return {"outcome": f"{case.status} {case.body['error']!r} expected, got {status} {text!r}"}
    return {} if text == case.body["error"] else {"words": f"{case.body['error']!r} expected, got {text!r}"}


def _compare_vectors(case: Case, want: dict[str, Any], got: dict[str, Any]) -> dict[str, str]:
    found = _fields(want, got)
    key = case.method if case.method == "embeddings" else "embeddings"
    wanted, gotten = want.get(key, []), got.get(key, [])
    if case.method == "embeddings":
        wanted, gotten = [want["embedding"]], [got["embedding"]]
    if [len(vector) for vector in wanted] != [len(vector) for vector in gotten]:
        found["fields"] = "vectors of other lengths"
    elif any(not _alike(a, b) for a, b in zip(wanted, gotten, strict=True)):
        found["words"] = "another vector"
    if want.get("prompt_eval_count") != got.get("prompt_eval_count"):
        found["counts"] = f"{want.get('prompt_eval_count')} expected, got {got.get('prompt_eval_count')}"
    return found


def _alike(a: list[float], b: list[float]) -> bool:
    if not a:
        return True
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return cosine > 0.999 and abs(math.hypot(*a) - math.hypot(*b)) < 0.01


def _compare_catalog(want: dict[str, Any], got: dict[str, Any]) -> dict[str, str]:
    found = {}
    missing = set(want) - set(got)
    if missing:
        found["fields"] = f"missing {sorted(missing)}"
    lacking = set(want.get("capabilities") or ()) ^ set(got.get("capabilities") or ())
    if lacking:
        found["words"] = f"capabilities differ in {sorted(lacking)}"
    return found


def _compare_generations(case: Case, want: list[dict[str, Any]], got: list[dict[str, Any]]) -> dict[str, str]:
    found = _fields(want[-1], got[-1])
    if case.stream and len(want) > 1:
        found |= _fields(want[0], got[0])
    if any(part.get("done") for part in got[:-1]):
        found["fields"] = "done before the end"
    for field in ("model", "done", "done_reason"):
        if want[-1].get(field) != got[-1].get(field):
            found["end"] = f"{field} {want[-1].get(field)!r} expected, got {got[-1].get(field)!r}"
    for field in ("prompt_eval_count", "eval_count"):
        if want[-1].get(field) != got[-1].get(field):
            found["counts"] = f"{field} {want[-1].get(field)} expected, got {got[-1].get(field)}"
    if case.steady and _said(want) != _said(got):
        found["words"] = f"{_said(want)!r} expected, got {_said(got)!r}"
    return found


def _fields(want: dict[str, Any], got: dict[str, Any]) -> dict[str, str]:
    a, b = _shape(want), _shape(got)
    return {} if a == b else {"fields": f"{a} expected, got {b}"}


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in sorted(value.items()) if item is not None and item != []}
    if isinstance(value, (list, tuple)):
        return [_shape(value[0])] if value else []
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _said(parts: list[dict[str, Any]]) -> tuple[str, str, list[Any]]:
    messages = [part.get("message") or part for part in parts]
    text = "".join(message.get("content") or message.get("response") or "" for message in messages)
    thoughts = "".join(message.get("thinking") or "" for message in messages)
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    return text, thoughts, calls
