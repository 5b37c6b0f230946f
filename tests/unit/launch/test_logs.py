"""Parsing of vLLM's log. `starts/cpu.log` and the logs of failures are shortened logs of vLLM 0.32. `starts/gpu.log` is
composed of the messages in vLLM's sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_launch import logs
from vllm_launch.logs import Figures, Stage

STARTS = Path(__file__).parent / "starts"


def start(name):
    """A stored log, including carriage returns."""
    return (STARTS / f"{name}.log").read_bytes().decode()


def states(log_text):
    """The progress while the log grows, without repetitions. Each line end or carriage return adds a state."""
    found, written = [], ""
    for part in log_text.replace("\r", "\r\n").splitlines(keepends=True):
        written += part
        state = logs.progress(written)
        if not found or found[-1] != state:
            found.append(state)
    return found


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_stages_advance_until_ready(name):
    stages = [state.stage for state in states(start(name))]
    assert stages == sorted(stages)
    assert stages[-1] is Stage.READY


def test_gpu_start_has_every_stage_except_import():
    assert {state.stage for state in states(start("gpu"))} == set(Stage) - {Stage.IMPORT}


def test_progress_bars_yield_percentages():
    found = {state.words: state.percent for state in states(start("gpu"))}
    assert found["downloading model-00001-of-00002.safetensors, 42 % (4.19G of 9.97G)"] == 42
    assert found["loading weights, 50 % (1 of 2 files)"] == 50
    assert found["capturing CUDA graphs, 45 % (23 of 51)"] == 45
    assert found["compiling the model"] is None


def test_progress_descriptions_are_readable():
    found = [state.words for state in states(start("cpu"))]
    assert "starting the engine of vLLM 0.32.0" in found
    assert "KV cache for 23,296 tokens: 45.50 requests of 512" in found
    assert found[-1] == "ready"


def test_progress_is_import_before_the_first_line():
    assert logs.progress("") == logs.Progress(Stage.IMPORT, "importing vLLM")
    assert logs.activity("some warning of Python's\n") == "importing vLLM"


def test_progress_shows_retries_of_an_unreachable_hub():
    assert logs.activity(start("no-network").partition("httpcore2")[0]) == "the hub does not answer: retry 5 of 5"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Fetching 4 files:  25%|██▌       | 1/4 [00:01<00:03,  1.0s/it]", "downloading model files, 25 % (1 of 4)"),
        (
            "Downloading bytes:  25%|██▌   | 1.0G/4.0G [00:01<00:03, 1GB/s]",
            "downloading model files, 25 % (1.0G of 4.0G)",
        ),
        (
            "model.safetensors: downloading bytes:   7%|▋  | 7.0M/100M [00:01<00:03, 7MB/s]",
            "downloading model.safetensors, 7 % (7.0M of 100M)",
        ),
        ("Loading pt checkpoint shards:  10% Completed | 1/10 [00:01<00:03]", "loading weights, 10 % (1 of 10 files)"),
        ("Multi-thread loading shards:  10% Completed | 1/10 [00:01<00:03]", "loading weights, 10 % (1 of 10 files)"),
        ("Loading safetensors using Runai Model Streamer:  10% Completed | 1/9 [00:01<00:03]", "loading weights, 10 %"),
        ("JIT kernel warmup (8 compile keys):  50%|█ | 1/2 [00:01<00:01, 1.00kernel/s]", "warming up kernels, 50 %"),
        (
            "INFO 01-31 12:00:00 [backends.py:1] Directly load AOT compilation from /p",
            "loading what was compiled before",
        ),
        (
            "INFO 06-10 12:00:00 [kv_cache_utils.py:715] GPU KV cache size: 103,424 tokens",
            "KV cache for 103,424 tokens",
        ),
        (
            "INFO 06-10 12:00:00 core.py:58] Initializing a V1 LLM engine (v0.8.5) with config",
            "starting the engine of vLLM 0.8.5",
        ),
    ],
)
def test_other_bars_and_lines_of_older_versions_are_recognized(line, words):
    assert logs.activity(line) == words


def test_unrelated_lines_do_not_change_the_progress():
    written = start("gpu") + '(APIServer pid=1) INFO:     127.0.0.1:35514 - "GET /health HTTP/1.1" 200 OK\n'
    assert logs.progress(written).stage is Stage.READY


def test_figures_of_a_cpu_start():
    assert logs.figures(start("cpu")) == Figures(
        kv_cache_tokens=23296,
        max_concurrency=45.5,
        max_model_len=512,
        kv_cache_gib=1.0,
        checkpoint_gib=0.5,
        load_seconds=2.45,
        init_seconds=78.86,
    )


def test_figures_of_a_gpu_start():
    assert logs.figures(start("gpu")) == Figures(
        kv_cache_tokens=65696,
        max_concurrency=2.0,
        max_model_len=32768,
        kv_cache_gib=8.02,
        weights_gib=9.31,
        load_seconds=8.43,
        init_seconds=39.44,
    )


def test_figures_come_from_the_last_start_in_a_log():
    figures = logs.figures(start("gpu") + start("cpu"))
    assert (figures.kv_cache_tokens, figures.max_model_len, figures.init_seconds) == (23296, 512, 78.86)


def test_missing_figures_are_none():
    assert logs.figures("nothing of interest") == Figures()


def test_figures_support_two_kv_cache_lines_of_older_versions():
    written = (
        "INFO 06-10 12:00:00 [kv_cache_utils.py:715] GPU KV cache size: 103,424 tokens\n"
        "INFO 06-10 12:00:00 [kv_cache_utils.py:719] Maximum concurrency for 8,192 tokens per request: 12.62x\n"
        "INFO 06-10 12:00:00 [gpu_model_runner.py:1] Model loading took 14.9889 GiB and 5.201000 seconds\n"
    )
    figures = logs.figures(written)
    assert (figures.kv_cache_tokens, figures.max_concurrency, figures.max_model_len) == (103424, 12.62, 8192)
    assert figures.weights_gib == 14.9889


@pytest.mark.parametrize(
    "prefix",
    ["(EngineCore pid=12) ", "(EngineCore_DP0 pid=12) ", "(Worker_TP0 pid=12)", "(RayWorker pid=12, ip=192.0.2.1) "],
)
def test_lines_have_no_process_prefix(prefix):
    assert logs.lines(f"{prefix}ERROR 01-31 12:00:00 [core.py:9] no\n\n{prefix}\n") == [
        "ERROR 01-31 12:00:00 [core.py:9] no"
    ]


def test_lines_have_level_and_message():
    [record, server, other] = logs.parse(
        "(W pid=1) ERROR 01-31 12:00:00 [core.py:9] ValueError: no\nINFO:     Started\nTraceback (most recent):\n"
    )
    assert (record.level, record.message) == ("ERROR", "ValueError: no")
    assert (server.level, server.message) == ("INFO", "Started")
    assert (other.level, other.message) == ("", "Traceback (most recent):")


def test_bar_states_are_lines_and_other_separators_are_not():
    assert logs.lines("a\rb\r\nc\u2028d\n") == ["a", "b", "c\u2028d"]


def test_terminal_escapes_are_removed():
    coloured = (
        "\x1b[0;36m(EngineCore pid=12)\x1b[0;0m \x1b]0;title\x07INFO 01-31 12:00:00 [a.py:1] \x1b[1mfine\x08\x1b[K"
    )
    assert logs.lines(coloured) == ["INFO 01-31 12:00:00 [a.py:1] fine"]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("token hf_abcDEF1234567890xyz refused", "token hf_… refused"),
        ("Authorization: Bearer abcdefgh.ijkl-mn", "Authorization: Bearer …"),
        (
            "non-default args: {'api_key': ['s3cret-s3cret'], 'port': 8001}",
            "non-default args: {'api_key': ['…'], 'port': 8001}",
        ),
        ("hf_token=s3cret-s3cret", "hf_token=…"),
        ("'hf_token': None, 'api_key': None", "'hf_token': None, 'api_key': None"),
        ("HF_HUB_OFFLINE=1 hf_overrides={}", "HF_HUB_OFFLINE=1 hf_overrides={}"),
    ],
)
def test_keys_are_removed(written, shown):
    assert logs.readable(written) == shown
