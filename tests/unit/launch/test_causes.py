"""The causes of failed starts. Each row of the table has an example of its message.

The logs in `starts` are shortened logs of vLLM. The lines here are messages as in their sources.
"""

# The table has one row per line.
# ruff: noqa: E501

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_launch import causes
from vllm_launch.causes import Cause
from vllm_launch.faults import FAULTS

STARTS = Path(__file__).parent / "starts"
USAGE = "usage: vllm [-h] [--max-model-len MAX_MODEL_LEN] [--max-num-seqs MAX_NUM_SEQS] [--dtype {auto,half}]\n"


def start(name):
    return (STARTS / f"{name}.log").read_bytes().decode()


def explained(written, ended="with status 1"):
    cause = causes.explain(written, ended)
    assert cause is not None
    return cause


# row of the table, text of the log, part of the explanation
LINES = (
    ("unknown flag", USAGE + "vllm: error: unrecognized arguments: --max-model-length 9", "does not know --max-model-length"),
    ("wrong choice", "vllm: error: argument --dtype: invalid choice: 'haf' (choose from 'auto', 'half')", "Nearest: half. Allowed values: auto, half."),
    ("wrong choice", "vllm: error: argument --dtype: invalid choice: 'haf' (choose from auto, half)", "--dtype can't be 'haf'"),
    ("wrong value", "vllm: error: argument --port: invalid int value: 'many'", "--port: invalid int value: 'many'"),
    ("unknown tool parser", "KeyError: 'invalid tool call parser: hermess (chose from { hermes,mistral })'", "Nearest: hermes."),
    ("unknown reasoning parser", "KeyError: \"Reasoning parser 'qwen' not found. Available parsers: qwen3, step3\"", "no reasoning parser qwen."),
    ("unknown reasoning parser", "KeyError: 'invalid reasoning parser: qwen (chose from { qwen3,step3 })'", "Allowed values of reasoning_parser: qwen3, step3."),
    ("no tool parser", "TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser", "no tool-call parser is set"),
    ("no chat template file", "VLLMValidationError: The supplied chat template string (/t.jinja) appears path-like, but doesn't exist! Tried: /t.jinja", "no chat template /t.jinja"),
    ("no chat template file", "ValueError: The supplied chat template (/t.jinja) looks like a file path, but it failed to be opened. Reason: no", "no chat template /t.jinja"),
    ("port taken", "OSError: [Errno 98] Address already in use", "its port is in use"),
    ("port taken", "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8001): address already in use", "its port is in use"),
    ("port not allowed", "    sock.bind(addr)\nPermissionError: [Errno 13] Permission denied", "no permission to listen on its port"),
    ("gated model", "OSError: You are trying to access a gated repo.\nMake sure to have access to it", "the model is gated"),
    ("gated model", "Access to model org/gated is restricted and you are not in the authorized list.", "HF_TOKEN"),
    ("unknown revision", "OSError: v9 is not a valid git identifier (branch name, tag name or commit id) that exists", "does not have this revision"),
    ("unknown model", "OSError: org/no is not a local folder and is not a valid model identifier listed on the hub", "the hub does not have this model"),
    ("token refused", "401 Client Error.\nInvalid credentials in Authorization header", "rejects the token"),
    ("no such folder", "HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/no/such'.", "/no/such is neither an existing folder"),
    ("offline", "LocalEntryNotFoundError: Cannot find the requested files in the disk cache and outgoing traffic has been disabled.", "HF_HUB_OFFLINE"),
    ("no network", "httpx.ConnectError: [Errno -3] Temporary failure in name resolution", "the hub is unreachable"),
    ("no config", "  Value error, Invalid repository ID or local directory specified: '/models/empty'.", "/models/empty has no config.json"),
    ("no config", "OSError: /models/empty does not appear to have a file named config.json. Checkout", "/models/empty has no config.json"),
    ("no weights", "RuntimeError: Cannot find any model weights with `/models/empty`", "/models/empty has no weights"),
    ("broken weights", "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "is broken"),
    ("broken weights", '  File "/vllm/transformers_utils/utils.py", line 113, in parse_safetensors_file_metadata\n    metadata = json.loads(…)\nMemoryError', "Git LFS"),
    ("remote code", "  Value error, The repository org/own contains custom code which must be executed to correctly load", "--trust-remote-code"),
    ("unknown model type", "  Value error, The checkpoint you are trying to load has model type `exaone9` but Transformers does not recognize this architecture.", "model type 'exaone9'"),
    ("unknown architecture", "  Value error, Model architectures ['NewForCausalLM'] are not supported for now. Supported architectures: …", "architecture NewForCausalLM."),
    ("unknown architecture", "ValueError: Model architecture OldModel was supported in vLLM until v0.9, and is not supported anymore.", "architecture OldModel."),
    ("wrong runner", "  Value error, This model does not support `--runner pooling`. You can pass", "with --runner pooling"),
    ("wrong runner", "  Value error, Embedding models do not support `--runner generate`. Use", "with --runner generate"),
    ("quantization mismatch", "  Value error, Quantization method specified in the model config (awq) does not match the quantization method specified in the `quantization` argument (gptq).", "quantized with awq, and gptq is asked for"),
    ("quantization unknown", "ValueError: Cannot find the config file for awq", "not quantized with awq"),
    ("quantization unsupported", "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. Current capability: 75.", "support the quantization: The quantization method fp8 is not supported"),
    ("quantization unsupported", "  Value error, gguf quantization is currently not supported in cpu. [type=value_error, input_value=…]", "support the quantization: gguf quantization is currently not supported in cpu."),
    ("dtype unsupported", "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute capability 7.5.", "this GPU (Tesla T4)"),
    ("max_model_len too large", "  Value error, User-specified max_model_len (9000) is greater than the derived max_model_len (max_position_embeddings=8192.0 or model_max_length=None in model's config.json).", "Set max_model_len to 8192 or less"),
    ("too many GPUs asked for", "  Value error, World size (4) is larger than the number of available GPUs (2) in this node.", "needs more GPUs than are available"),
    ("too many GPUs asked for", "AssertionError: DP adjusted local rank 1 is out of bounds for 1 devices.", "needs more GPUs than are available"),
    ("heads not divisible", "  Value error, Total number of attention heads (9) must be divisible by tensor parallel size (2).", "9 attention heads cannot be divided among 2 GPUs"),
    ("LoRA rank", "ValueError: LoRA rank 64 is greater than max_lora_rank 16.", "rank 64, and 16 is allowed"),
    ("no LoRA adapter", "ValueError: Loading lora a failed: No adapter found for /no/such", "the path of a LoRA adapter in lora_modules does not exist"),
    ("GPU memory taken", "ValueError: Free memory on device cuda:0 (19.77/22.05 GiB) on startup is less than desired GPU memory utilization (0.9, 19.84 GiB).", "19.84 GiB of GPU memory are wanted (gpu_memory_utilization 0.9), 19.77 of 22.05"),
    ("GPU memory taken", "ValueError: Free memory on device (3.22/4.0 GiB) on startup is less than desired GPU memory utilization (0.9, 3.6 GiB).", "3.22 of 4.0 GiB are free"),
    ("KV cache too small", "ValueError: … (0.18 GiB KV cache is needed, which is larger than the available KV cache memory (0.04 GiB). Based on the available memory, the estimated maximum model length is 1920. Try", "Set max_model_len to 1920 or less"),
    ("KV cache far too small", "ValueError: … (0.18 GiB KV cache is needed, which is larger than the available KV cache memory (0.04 GiB). Try", "too small for one request"),
    ("KV cache far too small", "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens that can be stored in KV cache (512).", "Lower max_model_len"),
    ("no memory for the KV cache", "ValueError: No available memory for the cache blocks. Try increasing", "leave no memory"),
    ("memory taken", "ValueError: Available memory on node 0 (1.5/14.84 GiB) on kv cache allocation is less than requested memory for kv (83.82 GiB).", "83.82 GiB of memory are wanted, 1.5 of 14.84"),
    ("out of GPU memory", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", "the GPU's memory is full"),
    ("out of GPU memory", "(W pid=1) ERROR 01-31 12:00:00 [gpu_model_runner.py:5147] Failed to load model - not enough GPU memory. Try", "tensor_parallel_size"),
    ("shared memory too small", "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).", "Raise shm_size."),
    ("shared memory too small", "torch.distributed.DistBackendError: Error while creating shared memory segment /dev/shm/nccl-1 (size 9637888)", "/dev/shm"),
    ("disk full", "OSError: [Errno 28] No space left on device: '/root/.cache/huggingface/hub'", "the disk is full"),
    ("driver too old", "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", "driver is too old"),
    ("no GPU", "RuntimeError: Failed to infer device type, please set", "finds no GPU"),
    ("no GPU", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "finds no GPU"),
    ("no such program", "vllm: 8: exec: python3: not found", "the container's image does not have python3"),
    ("no such program", "vllm: exec: line 8: python3: not found", "the container's image does not have python3"),
    ("no such program", "vllm: line 8: exec: python3: not found", "the container's image does not have python3"),
    ("no such program", "vllm: line 8: /opt/python3: No such file or directory", "the container's image does not have /opt/python3"),
    ("GPU too old", "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device", "not built for this GPU"),
    ("CPU too old", "RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore': -4}", "AVX512"),
    ("NUMA nodes", "AssertionError: Not enough allowed NUMA nodes to bind threads of 3 local CPUWorkers.", "3 parallel workers do not fit"),
    ("cache not writable", "PermissionError: [Errno 13] Permission denied: '/cache/hub'", "/cache/hub"),
    ("out of memory", "RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}", "a process was killed"),
    ("out of memory", "(E pid=1) ERROR 01-31 12:00:00 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting", "ran out of memory"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "written", "explanation"), LINES)
def test_explain_finds_the_cause_of_a_known_message(name, written, explanation):
    cause = explained(written)
    assert cause.name == name
    assert explanation in str(cause)
    assert cause.evidence.strip() in written


def test_each_fault_has_an_example_and_a_unique_name():
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))
    assert set(names) == {name for name, _, _ in LINES}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_has_advice_in_sentences(fault):
    assert fault.advice.endswith(".")
    assert not fault.words.endswith(".")
    assert fault.source
    known = set(fault.pattern.groupindex)
    assert set(re.findall(r"\{(\w+)", fault.words + fault.advice)) <= known


@pytest.mark.parametrize(
    ("log", "name"),
    [
        ("gated", "gated model"),
        ("unknown-model", "unknown model"),  # although its message mentions gated repos
        ("no-network", "no network"),
        ("no-weights", "no weights"),
        ("kv-cache", "KV cache too small"),
        ("memory", "memory taken"),
        ("lora-rank", "LoRA rank"),
    ],
)
def test_explain_finds_the_cause_in_a_whole_log(log, name):
    assert explained(start(log)).name == name


@pytest.mark.parametrize("log", ["cpu", "gpu"])
def test_explain_returns_none_for_a_successful_start(log):
    assert causes.explain(start(log), "") is None


@pytest.mark.parametrize(
    ("ended", "name"),
    [
        ("by SIGKILL, as when memory runs out", "out of memory"),
        ("with status 137", "out of memory"),
        ("by SIGBUS", "shared memory too small"),
        ("with status 135", "shared memory too small"),
        ("by SIGILL", "CPU too old"),
        ("with status 132", "CPU too old"),
    ],
)
def test_explain_uses_the_exit_when_the_log_has_no_error(ended, name):
    assert explained("INFO 01-31 12:00:00 [a.py:1] fine\n", ended).name == name
    assert explained("ValueError: LoRA rank 64 is greater than max_lora_rank 16.", ended).name == "LoRA rank"


def test_explain_ignores_lines_below_error():
    written = (
        "(A pid=1) WARNING 01-31 12:00:00 [parallel.py:746] Address already in use. Retrying with a new port.\n"
        "(E pid=2) INFO 01-31 12:00:00 [shm_broadcast.py:871] No available shared memory broadcast block found\n"
    )
    assert causes.explain(written, "with status 1") is None
    assert causes.explain("", "with status 1") is None


def test_explain_falls_back_to_the_first_exception():
    written = (
        "(Worker pid=1) ERROR 01-31 12:00:00 [core.py:9] RuntimeError: The first\n"
        "(Worker pid=1) RuntimeError: Another\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}\n"
    )
    assert explained(written) == Cause("exception", "RuntimeError: The first", "", "RuntimeError: The first")
    assert str(explained(written)) == "Cause: RuntimeError: The first"


def test_explain_includes_the_line_after_a_validation_error():
    written = "pydantic_core.ValidationError: 1 validation error for X\n  Value error, too long\n"
    assert (
        explained(written).sentence == "pydantic_core.ValidationError: 1 validation error for X: Value error, too long"
    )


@pytest.mark.parametrize(
    "consequence",
    [
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        "Exception: WorkerProc initialization failed due to an exception in a background process.",
        "RuntimeError: Frontend process failed during engine core initialization. See root cause above.",
    ],
)
def test_explain_ignores_consequences_of_other_errors(consequence):
    assert causes.explain(consequence, "with status 1") is None


def test_explain_suggests_the_nearest_flag_of_the_usage():
    cause = explained(USAGE + "vllm: error: unrecognized arguments: --max-model-length=9 --max-nmu-seqs --zzz\n")
    assert cause.advice.startswith("Nearest: --max-model-len, --max-num-seqs. ")


def test_cause_contains_neither_keys_nor_escapes():
    cause = explained("\x1b[31mValueError: token hf_abcDEF1234567890xyz is no good\x1b[0m")
    assert str(cause) == "Cause: ValueError: token hf_… is no good"
    assert cause.evidence == "ValueError: token hf_… is no good"


def test_failure_report_contains_the_cause_and_the_last_lines(tmp_path):
    log = "\n".join([*(f"line {number}" for number in range(20)), "ValueError: No such weights"])
    lines = causes.failure_report("chat", "ended", log, "with status 1", tmp_path).splitlines()
    assert lines[:3] == [
        "The vLLM server 'chat' ended.",
        "Cause: ValueError: No such weights",
        f"The last lines of its log, {tmp_path}:",
    ]
    assert lines[3:] == [f"  line {number}" for number in range(9, 20)] + ["  ValueError: No such weights"]
    assert causes.failure_report("chat", "ended", "", "").endswith("The last lines of its log:\n  (it is empty)")
