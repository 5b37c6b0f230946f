"""A typed service that uses the package: `make lint` checks this file with mypy in strict mode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import ollama_compat as ollama


def answer(question: str) -> str:
    reply: ollama.ChatResponse = ollama.chat("m", [{"role": "user", "content": question}], options={"temperature": 0})
    return reply.message.content or ""


def stream(question: str) -> Iterator[str]:
    for part in ollama.generate("m", question, stream=True):
        yield part.response or ""


def vectors(texts: list[str]) -> list[list[float]]:
    with ollama.Client(host="http://o:11434", timeout=30, backend_mode="vllm") as client:
        return [list(vector) for vector in client.embed("m", texts).embeddings]


async def stream_async(question: str) -> AsyncIterator[str]:
    client = ollama.AsyncClient(vllm_urls="http://gpu:8001")
    try:
        async for part in await client.chat("m", [ollama.Message(role="user", content=question)], stream=True):
            yield part.message.content or ""
    except (ollama.ResponseError, ollama.ServerUnreachable) as error:
        yield str(error)


def models() -> list[str]:
    return [model.model or "" for model in ollama.list().models] + [ollama.show("m").template or ""]
