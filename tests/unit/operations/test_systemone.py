"""`/v1/systemone`, which vLLM has under the same name."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.operations.systemone import systemone
from tests.play import NO_SUCH_PATH, URL, Play, call, play, reply

ASKED = {"state": "s", "questions": {"q": {"type": "noul", "instructions": "?"}}}
ANSWER = {
    "model": "org/Smol",
    "answers": {"q": {"type": "noul", "noul": 0.5}},
    "usage": {"input_tokens": 9, "output_tokens": 1},
}


def ask(*script: Any, **body: Any) -> Play:
    return play(systemone(call("/v1/systemone", {**ASKED, **body}, model="SMOL")), *script)


def test_the_questions_go_out_as_they_are() -> None:
    played = ask(reply(ANSWER), keep_alive="5m")
    assert played.paths == ["/v1/systemone"]
    assert played.payload == {"model": "smol", **ASKED}


def test_the_answers_come_back_under_the_name_that_was_asked_for() -> None:
    assert ask(reply(ANSWER)).parts == [{**ANSWER, "model": "SMOL"}]


@pytest.mark.parametrize(
    ("script", "body", "text"),
    [
        (NO_SUCH_PATH, {}, '"SMOL" does not support systemone'),
        (reply("text"), {}, f"{URL} sent a malformed reply"),
        (None, {"keep_alive": "soon"}, 'time: invalid duration "soon"'),
    ],
)
def test_what_is_refused(script: Any, body: dict[str, Any], text: str) -> None:
    with pytest.raises(ResponseError) as caught:
        ask(*filter(None, [script]), **body)
    assert caught.value.error.startswith(text)
