"""A small service on the `ollama` API: it extracts data, compares sentences by their embeddings, and streams a chat.

    BACKEND_MODE=ollama python examples/quickstart.py      # Ollama answers
    BACKEND_MODE=vllm python examples/quickstart.py        # the vLLM servers in VLLM_URLS answer

CHAT_MODEL and EMBED_MODEL name other models.
"""

import json
import math
import os
import sys
from collections.abc import Sequence

import ollama_compat as ollama

CHAT_MODEL = os.getenv("CHAT_MODEL", "exaone3.5:7.8b")
EMBED_MODEL = os.getenv("EMBED_MODEL", "daynice/kure-v1")
DETERMINISTIC = {"temperature": 0, "num_predict": 100}


def extract_json() -> None:
    prompt = "Extract the name and the city: My name is Mina and I live in Seoul."
    person = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
        "required": ["name", "city"],
    }
    reply = ollama.generate(CHAT_MODEL, prompt, format=person, options=DETERMINISTIC)
    for key, value in json.loads(reply["response"]).items():
        print(f"{key}: {value}")


def compare_sentences() -> None:
    sentences = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell today."]
    first, *others = ollama.embed(EMBED_MODEL, sentences).embeddings
    print(f"{sentences[0]} ({len(first)} dimensions)")
    for sentence, vector in zip(sentences[1:], others, strict=True):
        print(f"{cosine_similarity(first, vector):.2f}  {sentence}")


def cosine_similarity(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def stream_chat() -> None:
    messages = [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}]
    for part in ollama.chat(CHAT_MODEL, messages, stream=True, options=DETERMINISTIC):
        print(part.message.content, end="", flush=True)
    print()


def main() -> None:
    for title, run in (
        ("JSON by a schema", extract_json),
        ("Embeddings", compare_sentences),
        ("Chat, streamed", stream_chat),
    ):
        print(f"\n{title}\n{'-' * len(title)}")
        run()


if __name__ == "__main__":
    try:
        main()
    except (ConnectionError, ollama.ResponseError) as error:
        sys.exit(f"{error}")
