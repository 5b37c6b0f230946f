"""The definitions of the test bed's vLLM servers, and running them with visible progress."""

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
"""The API key of the Korean server."""

SMALL_MACHINE = {
    # vLLM's CPU build starts three Python processes for a server, and each imports vLLM for about 8 seconds. With the
    # worker in the engine's process, a server needs two thirds of the time and of the memory.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # vLLM inspects the class of a model for 10 seconds and caches the result here.
    "VLLM_CACHE_ROOT": str(HOME / "cache"),
    # One thread for each server. On few cores, servers with more threads are ten times slower; and with a fixed order
    # of additions a model generates the same text on every machine.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Variables of a vLLM server on a machine with few cores."""
_QUIET = ("--disable-access-log-for-endpoints", "/health,/metrics")


def _server(name: str, model: str, port: int, served: tuple[str, ...], **more: object) -> Server:
    """A server of a small model: half a gigabyte of KV cache is enough, and on a GPU it leaves memory for others."""
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
    """SmolLM2: chat, tools, JSON. The template makes it think if `enable_thinking` is set."""
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
    """all-MiniLM-L6-v2: embeddings with 384 dimensions for texts of up to 256 tokens."""
    return _server("embed", models.MINILM, port, ("minilm",), runner="pooling")


def korean(port: int) -> Server:
    """Gemma 3 270M, a base model that supports Korean. It requires `API_KEY`."""
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
    """SmolLM2 with thinking tokens and one of vLLM's reasoning parsers: qwen3, deepseek_r1, deepseek_v3, …."""
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
    """Run the servers concurrently until the context ends. Shows the progress of each until it is ready."""
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
