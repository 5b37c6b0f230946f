"""Reading the log of a vLLM server for people: how far its start has come, and the figures that it names. Text in only.

vLLM writes `(EngineCore pid=12) INFO 01-31 12:00:00 [core.py:1] message`, tracebacks with the same process prefix, and
progress bars whose updates end with a carriage return. `parse` takes all of that apart, and takes out what is not for
people's eyes: terminal escapes and keys. `SIGNS` says which line means which stage of a start; the last one counts.

Sources of the lines: vLLM 0.32.0, huggingface_hub 2.4.0 and uvicorn, by the file that each row names. A log of an older
vLLM, whose lines partly differ, is read as far as they are the same.
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
    """As it is shown to people: without the process prefix, escapes and keys."""
    level: str
    """DEBUG, INFO, WARNING, ERROR or CRITICAL; empty for what is no log record: tracebacks, progress bars, prints."""
    message: str
    """`text` without the record's level, time and place."""


def parse(log_text: str) -> list[Line]:
    """The lines that hold anything."""
    written = (_PROCESS.sub("", line) for line in re.split(r"[\r\n]+", readable(log_text)))
    return [_line(line.rstrip()) for line in written if line.strip()]


def readable(text: str) -> str:
    """The text without terminal escapes and other control characters, and with keys replaced by `…`."""
    plain = _CONTROLS.sub("", _ESCAPES.sub("", text))
    return _SECRETS.sub(lambda found: found["before"] + "…", plain)


def lines(log_text: str) -> list[str]:
    """The lines for people to read, without process prefixes; each state of a progress bar is a line."""
    return [line.text for line in parse(log_text)]


class Stage(enum.IntEnum):
    """How far a start has come, in the order in which it goes; not every server goes through all.

    The small files of a model that is not on this machine are downloaded early, for CONFIG.
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
    """A row of the table: a message that says that a stage is reached."""

    pattern: re.Pattern[str]
    """Searched for in a message. A group `percent` says how much of the stage is done."""
    stage: Stage
    words: str
    """What is going on, for a waiting person; may name groups of the pattern."""
    source: str
    """Where the message is written."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a starting server is."""

    stage: Stage
    words: str
    """Such as `loading weights, 25 % (1 of 4)`."""
    percent: int | None = None
    """How much of the stage is done, 0 to 100; None where the log does not tell."""


def _sign(pattern: str, stage: Stage, words: str, source: str) -> Sign:
    return Sign(re.compile(pattern), stage, words, source)


_BAR = r": +(?P<percent>\d+)%\|[^|]*\| *(?P<done>[\d.]+\w*)/(?P<total>[\d.]+\w*) \["
_BYTES = r".*B/s"  # the hub's bars alone count bytes

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
"""Lines of a start. The first row that fits a line has it."""

_NOTHING_YET = Progress(Stage.IMPORT, "importing vLLM")


def activity(log_text: str) -> str:
    """What a starting server is doing, in words."""
    return progress(log_text).words


def progress(log_text: str) -> Progress:
    """What the last telling line says; importing vLLM, which takes 10 seconds and more, before there is one."""
    for line in reversed(parse(log_text)):
        for sign in SIGNS:
            if found := sign.pattern.search(line.message):
                return _progress(sign, found)
    return _NOTHING_YET


@dataclass(frozen=True, slots=True)
class Figures:
    """What a server has told of itself while it started. None: not said, or not in this part of the log."""

    kv_cache_tokens: int | None = None
    """Tokens that the KV cache holds."""
    max_concurrency: float | None = None
    """Requests of `max_model_len` tokens that it holds at once."""
    max_model_len: int | None = None
    """Tokens of one request, prompt and answer together."""
    kv_cache_gib: float | None = None
    """Memory of the KV cache of each worker, in GiB."""
    weights_gib: float | None = None
    """Memory of the weights on each GPU, in GiB. vLLM's CPU build does not say it."""
    checkpoint_gib: float | None = None
    """Size of the model's files, in GiB."""
    load_seconds: float | None = None
    """How long the weights took to load."""
    init_seconds: float | None = None
    """How long profiling, the KV cache and warming up took together."""


_FIGURES = {
    # figure -> vLLM's words. Source: v1/core/kv_cache_utils.py, v1/worker/{gpu,cpu}_worker.py, v1/engine/core.py,
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
    """The figures of a start, each by the last line that names it."""
    messages = [line.message for line in parse(log_text)]
    said = {name: _last_number(re.compile(pattern), messages) for name, pattern in _FIGURES.items()}
    return Figures(
        kv_cache_tokens=_whole(said["kv_cache_tokens"]),
        max_concurrency=said["max_concurrency"],
        max_model_len=_whole(said["max_model_len"]),
        kv_cache_gib=said["kv_cache_gib"],
        weights_gib=said["weights_gib"],
        checkpoint_gib=said["checkpoint_gib"],
        load_seconds=said["load_seconds"],
        init_seconds=said["init_seconds"],
    )


def _line(text: str) -> Line:
    record = _RECORD.match(text)
    return Line(text, record["level"], record["message"]) if record else Line(text, "", text)


def _progress(sign: Sign, found: re.Match[str]) -> Progress:
    said = found.groupdict()
    percent = said.get("percent")
    return Progress(sign.stage, sign.words.format(**said), None if percent is None else min(int(percent), 100))


def _last_number(pattern: re.Pattern[str], messages: Iterable[str]) -> float | None:
    found = [match for message in messages if (match := pattern.search(message))]
    return float(next(filter(None, found[-1].groups())).replace(",", "")) if found else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
