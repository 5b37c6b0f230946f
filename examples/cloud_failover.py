"""A service that goes on when its server is away: the call is answered by what VLLM_FAILOVER names.

    DEEPSEEK_API_KEY=… python examples/cloud_failover.py      # vLLM in VLLM_URLS answers; stop it, and DeepSeek does
    FAILOVER=ollama:exaone3.5:7.8b python examples/cloud_failover.py      # what stands in is a model of Ollama's
    python examples/cloud_failover.py --local      # no server and no key: this file starts what stands in itself

Without DEEPSEEK_API_KEY the client says at once, and not when the server is away, which variable is missing.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ollama_compat as ollama

MODEL = os.getenv("CHAT_MODEL", "exaone3.5:7.8b")
STAND_IN = os.getenv("FAILOVER", "deepseek:deepseek-chat")
NOBODY = "http://127.0.0.1:9"  # a port on which nothing listens


def main(arguments: Sequence[str]) -> int:
    logging.basicConfig(format="%(name)s: %(message)s")  # who stood in, and why
    try:
        client = local_client() if "--local" in arguments else client_of(STAND_IN)
        reply = client.chat(MODEL, [{"role": "user", "content": "Say hello in one short sentence."}])
    except ollama.SettingsError as problem:
        print(f"{problem}\nTo see it without a server and a key: python {sys.argv[0]} --local", file=sys.stderr)
        return 2
    except (ConnectionError, ollama.ResponseError) as problem:
        told = [str(problem), *getattr(problem, "__notes__", ())]
        print("Nobody could answer.", *dict.fromkeys("\n".join(told).splitlines()), sep="\n", file=sys.stderr)
        return 1
    print(f"{reply.model}: {reply.message.content}")
    for operations in client.stats()["models"].values():
        print(f"answered by {', '.join(operations['chat']['answered_by'])}")
    return 0


def client_of(stand_in: str) -> ollama.Client:
    """Made as with BACKEND_MODE=vllm and VLLM_FAILOVER='{"exaone3.5:7.8b": "deepseek:deepseek-chat"}'."""
    return ollama.Client(backend_mode="vllm", vllm_failover={MODEL: stand_in}, timeout=60)


def local_client() -> ollama.Client:
    """A client whose vLLM server is away; what stands in is the server below, a provider that wants no key."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    settings = ollama.Settings(
        backend_mode="vllm",
        vllm_urls=(NOBODY,),
        vllm_failover={MODEL: ("standin:hello",)},
        providers={"standin": ollama.Provider(base_url=url, api_key_env=None)},
    )
    return ollama.Client(settings=settings, timeout=60)


class StandIn(BaseHTTPRequestHandler):
    """The least that an OpenAI-compatible service is: it answers every chat with the same words."""

    def do_POST(self) -> None:
        """Answer a chat."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for choice in ({"delta": {"content": "Hello from the stand-in!"}}, {"delta": {}, "finish_reason": "stop"}):
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
