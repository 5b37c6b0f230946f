"""The predefined servers: the production pair, and a CPU pair for machines without a GPU.

The flags of the production pair follow the models' cards, except EXAONE's reasoning parser. The card's `deepseek_r1`
treats an answer without thinking as thinking (vllm-project/vllm, issue 21718). `deepseek_v3` follows `enable_thinking`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .servers import CPU_IMAGE, Server

EXAONE = "LGAI-EXAONE/EXAONE-4.0-32B-AWQ"
EXAONE_SMALL = "LGAI-EXAONE/EXAONE-4.0-1.2B"
KURE = "nlpai-lab/KURE-v1"

MODEL_CACHE = {"huggingface": "/root/.cache/huggingface"}
"""The volume for downloaded models. To use a folder instead: `{"/home/me/.cache/huggingface": …}`."""
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
    # The same family and template, 1.2 B parameters. It also serves the large model's name: services need no change.
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
    # The production model: a CPU handles 0.57 B parameters, and the vectors are the same.
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
"""The presets by name. `vllm-launch up` without names starts `GPU`, or `CPU` on a machine without an NVIDIA GPU."""
GPU = ("vllm-llm", "vllm-embed")
CPU = ("vllm-llm-cpu", "vllm-embed-cpu")
