"""Full load with random faults on real vLLM servers: `make soak`, or `python -m tests.soak --seconds 60`.

A chat and an embedding server run behind one fault proxy each. A sync client in threads and an async client in tasks
call chat, generate and embed, plain and streamed, without a pause, while random faults hit some requests. The report
contains the number of calls, the errors by type and the memory of this process. The run fails on an unexpected type of
error, if the memory grows, or if a connection, thread or task is left. `--write` writes the report into
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import ollama_compat as ollama
from ollama_compat import ResponseError
from testbed import environment, models, servers
from testbed.paths import HOME
from tests.faults.faults import FAULTS
from tests.faults.leaks import Leaks
from tests.faults.proxy import FaultProxy
from vllm_launch import free_ports

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
THREADS = 4
TASKS = 8
TIMEOUT_S = 10.0
FAULT_EVERY_S = 3.0
PAUSE_S = 0.5
"""Pause of a caller after an error, because an open circuit fails at once."""
MAX_GROWTH = 1.10
"""Largest accepted ratio of the memory in the last third to the memory in the second third."""
EXCLUDED = {"endless-body", "endless-line", "gzip-bomb", "refuse"}
"""Faults that fill the memory of the proxy, which is in this process; and `refuse`, which lasts until it is cleared."""


@dataclass
class Tally:
    """The results so far."""

    ended: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start, and resident memory in MiB."""

    def count(self, error: Exception | None) -> None:
        """Count a call and how it ended."""
        if error is None:
            self.ended["answered"] += 1
        elif isinstance(error, (ResponseError, ConnectionError, httpx.TimeoutException)):
            self.ended[type(error).__name__] += 1
        else:
            self.unexpected.append(repr(error))


def main() -> int:
    """Run the soak test. Returns the exit status: 1 if it fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--write", action="store_true", help=f"write the report into {PAGE.name}")
    options = parser.parse_args()
    chat_port, embed_port = free_ports(2)
    python = environment.prepare()
    models.prepare(python, (models.SMOLLM2, models.MINILM))
    wanted = [servers.chat(chat_port), servers.embed(embed_port)]
    with servers.serving(wanted, python, HOME / "logs" / "soak") as (chat, embed):
        tally = Tally()
        with FaultProxy(chat.url) as chat_proxy, FaultProxy(embed.url) as embed_proxy, Leaks():
            stats = _load([chat_proxy, embed_proxy], options.seconds, tally)
    report, problems = _report(options.seconds, tally, stats)
    print(report)
    if options.write:
        text = PAGE.read_text("utf-8")
        marks = re.compile(r"(<!-- soak -->\n).*?(<!-- end -->)", re.DOTALL)
        PAGE.write_text(marks.sub(lambda mark: f"{mark[1]}{report}\n{mark[2]}", text), "utf-8")
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return bool(problems)


def _load(proxies: list[FaultProxy], seconds: float, tally: Tally) -> Any:
    stop = threading.Event()
    settings: dict[str, Any] = {
        "backend_mode": "vllm",
        "vllm_urls": ",".join(proxy.url for proxy in proxies),
        "timeout": TIMEOUT_S,
    }
    with ollama.Client(**settings) as client:
        threads = [
            threading.Thread(target=_call_repeatedly, args=(client, stop, tally, seed)) for seed in range(THREADS)
        ]
        threads.append(threading.Thread(target=lambda: asyncio.run(_run_tasks(settings, stop, tally))))
        for thread in threads:
            thread.start()
        _inject_faults(proxies, seconds, tally)
        stop.set()
        for proxy in proxies:
            proxy.clear()
        for thread in threads:
            thread.join()
        return client.stats()


def _inject_faults(proxies: list[FaultProxy], seconds: float, tally: Tally) -> None:
    chance = random.Random(7)
    faults = [fault for name, (fault, _) in FAULTS.items() if name not in EXCLUDED]
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        chance.choice(proxies).inject(chance.choice(faults), times=chance.randint(1, 3))
        for proxy in proxies:
            proxy.requests.clear()  # the record would grow in this process
        tally.memory.append((passed, _resident_mib()))
        time.sleep(FAULT_EVERY_S)


def _random_call(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """An operation and its arguments."""
    limit = {"num_predict": chance.randint(1, 30)}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("chat", {"model": "smol", "messages": [{"role": "user", "content": "Hi!"}], "options": limit}),
        ("generate", {"model": "smol", "prompt": "Once", "options": limit}),
        ("embed", {"model": "minilm", "input": ["one text", "another"]}),
    ]
    name, arguments = chance.choice(calls)
    return name, arguments | ({"stream": True} if name != "embed" and chance.random() < 0.5 else {})


def _call_repeatedly(client: ollama.Client, stop: threading.Event, tally: Tally, seed: int) -> None:
    chance = random.Random(seed)
    while not stop.is_set():
        name, arguments = _random_call(chance)
        with _counted(tally) as failed:
            answer = getattr(client, name)(**arguments)
            if arguments.get("stream"):
                for _ in answer:
                    pass
        if failed:
            stop.wait(PAUSE_S)


async def _run_tasks(settings: dict[str, Any], stop: threading.Event, tally: Tally) -> None:
    async with ollama.AsyncClient(**settings) as client, asyncio.TaskGroup() as tasks:
        for seed in range(TASKS):
            tasks.create_task(_call_repeatedly_async(client, stop, tally, 100 + seed))


async def _call_repeatedly_async(client: ollama.AsyncClient, stop: threading.Event, tally: Tally, seed: int) -> None:
    chance = random.Random(seed)
    while not stop.is_set():
        name, arguments = _random_call(chance)
        with _counted(tally) as failed:
            answer = await getattr(client, name)(**arguments)
            if arguments.get("stream"):
                async for _ in answer:
                    pass
        if failed:
            await asyncio.sleep(PAUSE_S)


@contextlib.contextmanager
def _counted(tally: Tally) -> Iterator[list[Exception]]:
    """Count a call. The yielded list contains its error afterwards, if there was one."""
    failed: list[Exception] = []
    try:
        yield failed
    except Exception as error:
        failed.append(error)
    tally.count(failed[0] if failed else None)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _report(seconds: float, tally: Tally, stats: Any) -> tuple[str, list[str]]:
    third = len(tally.memory) // 3
    thirds = tally.memory[third : 2 * third], tally.memory[2 * third :]
    second, last = (max(mib for _, mib in part) for part in thirds)
    calls = sum(tally.ended.values())
    lines = [
        f"{seconds:.0f} s, {THREADS} threads and {TASKS} tasks, {len(tally.memory)} times a random fault on the next "
        "1 to 3 requests:",
        "",
        "| | |",
        "| --- | --- |",
        f"| calls | {calls} |",
        *(f"| {kind} | {number} |" for kind, number in tally.ended.most_common()),
        f"| any other exception | {len(tally.unexpected)} |",
        f"| retries of the sync client | {stats['totals']['retries']} |",
        f"| most memory of this process, second third and last third | {second:.0f} MiB, {last:.0f} MiB |",
        "| connections, threads, tasks left | none |",
    ]
    problems = [f"unexpected error: {error}" for error in tally.unexpected[:5]]
    if last > second * MAX_GROWTH:
        problems.append(f"memory grows: {second:.0f} MiB, then {last:.0f} MiB")
    if not tally.ended["answered"]:
        problems.append("no call was answered")
    return "\n".join(lines), problems


if __name__ == "__main__":
    sys.exit(main())
