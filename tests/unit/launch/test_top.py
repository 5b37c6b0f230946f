"""`vllm-launch top`: concurrent requests, rows, and the command."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from tests.unit.launch.fake_runtime import FakeRuntime
from vllm_launch import Server, free_ports, top
from vllm_launch.cli import app as cli_app
from vllm_launch.cli import watching
from vllm_launch.metrics import Figures
from vllm_launch.runtimes import LaunchError
from vllm_launch.top import Row, Target

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} 3
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="m"}} {tokens}
"""


class Page(ThreadingHTTPServer):
    """A server of `/metrics`: each look adds 1000 tokens.

    `silent` answers nothing until the test is over; `together` answers when the others have been asked too.
    """

    def __init__(self, status=200, text=PAGE, silent=False, together=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.text, self.silent, self.together, self.looks = status, text, silent, together, 0
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.server
        if page.silent:
            page.over.wait()
            return
        if page.together:
            page.together.wait(10)
        body = page.text.format(tokens=1000 * page.looks).encode()
        page.looks += 1
        self.send_response(page.status if self.path == "/metrics" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve() -> Iterator:
    with contextlib.ExitStack() as stack:

        def start(**how):
            page = stack.enter_context(Page(**how))
            stack.callback(page.shutdown)
            stack.callback(page.over.set)
            threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            return page

        yield start


def unused_url() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def look(*targets, timeout_s=5.0) -> list[Row]:
    with top.Watch() as watch:
        return watch.look(targets, timeout_s)


def test_first_look_covers_the_start_and_the_next_the_interval(serve):
    page = serve()
    with top.Watch() as watch:
        [first] = watch.look([Target("llm", page.url)])
        [second] = watch.look([Target("llm", page.url)])
    assert (first.state, first.figures.running, first.figures.generation_tokens_per_second) == ("ready", 3, None)
    assert second.figures.generation_tokens_per_second == pytest.approx(1000 / second.figures.seconds)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"status": 404}, "/metrics returned 404"),
        ({"text": "<html>"}, "/metrics: the response is not Prometheus text"),
        ({"text": "up 1\n"}, "/metrics: vllm:num_requests_running is missing"),
        ({"text": "# " + "x" * 200}, "/metrics returned more than 0 MB"),
    ],
)
def test_server_without_figures_has_a_row_with_the_reason(serve, monkeypatch, how, reason):
    monkeypatch.setattr(top, "_MAX_BYTES", 150)
    page = serve(**how)
    [row] = look(Target("llm", page.url))
    assert (row.state, row.figures) == ("no-metrics", None)
    assert page.url + reason in row.reason


def test_unreachable_server_is_down_or_starting():
    url = unused_url()
    down, starting = look(Target("theirs", url), Target("ours", url, "running"))
    assert (down.state, starting.state) == ("down", "starting")
    assert f"{url} does not answer: " in down.reason


def test_slow_server_does_not_delay_others(serve):
    slow, quick = serve(silent=True), serve()
    rows = look(Target("slow", slow.url), Target("quick", quick.url), Target("slow too", slow.url), timeout_s=0.5)
    assert [row.state for row in rows] == ["slow", "ready", "slow"]
    assert rows[0].reason == f"{slow.url} did not answer within 0.5 s"


def test_servers_are_requested_concurrently(serve):
    both = threading.Barrier(2)
    one, other = serve(together=both), serve(together=both)
    rows = look(Target("one", one.url), Target("other", other.url), timeout_s=10)
    assert [row.state for row in rows] == ["ready", "ready"]  # each answer needs both requests


def test_ended_server_is_not_requested(serve):
    page = serve()
    rows = look(Target("llm", page.url, "exited", "with status 1"), Target("other", page.url, "restarting"))
    assert [(row.state, row.reason) for row in rows] == [
        ("exited", "the process has ended with status 1"),
        ("restarting", "the process has ended"),
    ]
    assert page.looks == 0


BUSY = Figures(
    running=256,
    waiting=1200,
    kv_cache_usage=1.0,
    prefix_cache_hit_rate=0.875,
    prompt_tokens_per_second=123456.0,
    generation_tokens_per_second=12345.0,
    time_to_first_token_p50=0.123,
    time_to_first_token_p95=12.54,
    inter_token_latency_p50=0.0084,
    inter_token_latency_p95=0.987,
    prompt_tokens=123_456_789,
    generation_tokens=98_765_432,
    preemptions=1234,
    finished={"stop": 98765, "length": 4444, "abort": 12345},
    answers={"2xx": 1, "4xx": 12000, "5xx": 345},
    started_at=1.0,
    seconds=2.0,
)


def shown(rows, width) -> list[str]:
    written = io.StringIO()
    Console(width=width, file=written).print(top.view(rows, width))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_figures_fit_in_100_columns():
    lines = shown([Row("vllm-llm", "", "ready", figures=BUSY), Row("vllm-embed-cpu", "", "restarting")], 100)
    assert lines[1].split() == [
        *("server", "state", "run", "wait", "use", "hits", "in", "out"),
        *("p50", "p95", "p50", "p95", "empt", "done", "error"),
    ]
    assert lines[2].split() == [
        *("vllm-llm", "ready", "256", "1.2k", "100%", "88%", "123k", "12.3k"),
        *("123ms", "12.5s", "8.4ms", "987ms", "1.2k", "103k", "12.3k"),
    ]
    assert lines[3].split() == ["vllm-embed-cpu", "restarting", *"–" * 13]


def test_narrow_terminal_shows_the_important_figures():
    lines = shown([Row("vllm-llm", "", "ready", figures=BUSY), Row("vllm-embed-cpu", "", "restarting")], 80)
    assert lines[2].split() == [
        *("vllm-llm", "ready", "256", "1.2k", "100%", "123k", "12.3k", "12.5s", "987ms", "103k", "12.3k"),
    ]
    assert lines[3].split() == ["vllm-embed-cpu", "restarting", *"–" * 9]


def test_table_has_a_legend_and_reasons():
    lines = shown([Row("vllm-llm", "", "down", "http://127.0.0.1:8001 does not answer: [Errno 111]")], 100)
    assert "tok/s" not in lines[0]
    assert lines[-2:] == [
        "All figures: since each server's start.",
        "vllm-llm: http://127.0.0.1:8001 does not answer: [Errno 111]",
    ]
    lines = shown([Row("vllm-llm", "", "ready", figures=BUSY)], 100)
    assert "tok/s" in lines[0]
    assert lines[-1] == ("Hits, tokens per second and times: the last 2.0 s. Counts: since each server's start.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (999.4, "999"), (999.6, "1.0k"), (99_950, "100k"), (999_600, "1.0M"), (2.5e12, "2500G")],
)
def test_counts_are_abbreviated(value, text):
    assert top._count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "–"), (0.0004, "0.4ms"), (0.00951, "10ms"), (0.9994, "999ms"), (0.9996, "1.00s")),
        *((9.994, "9.99s"), (9.996, "10.0s"), (99.96, "100s"), (2560, "2560s")),
    ],
)
def test_times_are_abbreviated(seconds, text):
    assert top._time(seconds) == text


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """The servers that run. Looks follow each other without a pause, since a short interval shortens the timeout."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    fake = FakeRuntime()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_app, "open_runtime", lambda *_: fake)
    monkeypatch.setattr(cli_app, "available_runtimes", lambda _: [fake])
    return fake


@pytest.fixture
def run_top(run):
    """Runs `vllm-launch top` with further arguments."""
    return lambda *arguments: run("top", *arguments)


@pytest.fixture
def stop_after(monkeypatch):
    """Raises Ctrl-C after this number of looks."""

    def after(count):
        asked = top.Watch.look

        def look(self, *arguments):
            nonlocal count
            if count == 0:
                raise KeyboardInterrupt
            count -= 1
            return asked(self, *arguments)

        monkeypatch.setattr(top.Watch, "look", look)

    return after


def server(name, url):
    return Server(name=name, model=f"org/{name}", port=int(url.rpartition(":")[2]))


def test_once_shows_running_servers(runtime, run_top, serve):
    runtime.has(server("llm", serve().url))
    runtime.has(server("embed", unused_url()))
    status, out, _ = run_top("--once")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()[2:4]] == [["embed", "starting", "–"], ["llm", "ready", "3"]]
    assert "embed: http://127.0.0.1:" in out


def test_once_with_interval_covers_the_interval(runtime, run_top, serve):
    runtime.has(server("llm", serve().url))
    _, out, _ = run_top("--once", "--interval", "5", "--json")
    [row] = json.loads(out)["servers"]
    assert row["figures"]["generation_tokens_per_second"] > 0


def test_named_servers_are_requested_regardless_of_their_runtime(runtime, run_top, serve, tmp_path):
    page = serve()
    (tmp_path / "vllm-launch.toml").write_text(f'[servers.theirs]\nmodel = "m"\nport = {page.server_port}\n')
    runtime.has(server("other", page.url))
    _, out, _ = run_top("theirs", "--once", "--json")
    assert [(row["name"], row["state"]) for row in json.loads(out)["servers"]] == [("theirs", "ready")]
    status, _, err = run_top("thiers", "--once")
    assert (status, "did you mean 'theirs'?" in err) == (1, True)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/metrics"])
def test_url_is_requested_without_a_runtime(runtime, run_top, serve, monkeypatch, path):
    monkeypatch.setattr(cli_app, "available_runtimes", lambda _: pytest.fail("asked for the runtimes"))
    page = serve()
    _, out, _ = run_top("--url", page.url + path, "--once", "--json")
    [row] = json.loads(out)["servers"]
    assert (row["name"], row["url"], row["state"]) == (page.url.removeprefix("http://"), page.url, "ready")


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "localhost", "ftp://a", "http://", "http://a:x", ""])
def test_invalid_url_is_a_usage_error(runtime, run_top, url):
    status, _, err = run_top("--url", url, "--once")
    assert (status, "--url" in err) == (2, True)


@pytest.mark.parametrize("interval", ["0", "-1", "0.1", "nan", "inf"])
def test_invalid_interval_is_a_usage_error(runtime, run_top, interval):
    status, _, err = run_top("--interval", interval)
    assert (status, "from 0.2 to 3600" in err) == (2, True)


def test_top_without_servers_fails_with_advice(runtime, run_top):
    for arguments in ((), ("--once",)):
        status, _, err = run_top(*arguments)
        assert (status, "No server is there." in err, "--url" in err) == (1, True, True)
    assert json.loads(run_top("--once", "--json")[1])["servers"] == []


def test_live_json_prints_a_line_per_look_until_ctrl_c(runtime, run_top, serve, stop_after):
    runtime.has(server("llm", serve().url))
    stop_after(3)
    status, out, err = run_top("--json", "--interval", "5")
    assert (status, err) == (0, "")
    tokens = [json.loads(line)["servers"][0]["figures"]["generation_tokens"] for line in out.splitlines()]
    assert tokens == [0, 1000, 2000]


def test_output_without_terminal_is_consecutive_tables(runtime, run_top, serve, stop_after):
    runtime.has(server("a-server-with-quite-a-long-name-of-its-own", serve().url))
    stop_after(2)
    status, out, _ = run_top("--interval", "5")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if " ready " in line] == [
        "a-server-with-quite-a-long-name-of-its-own"
    ] * 2
    assert "\x1b" not in out


def test_terminal_shows_one_live_table_and_restores_the_cursor(runtime, run_top, serve, stop_after, monkeypatch):
    monkeypatch.setattr(watching, "output", lambda: Console(force_terminal=True, width=100, height=20))
    runtime.has(server("llm", serve().url))
    stop_after(2)
    status, out, _ = run_top("--interval", "5")
    assert status == 0
    assert out.index("\x1b[?25l") < out.index("\x1b[?25h")  # hidden, then shown again
    assert "\x1b[1A\x1b[2K" in out  # the first table was overwritten


def test_servers_appear_and_disappear_while_watching(runtime, run_top, serve, monkeypatch):
    first, second = serve(), serve()
    runtime.has(server("first", first.url))
    asked = top.Watch.look

    def look(self, targets, timeout_s):
        rows = asked(self, targets, timeout_s)
        if "second" in runtime.there:
            raise KeyboardInterrupt
        runtime.has(server("second", second.url))
        return rows

    monkeypatch.setattr(top.Watch, "look", look)
    run_top("--json", "--interval", "5")
    assert (first.looks, second.looks) == (2, 1)


def test_servers_stay_watched_when_their_engine_is_unreachable(runtime, run_top, serve, monkeypatch, stop_after):
    runtime.has(server("llm", serve().url))
    answers = iter([runtime.instances()])

    def instances():
        for answer in answers:
            return answer
        raise LaunchError("The Docker engine does not answer.")

    monkeypatch.setattr(runtime, "instances", instances)
    stop_after(2)
    status, out, _ = run_top("--json", "--interval", "5")
    assert status == 0
    assert [json.loads(line)["servers"][0]["state"] for line in out.splitlines()] == ["ready", "ready"]
    status, _, err = run_top("--once")
    assert (status, "The Docker engine does not answer." in err) == (1, True)
