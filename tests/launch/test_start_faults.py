"""Real vLLM servers that die while they start, each for a reason of its own, and the cause read from the log."""

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
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the server's process: one import of vLLM less
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
    """The Python that has vLLM, and the small model."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: no real vLLM server is started")
    found = environment.prepare()
    models.prepare(found, (models.SMOLLM2,))
    return found


@pytest.fixture(scope="module")
def warm(python):
    """A vLLM that has made its imports, so that each start is two seconds and not ten."""
    script = Path(__file__).with_name("warm_starts.py")
    environ = {**_clean(), **_ENV}
    pipe = subprocess.PIPE
    with subprocess.Popen([python, script], env=environ, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def dies(warm, tmp_path_factory):
    """Starts a server that is not to come up; returns the cause that is read from its log, and the log."""

    def run(model=None, port=None, **fields):
        log = tmp_path_factory.mktemp("log") / "log"
        asked = {"arguments": _dying(model, port, **fields).arguments(), "log": str(log)}
        print(json.dumps(asked), file=warm.stdin, flush=True)
        return _cause(int(warm.stdout.readline()), log.read_text(errors="replace"))

    return run


@pytest.fixture
def dies_with(python):
    """The same with variables that are read when vLLM is imported."""

    def run(env, model):
        command = _dying(model).command(str(python))
        environ = {**_clean(), **_ENV, **env}
        ended = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=240, check=False
        )
        return _cause(ended.returncode, (ended.stdout + ended.stderr).decode(errors="replace"))

    return run


def _clean():
    return {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "HF_"))}


def _dying(model=None, port=None, **fields):
    model = str(model or models.path(models.SMOLLM2))
    return Server(name="dying", model=model, port=port or free_ports(1)[0], **{**_SMALL, **fields})


def _cause(status, log):
    assert status
    cause = causes.explain(log, groups.how_it_ended(status))
    assert cause is not None, log[-2000:]
    return cause, log


@pytest.fixture
def changed(tmp_path):
    """Makes a copy of the small model with another config.json."""

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
    """A hub that refuses every request, in the words of the real one: the header `X-Error-Code`."""

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "no")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        finally:
            server.shutdown()
            thread.join()


def test_the_files_that_the_tables_name_as_sources_are_there(python):
    find = "import importlib.util; print(importlib.util.find_spec('vllm').origin)"
    packages = Path(subprocess.check_output([python, "-c", find], text=True).strip()).parent.parent
    sources = {row.source.partition("before")[0] for row in (*faults.FAULTS, *logs.SIGNS)}
    named = {file for source in sources for file in re.findall(r"[\w/]+/\w+\.py", source)}
    assert len(named) > 30
    assert not [file for file in named if not (packages / "vllm" / file).exists() and not (packages / file).exists()]


def test_an_unknown_flag(dies):
    cause, _ = dies(extra_args=("--max-model-length", "9"))
    assert cause.name == "unknown flag"
    assert "Nearest: --max-model-len." in cause.advice


def test_an_unknown_tool_parser(dies):
    cause, _ = dies(tool_call_parser="hermess")
    assert (cause.name, cause.advice.partition(".")[0]) == ("unknown tool parser", "Nearest: hermes")


def test_an_unknown_reasoning_parser(dies):
    cause, _ = dies(reasoning_parser="deepseek_r2")
    assert (cause.name, cause.advice.partition(".")[0]) == ("unknown reasoning parser", "Nearest: deepseek_r1")


def test_a_chat_template_that_is_not_there(dies):
    cause, _ = dies(chat_template="/no/such.jinja")
    assert cause.words == "there is no chat template /no/such.jinja"


def test_a_port_that_is_taken(dies):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cause, _ = dies(port=taken.getsockname()[1])
    assert cause.name == "port taken"


def test_more_tokens_than_the_model_was_made_for(dies):
    cause, _ = dies(max_model_len=100000)
    assert "Set max_model_len to 8192 or less" in cause.advice


def test_a_model_type_that_is_unknown(dies, changed):
    cause, _ = dies(changed(model_type="exaone9", architectures=["Exaone9ForCausalLM"]))
    assert cause.words == "this vLLM's transformers does not know the model type 'exaone9'"


def test_an_architecture_that_is_unknown(dies, changed):
    cause, _ = dies(changed(architectures=["Exaone9ForCausalLM"]))
    assert cause.words == "this vLLM can't serve the architecture Exaone9ForCausalLM"


def test_a_model_that_brings_code_of_its_own(dies, changed):
    cause, _ = dies(changed(model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"}))
    assert cause.name == "remote code"


def test_a_quantization_that_is_not_the_models(dies, changed):
    quantized = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    cause, _ = dies(changed(quantization_config=quantized), quantization="gptq")
    assert cause.words == "the model is quantized with awq, and gptq is asked for"


def test_a_folder_without_a_config(dies, tmp_path):
    cause, _ = dies(tmp_path)
    assert cause.words == f"{tmp_path} has no config.json"


def test_a_folder_that_is_not_there(dies):
    cause, _ = dies("/no/such/folder")
    assert cause.name == "no such folder"


def test_a_model_that_is_not_here_while_offline(dies):
    cause, _ = dies("org/nothing")
    assert cause.name == "offline"


def test_a_gated_model(dies_with):
    with hub("GatedRepo", 403) as env:
        cause, _ = dies_with(env, "org/gated")
    assert cause.name == "gated model"
    assert "HF_TOKEN" in cause.advice


def test_a_model_that_the_hub_does_not_know(dies_with):
    with hub("RepoNotFound", 401) as env:
        cause, _ = dies_with(env, "org/nothing")
    assert cause.name == "unknown model"


def test_a_folder_without_weights(dies, changed):
    folder = changed()
    (folder / "model.safetensors").unlink()
    cause, _ = dies(folder)
    assert cause.words == f"{folder} has no weights that this vLLM can load"


def test_weights_that_are_broken(dies, changed):
    folder = changed()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n" * 3)
    cause, _ = dies(folder)
    assert cause.name == "broken weights"


def test_a_kv_cache_that_can_not_hold_one_request(dies):
    cause, log = dies(max_model_len=8192, kv_cache_memory_bytes=50_000_000)
    assert cause.name == "KV cache too small"
    fits = re.search(r"Set max_model_len to (\d+) or less", cause.advice)
    assert fits is not None
    assert 0 < int(fits[1]) < 8192
    assert logs.progress(log).stage is logs.Stage.KV_CACHE


def test_more_memory_than_there_is(dies):
    cause, _ = dies(kv_cache_memory_bytes=2**50)
    assert cause.name == "memory taken"
    assert cause.words.startswith("1048576.0 GiB of memory are wanted")


def test_a_lora_adapter_of_too_high_a_rank(dies, tmp_path):
    adapter = {"peft_type": "LORA", "r": 64, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    cause, _ = dies(max_lora_rank=16, lora_modules={"own": str(tmp_path)})
    assert cause.words == "a LoRA adapter has rank 64, and 16 is allowed"


def test_a_server_that_is_killed(python):
    """As the kernel does where memory runs out: with SIGKILL, in the middle of its start."""
    server = Server(name="dying", model=str(models.path(models.SMOLLM2)), port=free_ports(1)[0], **_SMALL)
    with subprocess.Popen(
        server.command(str(python)), env={**os.environ, **_ENV}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as killed:
        log = killed.stdout.readline()
        killed.kill()
        log += killed.stdout.read()
    cause = causes.explain(log.decode(errors="replace"), "by SIGKILL")
    assert cause is not None
    assert cause.name == "out of memory"


def test_a_server_that_comes_up_tells_its_stages_and_figures(chat_and_embed, pytestconfig):
    whole = (environment.HOME / "logs" / "tests" / "chat.log").read_text(errors="replace")
    log, up, _ = whole.partition("Application startup complete.\n")  # then come the requests of other tests
    log += up
    assert logs.progress(log).stage is logs.Stage.READY
    told = logs.figures(log)
    assert told.max_model_len == 2048
    assert told.kv_cache_gib == 0.5
    assert told.kv_cache_tokens is not None
    assert told.max_concurrency == pytest.approx(told.kv_cache_tokens / 2048, rel=0.01)
    assert causes.explain(log, "") is None
