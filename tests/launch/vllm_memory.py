"""Computes with vLLM's own functions how vLLM divides the memory for some models. Runs with the Python that has vLLM.

Reads a JSON list of cases from standard input, and writes a JSON list of results as the last line of standard output:

    {"config": config.json of a model, "arguments": vLLM's arguments, "available": bytes for the KV cache,
     "async": whether two steps overlap, as on a GPU, "stages": [first, end] layer of each pipeline stage}

A model is built on PyTorch's `meta` device: parameters have shapes and no memory. vLLM's functions compute the KV cache
from its layers. No server is started.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"})

import torch
from vllm.config import VllmConfig, get_layers_from_vllm_config, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.network_utils import get_open_port
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.core import kv_cache_utils


def result(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What vLLM would allocate."""
    (folder / "config.json").write_text(json.dumps(case["config"]))
    arguments = EngineArgs(model=str(folder), skip_tokenizer_init=True, enforce_eager=True, **case["arguments"])
    config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
    config.scheduler_config.async_scheduling = case["async"]
    with set_current_vllm_config(config):
        with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
            model = initialize_model(config)
        current_platform.update_block_size_for_backend(config)
        # On a GPU the engine core sets this layout.
        config.cache_config.kv_cache_layout = config.cache_config.kv_cache_layout or "LBNHC"
        return {
            "weights": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
            "max_model_len": config.model_config.max_model_len,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "block_size": config.cache_config.block_size,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            **cache(config, case),
        }


def cache(config: VllmConfig, case: dict[str, Any]) -> dict[str, Any]:
    """The KV cache, or vLLM's error."""
    layers = get_layers_from_vllm_config(config, AttentionLayerBase)
    specs = {name: spec for name, layer in layers.items() if (spec := layer.get_kv_cache_spec(config)) is not None}
    workers = [dict(list(specs.items())[first:end]) for first, end in case["stages"] or [(0, len(specs))]]
    try:
        configs = kv_cache_utils.get_kv_cache_configs(config, workers, [case["available"]] * len(workers))
    except ValueError as error:
        return {"refusal": str(error)}
    whole = kv_cache_utils.generate_scheduler_kv_cache_config(configs)
    if not whole.kv_cache_groups:
        return {"groups": 0}
    tokens, concurrency = kv_cache_utils.get_kv_cache_capacity(config, whole)
    return {
        "groups": len(whole.kv_cache_groups),
        "blocks": whole.num_blocks,
        "tokens": tokens,
        "concurrency": concurrency,
    }


def main() -> None:
    """Reads the cases and prints the results."""
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"tcp://127.0.0.1:{get_open_port()}", 0, backend="gloo")
        initialize_model_parallel(1, 1)
    results = []
    for case in json.load(sys.stdin):
        with tempfile.TemporaryDirectory() as folder:
            results.append(result(case, Path(folder)))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
