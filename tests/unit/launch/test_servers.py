"""A server's description: what it becomes on vLLM's command line, and what it refuses."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from vllm_launch.errors import LaunchError
from vllm_launch.presets import CPU, GPU, PRESETS
from vllm_launch.servers import FLAGS, GPU_SHARE, Server, is_loopback


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
        ("gpu-1.example", "http://gpu-1.example:8001"),
        ("::1", "http://[::1]:8001"),
    ],
)
def test_where_clients_reach_it(host, url):
    assert described(host=host).base_url == url


@pytest.mark.parametrize(
    ("host", "exposed"), [("127.0.0.2", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("gpu", True)]
)
def test_it_is_exposed_where_others_reach_it_without_a_key(tmp_path, host, exposed):
    assert described(host=host).exposed == exposed
    assert not described(host=host, api_key_file=tmp_path / "key").exposed


def test_addresses_that_this_machine_alone_reaches():
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.2", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "127.example.org", "gpu-machine", "")))


def test_without_a_share_it_has_vllms_own():
    assert (described().share, described(gpu_memory_utilization=0.5).share) == (GPU_SHARE, 0.5)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [((0,), (0, 1), True), ((0,), (1,), False), ("all", (1,), True), ("all", "all", True), ("all", (), False)],
)
def test_servers_share_a_gpu_that_both_name(one, other, shared):
    assert described(gpus=one).shares_gpu_with(described(gpus=other)) == shared
    assert described(gpus=other).shares_gpu_with(described(gpus=one)) == shared


def test_what_it_serves():
    assert described().served == ("org/model",)
    assert described(served_model_name=("a",)).served == ("a",)


def test_a_digest_tells_descriptions_apart_and_survives_json():
    one = described(gpus=(0,), volumes={"cache": "/root"})
    assert Server.model_validate_json(one.model_dump_json()).digest == one.digest
    assert described(max_model_len=1).digest != described(max_model_len=2).digest


def test_the_order_of_variables_is_no_difference():
    assert described(env={"A": "1", "B": "2"}).digest == described(env={"B": "2", "A": "1"}).digest
    assert described(served_model_name=("a", "b")).digest != described(served_model_name=("b", "a")).digest


def test_a_variable_may_be_a_number():
    assert described(env={"VLLM_CPU_KVCACHE_SPACE": 4}).env == {"VLLM_CPU_KVCACHE_SPACE": "4"}


def test_flags_are_spelled_with_dashes_and_values_stay():
    arguments = ("--swap_space", "a_b", "--hf_overrides.rope_type=c_d")
    assert described(extra_args=arguments).extra_args == ("--swap-space", "a_b", "--hf-overrides.rope_type=c_d")


@pytest.mark.parametrize("written", [b" secret\n", b"\xef\xbb\xbfsecret\r\n"], ids=["blanks", "mark of UTF-8"])
def test_the_key_is_read_from_its_file(tmp_path, written):
    (tmp_path / "key").write_bytes(written)
    server = described(api_key_file=tmp_path / "key")
    assert server.key() == "secret"
    assert described().key() is None
    assert "secret" not in json.dumps([repr(server), server.model_dump_json(), server.arguments()])


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "can't be read: No such file"),
        (b"\n", "is empty: everybody could use it"),
        (b"\xff", "can't be read: it is no text"),
        (b"two words", "must hold the key alone: one word of ASCII"),
        ("schlüssel".encode(), "must hold the key alone"),
    ],
)
def test_a_file_without_a_key_is_named_and_not_shown(tmp_path, written, why):
    if written is not None:
        (tmp_path / "key").write_bytes(written)
    with pytest.raises(LaunchError, match=f"api_key_file of the vLLM server 'chat', {tmp_path}/key, {why}") as caught:
        described(api_key_file=tmp_path / "key").key()
    assert "words" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "Not A Label"}, "lower-case letters, digits and dashes"),
        ({"port": 70000}, "less than or equal to 65535"),
        ({"gpu_memory_utilization": 1.5}, "less than or equal to 1"),
        ({"host": "http://gpu"}, "an address or a name of this machine is meant"),
        ({"host": "127.0.0.1:8001"}, "an address or a name"),
        ({"host": "300.0.0.1"}, "an address or a name"),
        ({"host": ""}, "an address or a name"),
        ({"extra_args": ("--api-key", "k")}, "instead of --api-key, use api_key_file"),
        ({"extra_args": ("--api_key", "k")}, "use api_key_file"),
        ({"extra_args": ("--api-k=k",)}, "use api_key_file"),
        ({"extra_args": ("--hf-token", "k")}, "use HF_TOKEN in the environment of vllm-launch"),
        ({"extra_args": ("--seed", "1", "--max_model_len=9")}, "instead of --max-model-len, use max_model_len"),
        ({"extra_args": ("--no-enforce-eager",)}, "instead of --no-enforce-eager, use enforce_eager"),
        ({"extra_args": ("--enable-auto-tool-choice",)}, "use tool_call_parser"),
        ({"extra_args": ("--enable-lora",)}, "use lora_modules"),
        ({"extra_args": ("-tp", "2")}, "instead of -tp, use tensor_parallel_size"),
        ({"extra_args": ("--host", "::")}, "use host"),
        ({"extra_args": ("--port", "1")}, "use port"),
        ({"extra_args": ("--model", "m")}, "use model"),
        ({"shm_size": "lots"}, "a size is meant, as 8g or 512m"),
        ({"shm_size": "8 g"}, "a size is meant"),
        ({"extra_args": ("--api-key=k",)}, "use api_key_file"),
        ({"env": {"VLLM_API_KEY": "k"}}, "use api_key_file"),
        ({"env": {"HF_TOKEN": "k"}}, "HF_TOKEN would stand in the description: use HF_TOKEN in the environment"),
        ({"env": {"A": True}}, "valid string"),
        ({"gpus": 0}, r'"all" is meant, or a list of their numbers, as \[0\]'),
        ({"gpus": (-1,)}, "a list of their numbers"),
        ({"gpus": ("0",)}, "a list of their numbers"),
        ({"gpus": (0,), "tensor_parallel_size": 2}, "2 GPUs are needed by its parallel sizes, and gpus names 1"),
        ({"max_model_length": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_description_is_refused(fields, why):
    with pytest.raises(ValidationError, match=why):
        described(**fields)


@pytest.mark.parametrize("field", FLAGS)
def test_no_flag_of_a_field_is_a_further_argument(field):
    with pytest.raises(ValidationError, match=r"instead of --[a-z-]+, use [a-z_]+"):
        described(extra_args=("--" + field.replace("_", "-"), "1"))


@pytest.mark.parametrize("fields", [{"env": {"HF_TOKEN": "s3cret"}}, {"extra_args": ("--api-key=s3cret",)}])
def test_what_is_refused_as_a_secret_is_not_shown(fields):
    with pytest.raises(ValidationError) as caught:
        described(**fields)
    assert "s3cret" not in str(caught.value)


def test_it_is_frozen():
    with pytest.raises(ValidationError):
        described().port = 1


def test_the_presets_are_the_production_pair_and_its_stand_ins():
    llm, embed = (PRESETS[name] for name in GPU)
    assert (llm.model, llm.port, llm.reasoning_parser) == ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", 8001, "deepseek_v3")
    assert (embed.model, embed.port, embed.runner) == ("nlpai-lab/KURE-v1", 8002, "pooling")
    for name, other in zip(CPU, (llm, embed), strict=True):
        small = PRESETS[name]
        assert other.model in small.served
        assert small.port == other.port
        assert not small.gpus
    assert (llm.gpu_memory_utilization or 0) + (embed.gpu_memory_utilization or 0) <= 0.95
