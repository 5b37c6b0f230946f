"""A fake `ollama serve` with the few endpoints that the tests use, without a model.

    OLLAMA_HOST=http://127.0.0.1:11434 python fake_ollama.py serve

`OLLAMA_PLAYS=dies` ends it at once. It needs nothing but Python.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

models = ["exaone3.5:7.8b"]


class Ollama(BaseHTTPRequestHandler):
    """Its endpoints."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Version and models."""
        match self.path:
            case "/api/version":
                self._reply({"version": "0.33.3"})
            case "/api/tags":
                self._reply({"models": [{"model": name, "name": name} for name in models]})
            case _:
                self._reply({"error": "not found"}, 404)

    def do_POST(self):
        """Chat and pull."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        match self.path:
            case "/api/chat":
                message = {"role": "assistant", "content": "Ollama was here."}
                self._reply({"model": body["model"], "message": message, "done": True, "done_reason": "stop"})
            case "/api/pull" if body["model"] == "nowhere":
                self._reply({"error": "pull model manifest: file does not exist"}, 500)
            case "/api/pull":
                models.append(body["model"])
                parts = {"status": "pulling", "completed": 1, "total": 2}, {"status": "success"}
                self._send(b"".join(json.dumps(part).encode() + b"\n" for part in parts), 200)
            case _:
                self._reply({"error": "not found"}, 404)

    def log_message(self, *_):
        """Log nothing."""

    def _reply(self, value, status=200):
        self._send(json.dumps(value).encode(), status)

    def _send(self, body, status):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if os.environ.get("OLLAMA_PLAYS") == "dies":
        sys.exit("Error: listen tcp: bind: address already in use")
    where = urlsplit(os.environ["OLLAMA_HOST"])
    ThreadingHTTPServer((where.hostname, where.port), Ollama).serve_forever()
