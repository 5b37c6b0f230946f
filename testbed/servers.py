"""The test bed's vLLM servers: what each of them serves, and running them with visible progress."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from testbed import models
from testbed.paths import HERE, HOME
from vllm_launch import Server, ServerProcess, running
from vllm_launch.progress import board

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vllm_launch import Progress

_KEY_FILE = HERE / "api-key.txt"
API_KEY = _KEY_FILE.read_text().strip()
"""The key that the Korean server asks for."""

SMALL_MACHINE = {
    # vLLM's CPU build starts three Python processes a server, each of which imports vLLM for some 8 seconds. Its worker
    # can live in the engine's process instead: two thirds of the time and of the memory.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # What vLLM has found out about a model's class, in 10 seconds, it keeps here.
    "VLLM_CACHE_ROOT": str(HOME / "cache"),
    # One thread each. On few cores, servers whose threads wait for one another are ten times slower; and a sum that is
    # always added up in the same order gives the same words on every machine.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Variables of a vLLM server on a machine with few cores."""
_QUIET = ("--disable-access-log-for-endpoints", "/health,/metrics")


def _server(name: str, model: str, port: int, served: tuple[str, ...], **more: object) -> Server:
    """The models are small: half a gigabyte holds several of their windows, and on a GPU they leave room for others."""
    return Server.model_validate(
        {
            "name": name,
            "model": str(models.path(model)),
            "port": port,
            "served_model_name": served,
            "enforce_eager": True,
            "kv_cache_memory_bytes": 512 * 2**20,
            "gpu_memory_utilization": 0.2,
            "extra_args": _QUIET,
            "env": SMALL_MACHINE,
            **more,
        }
    )


def _template(name: str) -> str:
    return str(HERE / "templates" / name)


def chat(port: int) -> Server:
    """SmolLM2: chat, tools, JSON; the template makes it think where `enable_thinking` is given."""
    return _server(
        "chat",
        models.SMOLLM2,
        port,
        ("smol", "smoltools", "smolthink"),
        max_model_len=2048,
        dtype="float32",
        tool_call_parser="hermes",
        chat_template=_template("lab.jinja"),
    )


def embed(port: int) -> Server:
    """all-MiniLM-L6-v2: embeddings of 384 dimensions, texts of up to 256 tokens."""
    return _server("embed", models.MINILM, port, ("minilm",), runner="pooling")


def korean(port: int) -> Server:
    """Gemma 3 270M, a base model that has read Korean; asks for `API_KEY`."""
    return _server(
        "korean",
        models.GEMMA3,
        port,
        ("gemma270",),
        max_model_len=2048,
        dtype="float32",
        chat_template=_template("plain.jinja"),
        api_key_file=_KEY_FILE,
    )


def reasoning(port: int, parser: str) -> Server:
    """SmolLM2 with thinking tokens, behind one of vLLM's reasoning parsers: qwen3, deepseek_r1, deepseek_v3, …."""
    return _server(
        f"reasoning-{parser.replace('_', '-')}",
        models.SMOLLM2_REASONING,
        port,
        ("smolreason",),
        max_model_len=2048,
        dtype="float32",
        tool_call_parser="hermes",
        reasoning_parser=parser,
        chat_template=_template("lab.jinja"),
    )


@contextlib.contextmanager
def serving(servers: Sequence[Server], python: Path, log_dir: Path) -> Iterator[list[ServerProcess]]:
    """Runs the servers side by side, with a row of progress for each until it is ready."""
    with contextlib.ExitStack() as stack:
        with board() as rows:
            row = {server.name: rows.add(f"Starting the {server.name} server") for server in servers}

            def show(progress: Progress) -> None:
                if progress.ready:
                    row[progress.server.name].done(f"ready on {progress.server.base_url}")
                else:
                    row[progress.server.name].note(progress.line or "importing vLLM")

            processes = stack.enter_context(running(servers, python=python, log_dir=log_dir, on_progress=show))
        yield processes
