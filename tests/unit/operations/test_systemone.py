"""`/v1/systemone`, which vLLM provides at the same path."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.operations.systemone import systemone
from tests.play import NO_SUCH_PATH, URL, Play, call, play, reply

REQUEST = {"state": "s", "questions": {"q": {"type": "noul", "instructions": "?"}}}
ANSWER = {
    "model": "org/Smol",
    "answers": {"q": {"type": "noul", "noul": 0.5}},
    "usage": {"input_tokens": 9, "output_tokens": 1},
}


def run(*script: Any, **body: Any) -> Play:
    return play(systemone(call("/v1/systemone", {**REQUEST, **body}, model="SMOL")), *script)


def test_request_is_sent_unchanged() -> None:
    played = run(reply(ANSWER), keep_alive="5m")
    assert played.paths == ["/v1/systemone"]
    assert played.payload == {"model": "smol", **REQUEST}


def test_reply_has_requested_model_name() -> None:
    assert run(reply(ANSWER)).parts == [{**ANSWER, "model": "SMOL"}]


@pytest.mark.parametrize(
    ("script", "body", "text"),
    [
        (NO_SUCH_PATH, {}, '"SMOL" does not support systemone'),
        (reply("text"), {}, f"{URL} sent a malformed reply"),
        (None, {"keep_alive": "soon"}, 'time: invalid duration "soon"'),
    ],
)
def test_error_is_raised(script: Any, body: dict[str, Any], text: str) -> None:
    with pytest.raises(ResponseError) as caught:
        run(*filter(None, [script]), **body)
    assert caught.value.error.startswith(text)
