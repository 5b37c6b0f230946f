"""Stands in for vLLM in a container, in a tenth of a second: answers its health, and does what the model's name says.

    python3 stand_in.py --host 0.0.0.0 --port 8000 --model <lives | loads | dies> …

One that loads says so and never gets further.

`POST /die` ends it with status 3, `POST /sicken` makes its health fail, `POST /hang` has it listen no more,
`GET /environment` shows its variables.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DYING_WORDS = "ValueError: 모델이 없습니다"
LOADING_WORDS = "Loading safetensors checkpoint shards:  25% Completed | 1/4"


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
        if self.path == "/die":
            print("told to die", flush=True)
            os._exit(3)
        if self.path == "/hang":
            self.server.shutdown()
            self.server.socket.close()
        Handler.healthy = self.path != "/sicken"
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
    print(f"a stand-in for {given.model}", flush=True)
    if given.model == "dies":
        print(DYING_WORDS, flush=True)
        sys.exit(1)
    if given.model == "loads":
        print(LOADING_WORDS, flush=True)
        signal.pause()
    ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()
    signal.pause()


if __name__ == "__main__":
    main()
