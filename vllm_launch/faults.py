"""The table of causes for which a vLLM server exits during its start: log message, meaning, fix.

The rows are matched in order, so a specific row stands before a general one. Sources of the messages: vLLM 0.32.0
(paths without a project name), transformers 5.19, huggingface_hub 2.4, PyTorch 2.13. `before` marks the messages of
older vLLM versions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

About: TypeAlias = Literal["arguments", "model", "memory", "machine"]

ENDED = "the process ended "
"""The prefix of the line that describes the exit of the process. It is the last line that the patterns match."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the table. `words` and `advice` may contain groups of the pattern."""

    about: About
    """What has to be fixed."""
    name: str
    pattern: re.Pattern[str]
    words: str
    advice: str
    source: str
    """The source file that writes the message."""


def _row(about: About, name: str, pattern: str, words: str, advice: str, source: str) -> Fault:
    return Fault(about, name, re.compile(pattern, re.MULTILINE), words, advice, source)


FAULTS: tuple[Fault, ...] = (
    # The command line.
    _row(
        "arguments",
        "unknown flag",
        r"error: unrecognized arguments: (?P<flags>.+)",
        "this vLLM does not know {flags}",
        "Correct it in extra_args, or remove it; `vllm serve --help=all` lists the flags.",
        "argparse.py (Python), utils/argparse_utils.py",
    ),
    _row(
        "arguments",
        "wrong choice",
        r"error: argument (?P<flag>\S+): invalid choice: (?P<value>.+?) \(choose from (?P<choices>.+)\)",
        "{flag} can't be {value}",
        "Allowed values: {choices}.",
        "argparse.py (Python)",
    ),
    _row(
        "arguments",
        "wrong value",
        r"error: argument (?P<flag>[^:]+): (?P<problem>.+)",
        "{flag}: {problem}",
        "Correct the value.",
        "argparse.py (Python)",
    ),
    _row(
        "arguments",
        "unknown tool parser",
        r"invalid tool call parser: (?P<value>.*?) \(chose from \{ *(?P<choices>.*?) *\}\)",
        "this vLLM has no tool-call parser {value!r}",
        "Allowed values of tool_call_parser: {choices}.",
        "entrypoints/launchers/launcher.py",
    ),
    _row(
        "arguments",
        "unknown reasoning parser",
        r"(?:Reasoning parser '(?P<value>.*?)' not found\. Available parsers:"
        r"|invalid reasoning parser: (?P<older>.*?) \(chose from \{) *(?P<choices>[^\"}]*)",
        "this vLLM has no reasoning parser {value}",
        "Allowed values of reasoning_parser: {choices}.",
        "reasoning/abs_reasoning_parsers.py; entrypoints/launchers/launcher.py",
    ),
    _row(
        "arguments",
        "no tool parser",
        r"--enable-auto-tool-choice requires --tool-call-parser",
        "tools are enabled, but no tool-call parser is set",
        "Set tool_call_parser, such as hermes.",
        "entrypoints/launchers/cli_args.py",
    ),
    _row(
        "arguments",
        "no chat template file",
        r"supplied chat template (?:string )?\((?P<path>[^)]*)\) (?:appears path-like|looks like a file path)",
        "there is no chat template {path}",
        "Set the path of an existing file. For a container, use the path in the container, on one of its volumes.",
        "renderers/chat_utils.py",
    ),
    _row(
        "arguments",
        "port taken",
        r"Address already in use|\[Errno 98\]|error while attempting to bind on address",
        "its port is in use",
        "Stop the program that listens on the port, or choose another port.",
        "socket.bind in entrypoints/launchers/launcher.py; asyncio",
    ),
    _row(
        "arguments",
        "port not allowed",
        r"sock\.bind\(.*\)\n(?: *[~^]+ *\n)?PermissionError",
        "the server has no permission to listen on its port",
        "Choose a port of 1024 or above.",
        "socket.bind in entrypoints/launchers/launcher.py",
    ),
    # Finding the model.
    _row(
        "model",
        "gated model",
        r"GatedRepoError|(?:Cannot access|trying to access a) gated repo|is a gated repository"
        r"|Access to model \S+ is restricted",
        "the model is gated, and the hub denies access to it",
        "Accept the terms on the model's page, and set HF_TOKEN to a token with read access.",
        "huggingface_hub/utils/_http.py, transformers/utils/hub.py",
    ),
    _row(
        "model",
        "unknown revision",
        r"RevisionNotFoundError|is not a valid git identifier",
        "the model does not have this revision",
        "Correct revision. It is a branch, a tag or a commit of the model.",
        "huggingface_hub/utils/_http.py, transformers/utils/hub.py",
    ),
    _row(
        "model",
        "unknown model",
        r"RepositoryNotFoundError|is not a local folder and is not a valid model identifier",
        "the hub does not have this model, or the model is private and the token is missing",
        "Check the id of the model. For a private model, set HF_TOKEN.",
        "huggingface_hub/utils/_http.py, transformers/utils/hub.py",
    ),
    _row(
        "model",
        "token refused",
        r"\b40[13] (?:Client Error|Unauthorized|Forbidden)|Invalid credentials in Authorization header",
        "the hub rejects the token",
        "Set HF_TOKEN to a valid token with read access to the model.",
        "huggingface_hub/utils/_http.py",
    ),
    _row(
        "model",
        "no such folder",
        r"HFValidationError: Repo id must be .*?: '(?P<path>[^']*)'",
        "{path} is neither an existing folder nor the id of a model on the hub",
        "Correct model. For a container, use the path in the container, on one of its volumes.",
        "huggingface_hub/utils/_validators.py",
    ),
    _row(
        "model",
        "offline",
        r"outgoing traffic has been disabled|OfflineModeIsEnabled|offline mode is enabled",
        "the model is not on this machine, and downloads are disabled (HF_HUB_OFFLINE)",
        "Download the model first, unset HF_HUB_OFFLINE, or set model to a folder that contains it.",
        "huggingface_hub/file_download.py, huggingface_hub/_snapshot_download.py",
    ),
    _row(
        "model",
        "no network",
        r"Please check your connection and try again|We couldn't connect to '"
        r"|(?:ConnectError|ConnectionError|ConnectTimeout|NameResolutionError|MaxRetryError)\b: ",
        "the model is not on this machine, and the hub is unreachable",
        "Check the network and its proxy (HTTPS_PROXY, HF_ENDPOINT), or set model to a folder that contains the model.",
        "huggingface_hub/file_download.py, transformers/utils/hub.py, httpx",
    ),
    _row(
        "model",
        "no config",
        r"Invalid repository ID or local directory specified: '(?P<model>[^']*)'"
        r"|(?P<other>\S+) does not appear to have a file named config\.json",
        "{model} has no config.json",
        "Set model to the folder with config.json and the weights, or to the id of a model on the hub.",
        "transformers_utils/config.py, transformers/utils/hub.py",
    ),
    _row(
        "model",
        "no weights",
        r"Cannot find any model weights with `(?P<model>[^`]*)`",
        "{model} has no weights that this vLLM can load",
        "vLLM loads *.safetensors, *.bin and *.pt. Check that the download is complete.",
        "model_executor/model_loader/default_loader.py",
    ),
    _row(
        "model",
        "broken weights",
        r"SafetensorError|PytorchStreamReader failed|, in parse_safetensors_file_metadata$",
        "a weight file is broken",
        "Remove the file and download it again. A Git LFS pointer file causes the same error.",
        "safetensors, PyTorch, transformers_utils/utils.py",
    ),
    # Models and features that this vLLM supports.
    _row(
        "model",
        "remote code",
        r"contains custom code which must be executed|[Pp]lease pass the argument `trust_remote_code=True`"
        r"|consider setting `trust_remote_code=True`",
        "the model contains custom code, which vLLM runs only with --trust-remote-code",
        'If you trust the code, add "--trust-remote-code" to extra_args.',
        "transformers/dynamic_module_utils.py, transformers_utils/config.py",
    ),
    _row(
        "model",
        "unknown model type",
        r"model type `(?P<type>[^`]*)` but Transformers does not recognize this architecture",
        "this vLLM's transformers does not know the model type {type!r}",
        "Use a newer vLLM (image), or another model.",
        "transformers/models/auto/configuration_auto.py",
    ),
    _row(
        "model",
        "unknown architecture",
        r"Model architectures? \[?'?(?P<type>[^\]]+?)'?\]? (?:(?:are|is) not supported|was supported in vLLM until)",
        "this vLLM can't serve the architecture {type}",
        "Use a vLLM (image) that supports it, or another model.",
        "model_executor/models/registry.py",
    ),
    _row(
        "model",
        "wrong runner",
        r"do(?:es)? not support `(?P<flag>--runner \w+)`",
        "the model cannot be served with {flag}",
        "Embedding models need runner = pooling, other models generate. With auto, vLLM chooses.",
        "config/model.py",
    ),
    _row(
        "model",
        "quantization mismatch",
        r"Quantization method specified in the model config \((?P<model>.*?)\) does not match the quantization method "
        r"specified in the `quantization` argument \((?P<asked>.*?)\)",
        "the model is quantized with {model}, and {asked} is asked for",
        "Remove quantization: vLLM reads it from the model.",
        "config/model.py",
    ),
    _row(
        "model",
        "quantization unknown",
        r"Cannot find the config file for (?P<type>\w+)",
        "the weights are not quantized with {type}",
        "Remove quantization, or set model to the quantized model.",
        "model_executor/model_loader/weight_utils.py",
    ),
    _row(
        "model",
        "quantization unsupported",
        r"^(?:.*Error: |.*Value error, )?(?P<what>.*(?:"
        r"quantization is currently not supported in|is not supported for the current GPU"
        r"|is not supported for quantization|Unknown quantization method).*?)(?: \[type=.*)?$",
        "this hardware or vLLM does not support the quantization: {what}",
        "Use a model with another quantization, or another GPU.",
        "platforms/interface.py, config/vllm.py, config/model.py",
    ),
    _row(
        "model",
        "dtype unsupported",
        r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0\. Your (?P<gpu>.+?) GPU",
        "this GPU ({gpu}) does not support bfloat16",
        "Set dtype to half.",
        "platforms/cuda.py",
    ),
    _row(
        "model",
        "max_model_len too large",
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
        r"\([^=]*=(?P<model>\d+)",
        "max_model_len {asked} is larger than the {model} tokens of the model's context window",
        "Set max_model_len to {model} or less, or remove it.",
        "config/model.py",
    ),
    _row(
        "model",
        "too many GPUs asked for",
        r"World size \((?P<asked>\d+)\) is larger than the number of available GPUs \((?P<there>\d+)\)"
        r"|local_world_size \(\d+\) exceeds assigned_physical_gpu_ids|rank \d+ is out of bounds for",
        "the server needs more GPUs than are available",
        "Lower tensor_parallel_size and pipeline_parallel_size, or give the server more GPUs (gpus).",
        "config/parallel.py, v1/worker/gpu_worker.py",
    ),
    _row(
        "model",
        "heads not divisible",
        r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size "
        r"\((?P<parallel>\d+)\)",
        "the model's {heads} attention heads cannot be divided among {parallel} GPUs",
        "Set tensor_parallel_size to a number that divides {heads}.",
        "config/model.py",
    ),
    _row(
        "model",
        "LoRA rank",
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<limit>\d+)",
        "a LoRA adapter has rank {rank}, and {limit} is allowed",
        "Raise max_lora_rank to {rank}, or to the next of 8, 16, 32, 64, 128, 256, 320, 512.",
        "lora/peft_helper.py",
    ),
    _row(
        "model",
        "no LoRA adapter",
        r"LoRAAdapterNotFoundError|No adapter found for (?P<path>\S+)",
        "the path of a LoRA adapter in lora_modules does not exist",
        "Set a folder with adapter_config.json, or an id on the hub.",
        "lora/worker_manager.py, exceptions.py",
    ),
    # Memory.
    _row(
        "memory",
        "GPU memory taken",
        r"Free memory on device \S*? ?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than desired GPU "
        r"memory utilization \((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB\)",
        "{wanted} GiB of GPU memory are wanted (gpu_memory_utilization {share}), {free} of {total} GiB are free",
        "Stop the other programs on that GPU, or lower gpu_memory_utilization.",
        "v1/worker/utils.py",
    ),
    _row(
        "memory",
        "KV cache too small",
        r"(?P<needed>[\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory "
        r"\((?P<there>[\d.]+) GiB\)\. Based on the available memory, the estimated maximum model length is "
        r"(?P<fits>\d+)",
        "one request of max_model_len needs {needed} GiB of KV cache, and {there} GiB are available",
        "Set max_model_len to {fits} or less, or raise gpu_memory_utilization.",
        "v1/core/kv_cache_utils.py",
    ),
    _row(
        "memory",
        "KV cache far too small",
        r"KV cache is needed, which is larger than the available KV cache"
        r"|larger than the maximum number of tokens that can be stored in KV cache",
        "the KV cache is too small for one request of max_model_len",
        "Lower max_model_len, raise gpu_memory_utilization, or set kv_cache_dtype to fp8.",
        "v1/core/kv_cache_utils.py; before: worker/worker.py (0.8)",
    ),
    _row(
        "memory",
        "no memory for the KV cache",
        r"No available memory for the cache blocks|not enough GPU memory available to serve",
        "the weights leave no memory for the KV cache",
        "Raise gpu_memory_utilization, use a smaller or quantized model, or more GPUs (tensor_parallel_size).",
        "v1/core/kv_cache_utils.py",
    ),
    _row(
        "memory",
        "memory taken",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on (?:startup|kv cache allocation) "
        r"is less than (?:desired CPU memory utilization|requested memory for kv) \((?:[\d.]+, )?(?P<wanted>[\d.]+)",
        "{wanted} GiB of memory are wanted, {free} of {total} GiB are free",
        "Lower gpu_memory_utilization (on a CPU: the share of the machine's memory), kv_cache_memory_bytes or "
        "VLLM_CPU_KVCACHE_SPACE (GiB), or stop other programs on this machine.",
        "v1/worker/cpu_worker.py",
    ),
    _row(
        "memory",
        "out of GPU memory",
        r"Failed to load model - not enough GPU memory|CUDA out of memory|OutOfMemoryError|CUDA error: out of memory",
        "the GPU's memory is full",
        "Use a smaller or quantized model, more GPUs (tensor_parallel_size), a smaller max_model_len or max_num_seqs, "
        "or stop the other programs on the GPU.",
        "v1/worker/gpu_model_runner.py, PyTorch",
    ),
    _row(
        "memory",
        "shared memory too small",
        r"insufficient shared memory|creating shared memory segment|/dev/shm\b.*No space left"
        rf"|No space left.*/dev/shm\b|'[^']+': -7\b|^{ENDED}(?:by SIGBUS|with status 135)",
        "the shared memory (/dev/shm) is too small",
        "Raise shm_size.",
        "PyTorch, NCCL; signal 7, SIGBUS",
    ),
    _row(
        "memory",
        "disk full",
        r"No space left on device|\[Errno 28\]|Disk quota exceeded|[Nn]ot enough free disk space",
        "the disk is full",
        "Free disk space in the folder of the models (HF_HOME), or move that folder.",
        "Python's OSError 28, huggingface_hub/file_download.py",
    ),
    # The machine.
    _row(
        "machine",
        "no such program",
        r"\bexec: (?:line \d+: )?(?P<program>\S+): not found"
        r"|^vllm: line \d+: (?P<path>/\S+): No such file or directory",
        "the container's image does not have {program}, which starts the server",
        "Use an image with vLLM, or correct entrypoint.",
        "sh (dash, bash, BusyBox), which ends with status 127",
    ),
    _row(
        "machine",
        "driver too old",
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|unsatisfied condition: cuda",
        "the NVIDIA driver is too old for this vLLM's CUDA",
        "Update the driver, or use a vLLM (image) that was built for an older CUDA.",
        "PyTorch, CUDA, NVIDIA's container runtime",
    ),
    _row(
        "machine",
        "no GPU",
        r"Failed to infer device type|Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device"
        r"|libcuda\.so\.1: cannot open shared object",
        "vLLM finds no GPU",
        "Set gpus, install the driver and NVIDIA's container toolkit, or use a preset for the CPU.",
        "config/device.py, PyTorch, CUDA",
    ),
    _row(
        "machine",
        "GPU too old",
        r"no kernel image is available for execution",
        "this vLLM was not built for this GPU",
        "Use a GPU of compute capability 7.5 or newer.",
        "CUDA",
    ),
    _row(
        "machine",
        "CPU too old",
        rf"'[^']+': -4\b|^{ENDED}(?:by SIGILL|with status 132)|Illegal instruction",
        "this CPU lacks instructions that vLLM was built with (AVX2, better AVX512)",
        "Use a machine whose CPU has them (/proc/cpuinfo).",
        "signal 4, SIGILL; platforms/cpu.py",
    ),
    _row(
        "machine",
        "NUMA nodes",
        r"Not enough allowed NUMA nodes to bind threads of (?P<asked>\d+) local CPUWorkers",
        "{asked} parallel workers do not fit this machine's CPUs",
        "Lower tensor_parallel_size, or bind threads by hand (VLLM_CPU_OMP_THREADS_BIND).",
        "utils/ompmultiprocessing.py",
    ),
    _row(
        "machine",
        "cache not writable",
        r"PermissionError: \[Errno 13\] Permission denied: '(?P<path>[^']*)'|PermissionError at (?P<other>\S+) when",
        "the server has no permission to read or write {path}",
        "Give the server's user the permission, or move the folder (HF_HOME, VLLM_CACHE_ROOT).",
        "Python's OSError 13, transformers/utils/hub.py",
    ),
    _row(
        "machine",
        "out of memory",
        r"'[^']+': -9\b|\(exit code: -9\)|DefaultCPUAllocator: can't allocate memory|^MemoryError"
        rf"|Cannot allocate memory|^{ENDED}.*(?:SIGKILL|status 137|OOM)",
        "a process was killed, most likely because the machine ran out of memory",
        "Use a smaller model, lower VLLM_CPU_KVCACHE_SPACE, stop other programs, or raise the container's limit.",
        "signal 9, SIGKILL; v1/engine/utils.py, v1/executor/multiproc_executor.py",
    ),
)
