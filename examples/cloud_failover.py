"""A service that continues if its vLLM server is unreachable: the fallback in VLLM_FAILOVER answers the call.

    DEEPSEEK_API_KEY=… python examples/cloud_failover.py      # vLLM in VLLM_URLS answers, or DeepSeek if you stop it
    FAILOVER=ollama:exaone3.5:7.8b python examples/cloud_failover.py      # the fallback is a model on Ollama
    python examples/cloud_failover.py --local      # needs no server and no key: this file starts its own fallback

If DEEPSEEK_API_KEY is missing, creating the client raises an error that names the variable.
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
FALLBACK = os.getenv("FAILOVER", "deepseek:deepseek-chat")
UNUSED_PORT = "http://127.0.0.1:9"  # no server listens on this port


def main(arguments: Sequence[str]) -> int:
    logging.basicConfig(format="%(name)s: %(message)s")  # shows the fallback and its reason
    try:
        client = local_client() if "--local" in arguments else client_with_fallback(FALLBACK)
        reply = client.chat(MODEL, [{"role": "user", "content": "Say hello in one short sentence."}])
    except ollama.SettingsError as error:
        print(f"{error}\nTo run this without a server and a key: python {sys.argv[0]} --local", file=sys.stderr)
        return 2
    except (ConnectionError, ollama.ResponseError) as error:
        causes = [str(error), *getattr(error, "__notes__", ())]
        print("No server answered.", *dict.fromkeys("\n".join(causes).splitlines()), sep="\n", file=sys.stderr)
        return 1
    print(f"{reply.model}: {reply.message.content}")
    for operations in client.stats()["models"].values():
        print(f"answered by {', '.join(operations['chat']['answered_by'])}")
    return 0


def client_with_fallback(fallback: str) -> ollama.Client:
    """Same as BACKEND_MODE=vllm and VLLM_FAILOVER='{"exaone3.5:7.8b": "deepseek:deepseek-chat"}'."""
    return ollama.Client(backend_mode="vllm", vllm_failover={MODEL: fallback}, timeout=60)


def local_client() -> ollama.Client:
    """A client whose vLLM server is unreachable. Its fallback is the server below, a provider without an API key."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), LocalProvider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    settings = ollama.Settings(
        backend_mode="vllm",
        vllm_urls=(UNUSED_PORT,),
        vllm_failover={MODEL: ("local:hello",)},
        providers={"local": ollama.Provider(base_url=url, api_key_env=None)},
    )
    return ollama.Client(settings=settings, timeout=60)


class LocalProvider(BaseHTTPRequestHandler):
    """A minimal OpenAI-compatible service: it returns the same text for every chat."""

    def do_POST(self) -> None:
        """Answer a chat."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for choice in ({"delta": {"content": "Hello from the fallback!"}}, {"delta": {}, "finish_reason": "stop"}):
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Write no access log to the terminal."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
