"""A fake vLLM server for containers that starts in a tenth of a second. The model name determines what it does:

    python3 fake_server.py --host 0.0.0.0 --port 8000 --model <ready | loading | failing> …

`ready` serves `/health` and `/v1/models`; `loading` never gets ready; `failing` ends at once.

`POST /exit` ends it with status 3, `POST /fail-health` makes `/health` return 503, `POST /stop-listening` closes its
port, and `GET /environment` returns its environment variables.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIRST_LINE = "fake vLLM server: {model}"
EXIT_LINE = "exiting on request"
FAILING_LINE = "ValueError: 모델이 없습니다"
LOADING_LINE = "Loading safetensors checkpoint shards:  25% Completed | 1/4"


class Handler(BaseHTTPRequestHandler):
    healthy = True
    model = ""

    def do_GET(self) -> None:
        answers = {
            "/health": {},
            "/v1/models": {"data": [{"id": self.model}]},
            "/environment": dict(os.environ),
        }
        self._answer(200 if Handler.healthy else 503, answers[self.path])

    def do_POST(self) -> None:
        if self.path == "/exit":
            print(EXIT_LINE, flush=True)
            os._exit(3)
        if self.path == "/stop-listening":
            self.server.shutdown()
            self.server.socket.close()
        Handler.healthy = self.path != "/fail-health"
        self._answer(200, {})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--model")
    given, _ = parser.parse_known_args()
    Handler.model = given.model
    print(FIRST_LINE.format(model=given.model), flush=True)
    if given.model == "failing":
        print(FAILING_LINE, flush=True)
        sys.exit(1)
    if given.model == "loading":
        print(LOADING_LINE, flush=True)
        signal.pause()
    ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()
    signal.pause()


if __name__ == "__main__":
    main()
