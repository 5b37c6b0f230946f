"""The servers that need no file: the production pair, and what stands in for it on a machine without a GPU.

The flags of the pair follow the models' cards, but for EXAONE's reasoning parser: the card's `deepseek_r1` takes every
answer without thoughts for a thought (vllm-project/vllm, issue 21718), `deepseek_v3` heeds `enable_thinking`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .servers import CPU_IMAGE, Server

EXAONE = "LGAI-EXAONE/EXAONE-4.0-32B-AWQ"
EXAONE_SMALL = "LGAI-EXAONE/EXAONE-4.0-1.2B"
KURE = "nlpai-lab/KURE-v1"

MODEL_CACHE = {"huggingface": "/root/.cache/huggingface"}
"""The volume that keeps downloaded models. A folder in its place: `{"/home/me/.cache/huggingface": …}`."""
_COMPILED = {"vllm-cache": "/root/.cache/vllm"}
_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "4"}

_SERVERS = (
    Server(
        name="vllm-llm",
        model=EXAONE,
        port=8001,
        max_model_len=32768,
        gpu_memory_utilization=0.85,
        max_num_seqs=256,
        shutdown_timeout=60,
        tool_call_parser="hermes",
        reasoning_parser="deepseek_v3",
        gpus=(0,),
        volumes={**MODEL_CACHE, **_COMPILED},
    ),
    Server(
        name="vllm-embed",
        model=KURE,
        port=8002,
        runner="pooling",
        shutdown_timeout=10,
        gpu_memory_utilization=0.07,
        gpus=(0,),
        shm_size="1g",
        volumes={**MODEL_CACHE, **_COMPILED},
    ),
    # The same family and template, 1.2 B parameters. It answers to the large one's name: services need nothing else.
    Server(
        name="vllm-llm-cpu",
        model=EXAONE_SMALL,
        port=8001,
        served_model_name=(EXAONE, EXAONE_SMALL),
        max_model_len=8192,
        shutdown_timeout=60,
        tool_call_parser="hermes",
        reasoning_parser="deepseek_v3",
        env=_ON_CPU,
        image=CPU_IMAGE,
        volumes=MODEL_CACHE,
    ),
    # The very model: 0.57 B parameters are no burden for a CPU, and its vectors are the production's.
    Server(
        name="vllm-embed-cpu",
        model=KURE,
        port=8002,
        runner="pooling",
        shutdown_timeout=10,
        env=_ON_CPU,
        image=CPU_IMAGE,
        shm_size="1g",
        volumes=MODEL_CACHE,
    ),
)

PRESETS: Mapping[str, Server] = {server.name: server for server in _SERVERS}
"""By name. `vllm-launch up` without names starts `GPU`, or `CPU` on a machine without an NVIDIA GPU."""
GPU = ("vllm-llm", "vllm-embed")
CPU = ("vllm-llm-cpu", "vllm-embed-cpu")
