"""Reads the log of a vLLM server: the progress of its start, and the figures in it. The input is text only.

vLLM writes `(EngineCore pid=12) INFO 01-31 12:00:00 [core.py:1] message`, tracebacks with the same process prefix, and
progress bars whose updates end with a carriage return. `parse` splits the text into lines and removes terminal escapes
and keys. `SIGNS` maps log lines to stages of the start; the last matching line counts.

Sources of the lines: vLLM 0.32.0, huggingface_hub 2.4.0 and uvicorn; each row names the file. Logs of older vLLM
versions are understood where their lines are the same.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SECRETS = re.compile(
    r"(?P<before>\bhf_(?=[A-Za-z0-9]{16})|\b(?i:bearer) +|\b(?i:hf_token|api_key)\b['\"]?[ :=]+\[?['\"]?)"
    r"(?!None\b|null\b|True\b|False\b)[A-Za-z0-9_.~+/-]{8,}=*"
)
_PROCESS = re.compile(r"^\([\w-]+[^()]* pid=\d+[^()]*\) ?")
_RECORD = re.compile(
    r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)"
    r"(?: \d\d-\d\d [\d:]+ \[?[^\]\s]+\] ?|: +)"  # vLLM's own, and uvicorn's
    r"(?P<message>.*)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log, or one state of a progress bar."""

    text: str
    """The line for display: without the process prefix, escapes and keys."""
    level: str
    """DEBUG, INFO, WARNING, ERROR or CRITICAL; empty for other lines: tracebacks, progress bars, prints."""
    message: str
    """`text` without the record's level, time and source location."""


def parse(log_text: str) -> list[Line]:
    """The lines that are not blank."""
    written = (_PROCESS.sub("", line) for line in re.split(r"[\r\n]+", readable(log_text)))
    return [_line(line.rstrip()) for line in written if line.strip()]


def readable(text: str) -> str:
    """The text without terminal escapes and control characters. `…` replaces keys."""
    plain = _CONTROLS.sub("", _ESCAPES.sub("", text))
    return _SECRETS.sub(lambda found: found["before"] + "…", plain)


def lines(log_text: str) -> list[str]:
    """The lines for display, without process prefixes. Each state of a progress bar is a line."""
    return [line.text for line in parse(log_text)]


class Stage(enum.IntEnum):
    """The stages of a start, in order. Not every server passes through all of them.

    The small files of a model that is not on this machine are downloaded early, in CONFIG.
    """

    IMPORT = 1
    CONFIG = 2
    DOWNLOAD = 3
    LOAD = 4
    COMPILE = 5
    PROFILE = 6
    KV_CACHE = 7
    CAPTURE = 8
    SERVE = 9
    READY = 10


@dataclass(frozen=True, slots=True)
class Sign:
    """A row of the table: a message that shows that a stage is reached."""

    pattern: re.Pattern[str]
    """The pattern of the message. A group `percent` is the completed share of the stage."""
    stage: Stage
    words: str
    """A description of the stage for the user. It may contain groups of the pattern."""
    source: str
    """The source file that writes the message."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a starting server."""

    stage: Stage
    words: str
    """A description, such as `loading weights, 25 % (1 of 4)`."""
    percent: int | None = None
    """The completed share of the stage, 0 to 100; None if the log does not show it."""


def _sign(pattern: str, stage: Stage, words: str, source: str) -> Sign:
    return Sign(re.compile(pattern), stage, words, source)


_BAR = r": +(?P<percent>\d+)%\|[^|]*\| *(?P<done>[\d.]+\w*)/(?P<total>[\d.]+\w*) \["
_BYTES = r".*B/s"  # only the hub's progress bars count bytes

SIGNS: tuple[Sign, ...] = (
    _sign(r"^non-default args: ", Stage.CONFIG, "reading the model's config", "entrypoints/serve/utils/api_utils.py"),
    _sign(
        r"^Resolved architecture: (?P<name>\S+)", Stage.CONFIG, "reading the model's config: {name}", "config/model.py"
    ),
    _sign(
        r"^Using max model len (?P<length>\d+)",
        Stage.CONFIG,
        "reading the model's config: up to {length} tokens a request",
        "config/model.py",
    ),
    _sign(
        r"^Initializing a V1 LLM engine \(v(?P<version>[^)]+)\)",
        Stage.CONFIG,
        "starting the engine of vLLM {version}",
        "v1/engine/core.py",
    ),
    _sign(
        rf"^(?:Fetching \d+ files|Downloading bytes|Reconstructing[^:]*){_BAR}",
        Stage.DOWNLOAD,
        "downloading model files, {percent} % ({done} of {total})",
        "huggingface_hub/_snapshot_download.py",
    ),
    _sign(
        rf"^(?P<file>\S+)(?:: [a-z ]+)?{_BAR}{_BYTES}",
        Stage.DOWNLOAD,
        "downloading {file}, {percent} % ({done} of {total})",
        "huggingface_hub/file_download.py",
    ),
    _sign(
        r"^Retrying in \d+s \[Retry (?P<retry>\d+)/(?P<retries>\d+)\]",
        Stage.DOWNLOAD,
        "the hub does not answer: retry {retry} of {retries}",
        "huggingface_hub/utils/_http.py",
    ),
    _sign(
        r"^Time spent downloading weights for .+: (?P<seconds>\d+)",
        Stage.DOWNLOAD,
        "weights downloaded in {seconds} s",
        "model_executor/model_loader/weight_utils.py",
    ),
    _sign(
        r"^(?:Starting to load model|Loading model from scratch)",
        Stage.DOWNLOAD,
        "looking for the model's files",
        "v1/worker/gpu_model_runner.py, v1/worker/gpu/model_runner.py, v1/worker/cpu_model_runner.py",
    ),
    _sign(
        r"^[^:|]*\b[Ss]hards\b[^:|]*: +(?P<percent>\d+)% Completed \| (?P<done>\d+)/(?P<total>\d+)",
        Stage.LOAD,
        "loading weights, {percent} % ({done} of {total} files)",
        "model_executor/model_loader/weight_utils.py",
    ),
    _sign(
        r"^Loading safetensors using [^:|]+: +(?P<percent>\d+)% Completed",
        Stage.LOAD,
        "loading weights, {percent} %",
        "model_executor/model_loader/weight_utils.py",
    ),
    _sign(
        r"^Loading weights took (?P<seconds>[\d.]+) seconds",
        Stage.LOAD,
        "weights loaded in {seconds} s",
        "model_executor/model_loader/default_loader.py",
    ),
    _sign(
        r"^Model loading took (?P<gib>[\d.]+) GiB",
        Stage.LOAD,
        "model loaded: {gib} GiB",
        "v1/worker/gpu_model_runner.py",
    ),
    _sign(
        r"Starting torch\.compile|^Warming up model for the compilation|Dynamo bytecode transform time|torch\.compile$",
        Stage.COMPILE,
        "compiling the model",
        "compilation/monitor.py, compilation/backends.py, v1/worker/cpu_model_runner.py",
    ),
    _sign(
        r"Compiling a graph for compile range|Cache the graph of compile range",
        Stage.COMPILE,
        "compiling the model",
        "compilation/backends.py",
    ),
    _sign(
        r"Directly load (?:AOT compilation|the compiled graph)",
        Stage.COMPILE,
        "loading what was compiled before",
        "compilation/backends.py, compilation/decorators.py",
    ),
    _sign(
        r"torch\.compile took (?P<seconds>[\d.]+) s", Stage.COMPILE, "compiled in {seconds} s", "compilation/monitor.py"
    ),
    _sign(
        r"Initial profiling/warmup run took|^Profiling CUDA graph memory|^Estimated CUDA graph memory|^Warming up done",
        Stage.PROFILE,
        "measuring how much memory is left",
        "compilation/monitor.py, v1/worker/gpu_model_runner.py, v1/worker/cpu_model_runner.py",
    ),
    _sign(
        r"^Encoder cache will be initialized with a budget",
        Stage.PROFILE,
        "measuring how much memory is left",
        "v1/worker/gpu_model_runner.py",
    ),
    _sign(
        r"^Available KV cache memory: (?P<gib>[\d.]+) GiB",
        Stage.KV_CACHE,
        "{gib} GiB for the KV cache",
        "v1/worker/gpu_worker.py",
    ),
    _sign(
        r"^(?:Explicitly|Auto) set \((?P<gib>[\d.]+)/[\d.]+\) GiB for KV cache",
        Stage.KV_CACHE,
        "{gib} GiB for the KV cache",
        "v1/worker/cpu_worker.py",
    ),
    _sign(
        r"KV cache size: (?P<tokens>[\d,]+) tokens, Maximum concurrency for (?P<length>[\d,]+) tokens per request: "
        r"(?P<times>[\d.]+)x",
        Stage.KV_CACHE,
        "KV cache for {tokens} tokens: {times} requests of {length}",
        "v1/core/kv_cache_utils.py",
    ),
    _sign(
        r"KV cache size: (?P<tokens>[\d,]+) tokens",
        Stage.KV_CACHE,
        "KV cache for {tokens} tokens",
        "v1/core/kv_cache_utils.py, before 0.32",
    ),
    _sign(
        rf"^Capturing CUDA graphs[^:|]*{_BAR}",
        Stage.CAPTURE,
        "capturing CUDA graphs, {percent} % ({done} of {total})",
        "v1/worker/gpu_model_runner.py, v1/worker/gpu/cudagraph_utils.py",
    ),
    _sign(
        rf"^(?:JIT kernel warmup|DeepGEMM warmup|Compiling CuTeDSL kernels)[^:|]*{_BAR}",
        Stage.CAPTURE,
        "warming up kernels, {percent} %",
        "model_executor/warmup/",
    ),
    _sign(
        r"^Compile and warming up model for size (?P<size>\d+)",
        Stage.CAPTURE,
        "warming up for {size} tokens",
        "v1/worker/gpu_worker.py",
    ),
    _sign(
        r"^Graph capturing finished in (?P<seconds>\d+) secs",
        Stage.CAPTURE,
        "CUDA graphs captured in {seconds} s",
        "v1/worker/gpu_model_runner.py",
    ),
    _sign(
        r"^init engine \(.*\) took (?P<seconds>[\d.]+) s",
        Stage.SERVE,
        "engine ready after {seconds} s",
        "v1/engine/core.py",
    ),
    _sign(
        r"^Supported tasks: |^Starting vLLM (?:API )?server|^Available routes are|^Waiting for application startup",
        Stage.SERVE,
        "starting the API server",
        "entrypoints/launchers/api_server/entry.py, entrypoints/launchers/launcher.py",
    ),
    _sign(r"^Application startup complete", Stage.READY, "ready", "uvicorn/lifespan/on.py"),
)
"""The messages of a start. The first row that matches a line applies."""

_NOTHING_YET = Progress(Stage.IMPORT, "importing vLLM")


def activity(log_text: str) -> str:
    """A description of what a starting server does."""
    return progress(log_text).words


def progress(log_text: str) -> Progress:
    """The progress by the last line that matches. Without one, the server imports vLLM, which takes 10 s or more."""
    for line in reversed(parse(log_text)):
        for sign in SIGNS:
            if found := sign.pattern.search(line.message):
                return _progress(sign, found)
    return _NOTHING_YET


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures that a server logs during its start. None: not in this part of the log."""

    kv_cache_tokens: int | None = None
    """Tokens that the KV cache holds."""
    max_concurrency: float | None = None
    """Requests of `max_model_len` tokens that it holds at once."""
    max_model_len: int | None = None
    """Tokens of one request: prompt plus answer."""
    kv_cache_gib: float | None = None
    """Memory of the KV cache of each worker, in GiB."""
    weights_gib: float | None = None
    """Memory of the weights on each GPU, in GiB. vLLM's CPU build does not log it."""
    checkpoint_gib: float | None = None
    """Size of the model's files, in GiB."""
    load_seconds: float | None = None
    """Time to load the weights."""
    init_seconds: float | None = None
    """Total time of profiling, creating the KV cache and warming up."""


_FIGURES = {
    # figure -> pattern. Source: v1/core/kv_cache_utils.py, v1/worker/{gpu,cpu}_worker.py, v1/engine/core.py,
    # config/model.py, model_executor/model_loader/{weight_utils,default_loader}.py, v1/worker/gpu_model_runner.py.
    "kv_cache_tokens": r"KV cache size: ([\d,]+) tokens",
    "max_concurrency": r"Maximum concurrency for [\d,]+ tokens per request: ([\d.,]+)x",
    "max_model_len": r"Maximum concurrency for ([\d,]+) tokens per request|^Using max model len (\d+)",
    "kv_cache_gib": r"^Available KV cache memory: ([\d.]+) GiB|^(?:Explicitly|Auto) set \(([\d.]+)/[\d.]+\) GiB for KV",
    "weights_gib": r"^Model loading took ([\d.]+) GiB",
    "checkpoint_gib": r"\bCheckpoint size: ([\d.]+) GiB",
    "load_seconds": r"^Loading weights took ([\d.]+) seconds",
    "init_seconds": r"^init engine \(.*?\) took ([\d.]+) s",
}


def figures(log_text: str) -> Figures:
    """The figures of a start. The last line that contains a figure counts."""
    messages = [line.message for line in parse(log_text)]
    values = {name: _last_number(re.compile(pattern), messages) for name, pattern in _FIGURES.items()}
    return Figures(
        kv_cache_tokens=_whole(values["kv_cache_tokens"]),
        max_concurrency=values["max_concurrency"],
        max_model_len=_whole(values["max_model_len"]),
        kv_cache_gib=values["kv_cache_gib"],
        weights_gib=values["weights_gib"],
        checkpoint_gib=values["checkpoint_gib"],
        load_seconds=values["load_seconds"],
        init_seconds=values["init_seconds"],
    )


def _line(text: str) -> Line:
    record = _RECORD.match(text)
    return Line(text, record["level"], record["message"]) if record else Line(text, "", text)


def _progress(sign: Sign, found: re.Match[str]) -> Progress:
    values = found.groupdict()
    percent = values.get("percent")
    return Progress(sign.stage, sign.words.format(**values), None if percent is None else min(int(percent), 100))


def _last_number(pattern: re.Pattern[str], messages: Iterable[str]) -> float | None:
    found = [match for message in messages if (match := pattern.search(message))]
    return float(next(filter(None, found[-1].groups())).replace(",", "")) if found else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
