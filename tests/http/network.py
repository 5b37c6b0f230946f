"""A mock network: the replies of every URL that a client may request.

    network.serves("http://vllm:8001", "smol")            # the reply of GET /v1/models
    network.on("http://vllm:8001/v1/embeddings", Answer(502, b"<html>"))

A URL returns its answers in order and repeats the last one. `requests` keeps every request. A URL without answers
refuses the connection.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import respx

URL = "http://vllm:8001"
CHAT = "/v1/chat/completions"

RECORDED = Path(__file__).with_name("chat.sse").read_bytes()
"""A stream of vLLM 0.32 for "Name the capital of France.": `The capital of France is Paris`, cut by max_tokens."""
RECORDED_TOOLS = Path(__file__).with_name("tools.sse").read_bytes()
"""A stream of vLLM 0.32 with one call: `get_weather(city="Paris")`."""


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives in pieces. An exception among them is raised when its turn comes."""

    def __init__(self, pieces: tuple[bytes | Exception, ...]) -> None:
        self.pieces = pieces
        self.closed = False
        self.read_to_its_end = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        self.read_to_its_end = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Answer:
    """A reply: status, pieces of the body, headers."""

    def __init__(self, status: int, *pieces: bytes | Exception, **headers: str) -> None:
        self.status = status
        self.pieces = pieces
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def __str__(self) -> str:
        """The id of a test."""
        return str(self.status)


@dataclass
class Network:
    """The answers of every URL, and the requests that were sent."""

    answers: dict[str, list[Answer | Exception]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    streams: list[Pieces] = field(default_factory=list)

    def on(self, url: str, *answers: Answer | Exception) -> Network:
        self.answers[url] = list(answers)
        return self

    def serves(self, url: str, *names: str) -> Network:
        return self.on(f"{url}/v1/models", models(*names))

    def down(self, url: str) -> Network:
        """Every URL below `url` refuses the connection."""
        for known in [known for known in self.answers if known.startswith(url)]:
            del self.answers[known]
        return self

    @property
    def urls(self) -> list[str]:
        """The URLs of all requests, in order."""
        return [str(request.url) for request in self.requests]

    @property
    def last(self) -> httpx.Request:
        return self.requests[-1]

    @property
    def body(self) -> Any:
        """The JSON of the last request."""
        return json.loads(self.last.content)

    def transport(self) -> httpx.MockTransport:
        router = respx.MockRouter(assert_all_called=False)
        router.route().mock(side_effect=self._answer)
        return httpx.MockTransport(router.handler)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answers = self.answers.get(str(request.url), [httpx.ConnectError("Connection refused")])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        self.streams.append(Pieces(answer.pieces))
        return httpx.Response(answer.status, headers=answer.headers, stream=self.streams[-1])


def document(content: Any, status: int = 200) -> Answer:
    """A reply of JSON."""
    return Answer(status, json.dumps(content).encode(), content_type="application/json")


def models(*names: str) -> Answer:
    """The reply of `GET /v1/models`."""
    return document({"object": "list", "data": [{"id": name, "created": 1, "max_model_len": 2048} for name in names]})


def event(content: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def content_event(text: str) -> bytes:
    """An event with a piece of the answer."""
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


END = (
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    + event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    + b"data: [DONE]\n\n"
)


def stream(*pieces: bytes | Exception) -> Answer:
    """A reply that is a stream of events."""
    return Answer(200, *pieces, content_type="text/event-stream")


def chat_reply(*texts: str) -> Answer:
    """A complete stream with an answer in pieces."""
    return stream(*map(content_event, texts), END)
