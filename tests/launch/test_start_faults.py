"""Real vLLM servers that fail to start for many reasons, and the cause that `vllm_launch.causes` finds in the log."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from testbed import environment, models
from vllm_launch import Server, causes, faults, free_ports, logs
from vllm_launch.runtimes import groups

pytestmark = pytest.mark.vllm

_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in the server's process, which saves an import of vLLM
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_SMALL = {
    "max_model_len": 512,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 512 * 2**20,
    "gpu_memory_utilization": 0.2,
}


@pytest.fixture(scope="module")
def python():
    """The Python that has vLLM. The small model is prepared."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: no real vLLM server is started")
    found = environment.prepare()
    models.prepare(found, (models.SMOLLM2,))
    return found


@pytest.fixture(scope="module")
def warm(python):
    """A process that has imported vLLM, so that a start takes two seconds instead of ten."""
    script = Path(__file__).with_name("warm_starts.py")
    environ = {**_clean(), **_ENV}
    pipe = subprocess.PIPE
    with subprocess.Popen([python, script], env=environ, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def fails(warm, tmp_path_factory):
    """Starts a server that must fail. Returns the cause and the log."""

    def run(model=None, port=None, **fields):
        log = tmp_path_factory.mktemp("log") / "log"
        request = {"arguments": _server(model, port, **fields).arguments(), "log": str(log)}
        print(json.dumps(request), file=warm.stdin, flush=True)
        return _cause(int(warm.stdout.readline()), log.read_text(errors="replace"))

    return run


@pytest.fixture
def fails_with(python):
    """As `fails`, with environment variables that vLLM reads when it is imported."""

    def run(env, model):
        command = _server(model).command(str(python))
        environ = {**_clean(), **_ENV, **env}
        ended = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=1200, check=False
        )
        return _cause(ended.returncode, (ended.stdout + ended.stderr).decode(errors="replace"))

    return run


def _clean():
    return {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "HF_"))}


def _server(model=None, port=None, **fields):
    model = str(model or models.path(models.SMOLLM2))
    return Server(name="failing", model=model, port=port or free_ports(1)[0], **{**_SMALL, **fields})


def _cause(status, log):
    assert status
    cause = causes.explain(log, groups.how_it_ended(status))
    assert cause is not None, log[-2000:]
    return cause, log


@pytest.fixture
def changed(tmp_path):
    """Copies the small model with changes in its config.json."""

    def make(**config):
        folder = tmp_path / "model"
        folder.mkdir()
        for file in models.path(models.SMOLLM2).iterdir():
            (folder / file.name).symlink_to(file)
        (folder / "config.json").unlink()
        read = json.loads((models.path(models.SMOLLM2) / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**read, **config}))
        return folder

    return make


@contextlib.contextmanager
def hub(code, status):
    """A fake Hugging Face hub that rejects every request with the real one's header `X-Error-Code`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "no")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        finally:
            server.shutdown()
            thread.join()


def test_source_files_named_in_the_tables_exist(python):
    find = "import importlib.util; print(importlib.util.find_spec('vllm').origin)"
    packages = Path(subprocess.check_output([python, "-c", find], text=True).strip()).parent.parent
    sources = {row.source.partition("before")[0] for row in (*faults.FAULTS, *logs.SIGNS)}
    named = {file for source in sources for file in re.findall(r"[\w/]+/\w+\.py", source)}
    assert len(named) > 30
    assert not [file for file in named if not (packages / "vllm" / file).exists() and not (packages / file).exists()]


def test_unknown_flag_is_explained(fails):
    cause, _ = fails(extra_args=("--max-model-length", "9"))
    assert cause.name == "unknown flag"
    assert "Nearest: --max-model-len." in cause.advice


def test_unknown_tool_parser_is_explained(fails):
    cause, _ = fails(tool_call_parser="hermess")
    assert (cause.name, cause.advice.partition(".")[0]) == ("unknown tool parser", "Nearest: hermes")


def test_unknown_reasoning_parser_is_explained(fails):
    cause, _ = fails(reasoning_parser="deepseek_r2")
    assert (cause.name, cause.advice.partition(".")[0]) == ("unknown reasoning parser", "Nearest: deepseek_r1")


def test_missing_chat_template_is_explained(fails):
    cause, _ = fails(chat_template="/no/such.jinja")
    assert cause.words == "there is no chat template /no/such.jinja"


def test_port_in_use_is_explained(fails):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cause, _ = fails(port=taken.getsockname()[1])
    assert cause.name == "port taken"


def test_window_larger_than_the_models_is_explained(fails):
    cause, _ = fails(max_model_len=100000)
    assert "Set max_model_len to 8192 or less" in cause.advice


def test_unknown_model_type_is_explained(fails, changed):
    cause, _ = fails(changed(model_type="exaone9", architectures=["Exaone9ForCausalLM"]))
    assert cause.words == "this vLLM's transformers does not know the model type 'exaone9'"


def test_unknown_architecture_is_explained(fails, changed):
    cause, _ = fails(changed(architectures=["Exaone9ForCausalLM"]))
    assert cause.words == "this vLLM can't serve the architecture Exaone9ForCausalLM"


def test_model_with_remote_code_is_explained(fails, changed):
    cause, _ = fails(changed(model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"}))
    assert cause.name == "remote code"


def test_wrong_quantization_is_explained(fails, changed):
    quantized = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    cause, _ = fails(changed(quantization_config=quantized), quantization="gptq")
    assert cause.words == "the model is quantized with awq, and gptq is asked for"


def test_folder_without_config_is_explained(fails, tmp_path):
    cause, _ = fails(tmp_path)
    assert cause.words == f"{tmp_path} has no config.json"


def test_missing_folder_is_explained(fails):
    cause, _ = fails("/no/such/folder")
    assert cause.name == "no such folder"


def test_uncached_model_while_offline_is_explained(fails):
    cause, _ = fails("org/nothing")
    assert cause.name == "offline"


def test_gated_model_is_explained(fails_with):
    with hub("GatedRepo", 403) as env:
        cause, _ = fails_with(env, "org/gated")
    assert cause.name == "gated model"
    assert "HF_TOKEN" in cause.advice


def test_model_unknown_to_the_hub_is_explained(fails_with):
    with hub("RepoNotFound", 401) as env:
        cause, _ = fails_with(env, "org/nothing")
    assert cause.name == "unknown model"


def test_folder_without_weights_is_explained(fails, changed):
    folder = changed()
    (folder / "model.safetensors").unlink()
    cause, _ = fails(folder)
    assert cause.words == f"{folder} has no weights that this vLLM can load"


def test_broken_weights_are_explained(fails, changed):
    folder = changed()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n" * 3)
    cause, _ = fails(folder)
    assert cause.name == "broken weights"


def test_kv_cache_too_small_for_one_request_is_explained(fails):
    cause, log = fails(max_model_len=8192, kv_cache_memory_bytes=50_000_000)
    assert cause.name == "KV cache too small"
    fits = re.search(r"Set max_model_len to (\d+) or less", cause.advice)
    assert fits is not None
    assert 0 < int(fits[1]) < 8192
    assert logs.progress(log).stage is logs.Stage.KV_CACHE


def test_more_memory_than_available_is_explained(fails):
    cause, _ = fails(kv_cache_memory_bytes=2**50)
    assert cause.name == "memory taken"
    assert cause.words.startswith("1048576.0 GiB of memory are wanted")


def test_lora_adapter_of_too_high_rank_is_explained(fails, tmp_path):
    adapter = {"peft_type": "LORA", "r": 64, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    cause, _ = fails(max_lora_rank=16, lora_modules={"own": str(tmp_path)})
    assert cause.words == "a LoRA adapter has rank 64, and 16 is allowed"


def test_server_killed_during_start_is_explained(python):
    """The kernel sends SIGKILL when memory runs out."""
    server = Server(name="failing", model=str(models.path(models.SMOLLM2)), port=free_ports(1)[0], **_SMALL)
    with subprocess.Popen(
        server.command(str(python)), env={**os.environ, **_ENV}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as killed:
        log = killed.stdout.readline()
        killed.kill()
        log += killed.stdout.read()
    cause = causes.explain(log.decode(errors="replace"), "by SIGKILL")
    assert cause is not None
    assert cause.name == "out of memory"


def test_log_of_a_ready_server_contains_stages_and_figures(chat_and_embed):
    whole = (environment.HOME / "logs" / "tests" / "chat.log").read_text(errors="replace")
    log, end_of_start, _ = whole.partition("Application startup complete.\n")  # requests of other tests follow
    log += end_of_start
    assert logs.progress(log).stage is logs.Stage.READY
    figures = logs.figures(log)
    assert figures.max_model_len == 2048
    assert figures.kv_cache_gib == 0.5
    assert figures.kv_cache_tokens is not None
    assert figures.max_concurrency == pytest.approx(figures.kv_cache_tokens / 2048, rel=0.01)
    assert causes.explain(log, "") is None
