"""A fake vLLM, a small package `vllm` whose model name selects its behavior, and helpers that check processes."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]

FAKE_SERVER = """
import argparse, http.server, json, os, signal, subprocess, sys, time

parser = argparse.ArgumentParser()
for flag in ("--host", "--model"):
    parser.add_argument(flag)
parser.add_argument("--port", type=int)
parser.add_argument("--served-model-name", nargs="*")
arguments = parser.parse_args()
model = arguments.model

if model == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
# The engine core: a separate process, which inherits the ignored signals of its parent.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("(APIServer pid=1) INFO 01-31 12:00:00 [api_utils.py:347]  █▄ banner", flush=True)
print("(EngineCore pid=2) INFO 01-31 12:00:01 [core.py:1] Loading weights took 0.2 seconds", flush=True)
print("(APIServer pid=1) INFO 01-31 12:00:01 [launcher.py:1] Route: /health, Methods: GET", flush=True)
if model == "broken":
    print("(EngineCore pid=2) ERROR 01-31 12:00:02 [core.py:9] ValueError: No such weights", flush=True)
    sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
if model == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if model == "slow":
    time.sleep(600)


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        what, _, value = self.path.lstrip("/").partition("/")
        if what == "crash":
            os._exit(int(value))
        if what == "say":
            print(value, flush=True)
        if what == "env":
            value = os.environ.get(value, "none")
        if self.path == "/v1/models":
            what, value = "say", json.dumps({"data": [{"id": name} for name in arguments.served_model_name or [model]]})
        answer = value if what in ("say", "env") else "key=" + os.environ.get("VLLM_API_KEY", "none")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())


    def log_request(self, code="-", size="-"):
        pass


http.server.HTTPServer((arguments.host, arguments.port), Health).serve_forever()
"""


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def group_is_there(group):
    """Whether any process of the group runs. Zombies do not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if of_group == str(group) and state != "Z":
                return True
    return False
