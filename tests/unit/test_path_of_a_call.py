"""The length of the path of a call: how many functions and files of the package a warm plain chat executes.

A reader follows this path, and every call pays for it. `python -m tests.unit.test_path_of_a_call` prints the numbers
and the functions.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import httpx

import ollama_compat

PACKAGE = str(Path(ollama_compat.__file__).parent)
MESSAGES = [{"role": "user", "content": "hi"}]
MODELS = {"object": "list", "data": [{"id": "smol", "max_model_len": 2048}]}
EVENTS = b"".join(
    b"data: " + event + b"\n\n"
    for event in (
        b'{"choices": [{"index": 0, "delta": {"content": " Hello"}}]}',
        b'{"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]}',
        b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}',
        b"[DONE]",
    )
)


def reply(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/models":
        return httpx.Response(200, json=MODELS)
    return httpx.Response(200, content=EVENTS, headers={"content-type": "text/event-stream"})


def path_of_a_warm_plain_chat() -> Counter[tuple[str, str]]:
    """How often the chat calls each function: (file, function) -> number of calls."""
    calls: Counter[tuple[str, str]] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            calls[code.co_filename.removeprefix(f"{PACKAGE}/"), code.co_qualname] += 1

    client = ollama_compat.Client(
        backend_mode="vllm", vllm_urls="http://vllm:8001", transport=httpx.MockTransport(reply)
    )
    for _ in range(2):
        client.chat("smol", MESSAGES)
    sys.setprofile(count)
    try:
        client.chat("smol", MESSAGES)
    finally:
        sys.setprofile(None)
    return calls


def test_warm_plain_chat_executes_few_functions_in_few_files() -> None:
    calls = path_of_a_warm_plain_chat()
    assert len(calls) <= 70
    assert len({file for file, _ in calls}) <= 16
    assert calls.total() <= 160


if __name__ == "__main__":
    found = path_of_a_warm_plain_chat()
    print(f"{len(found)} functions, {len({file for file, _ in found})} files, {found.total()} calls")
    for (file, function), number in found.items():
        print(f"  {file:32} {function}  x{number}")
