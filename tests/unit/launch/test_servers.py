"""A server's description: what it becomes on vLLM's command line, and what it refuses."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from vllm_launch.presets import CPU, GPU, PRESETS
from vllm_launch.servers import FLAGS, Server


def described(**fields):
    return Server(**{"name": "chat", "model": "org/model", "port": 8001, **fields})


def test_the_least_that_a_server_is_told():
    assert described().arguments() == ["--host", "127.0.0.1", "--port", "8001", "--model", "org/model"]


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"served_model_name": ("a", "b")}, ["--served-model-name", "a", "b"]),
        ({"revision": "main"}, ["--revision", "main"]),
        ({"runner": "pooling"}, ["--runner", "pooling"]),
        ({"dtype": "float32"}, ["--dtype", "float32"]),
        ({"quantization": "awq"}, ["--quantization", "awq"]),
        ({"max_model_len": 4096}, ["--max-model-len", "4096"]),
        ({"max_num_seqs": 8}, ["--max-num-seqs", "8"]),
        ({"max_num_batched_tokens": 2048}, ["--max-num-batched-tokens", "2048"]),
        ({"gpu_memory_utilization": 0.8}, ["--gpu-memory-utilization", "0.8"]),
        ({"kv_cache_dtype": "fp8"}, ["--kv-cache-dtype", "fp8"]),
        ({"kv_cache_memory_bytes": 1024}, ["--kv-cache-memory-bytes", "1024"]),
        ({"tensor_parallel_size": 2}, ["--tensor-parallel-size", "2"]),
        ({"pipeline_parallel_size": 2}, ["--pipeline-parallel-size", "2"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"tool_call_parser": "hermes"}, ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]),
        ({"reasoning_parser": "deepseek_v3"}, ["--reasoning-parser", "deepseek_v3"]),
        ({"chat_template": "/t.jinja"}, ["--chat-template", "/t.jinja"]),
        ({"lora_modules": {"ko": "/ko"}}, ["--enable-lora", "--lora-modules", "ko=/ko"]),
        ({"max_lora_rank": 64}, ["--max-lora-rank", "64"]),
        ({"extra_args": ("--swap-space", "4")}, ["--swap-space", "4"]),
    ],
)
def test_each_field_is_a_flag(fields, arguments):
    assert described(**fields).arguments()[6:] == arguments


def test_every_flag_has_a_field_or_follows_from_one():
    derived = {"enable_auto_tool_choice", "enable_lora"}
    assert set(FLAGS) - derived <= set(Server.model_fields)


def test_in_a_container_it_listens_elsewhere():
    assert described().arguments(host="0.0.0.0", port=8000)[:4] == ["--host", "0.0.0.0", "--port", "8000"]


def test_the_command_of_a_process():
    command = described().command("/venv/bin/python")
    assert command[:3] == ["/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert command[3:] == described().arguments()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001"),
        ("0.0.0.0", "http://127.0.0.1:8001"),
        ("10.0.0.5", "http://10.0.0.5:8001"),
        ("::1", "http://[::1]:8001"),
    ],
)
def test_where_clients_reach_it(host, url):
    assert described(host=host).base_url == url


def test_what_it_serves():
    assert described().served == ("org/model",)
    assert described(served_model_name=("a",)).served == ("a",)


def test_a_digest_tells_descriptions_apart_and_survives_json():
    one = described(gpus=(0,), volumes={"cache": "/root"})
    assert Server.model_validate_json(one.model_dump_json()).digest == one.digest
    assert described(max_model_len=1).digest != described(max_model_len=2).digest


def test_the_key_is_read_from_its_file(tmp_path):
    (tmp_path / "key").write_text(" secret\n")
    server = described(api_key_file=tmp_path / "key")
    assert server.key() == {"VLLM_API_KEY": "secret"}
    assert described().key() == {}
    assert "secret" not in json.dumps([repr(server), server.model_dump_json(), server.arguments()])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "Not A Label"}, "lower-case letters, digits and dashes"),
        ({"port": 70000}, "less than or equal to 65535"),
        ({"gpu_memory_utilization": 1.5}, "less than or equal to 1"),
        ({"extra_args": ("--api-key", "k")}, "use api_key_file"),
        ({"shm_size": "lots"}, "a size is meant, as 8g or 512m"),
        ({"shm_size": "8 g"}, "a size is meant"),
        ({"extra_args": ("--api-key=k",)}, "use api_key_file"),
        ({"env": {"VLLM_API_KEY": "k"}}, "use api_key_file"),
        ({"gpus": (0,), "tensor_parallel_size": 2}, "2 GPUs are needed by its parallel sizes, and gpus names 1"),
        ({"max_model_length": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_description_is_refused(fields, why):
    with pytest.raises(ValidationError, match=why):
        described(**fields)


def test_it_is_frozen():
    with pytest.raises(ValidationError):
        described().port = 1


def test_the_presets_are_the_production_pair_and_its_stand_ins():
    llm, embed = (PRESETS[name] for name in GPU)
    assert (llm.model, llm.port, llm.reasoning_parser) == ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", 8001, "deepseek_v3")
    assert (embed.model, embed.port, embed.runner) == ("nlpai-lab/KURE-v1", 8002, "pooling")
    for name, other in zip(CPU, (llm, embed), strict=True):
        stand_in = PRESETS[name]
        assert other.model in stand_in.served
        assert stand_in.port == other.port
        assert not stand_in.gpus
    assert (llm.gpu_memory_utilization or 0) + (embed.gpu_memory_utilization or 0) <= 0.95
