"""The description of a server: vLLM's command line, and invalid values."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from vllm_launch.errors import LaunchError
from vllm_launch.presets import CPU, GPU, PRESETS
from vllm_launch.servers import FLAGS, GPU_SHARE, Server, is_loopback


def described(**fields):
    return Server(**{"name": "chat", "model": "org/model", "port": 8001, **fields})


def test_minimal_server_has_minimal_arguments():
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
def test_each_field_becomes_its_flag(fields, arguments):
    assert described(**fields).arguments()[6:] == arguments


def test_every_flag_has_a_field_or_derives_from_one():
    derived = {"enable_auto_tool_choice", "enable_lora"}
    assert set(FLAGS) - derived <= set(Server.model_fields)


def test_arguments_accept_the_listen_address_of_a_container():
    assert described().arguments(host="0.0.0.0", port=8000)[:4] == ["--host", "0.0.0.0", "--port", "8000"]


def test_command_starts_vllm_with_the_given_python():
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
def test_base_url_is_the_address_for_clients(host, url):
    assert described(host=host).base_url == url


@pytest.mark.parametrize(
    ("host", "exposed"), [("127.0.0.2", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("gpu", True)]
)
def test_exposed_means_reachable_by_others_without_a_key(tmp_path, host, exposed):
    assert described(host=host).exposed == exposed
    assert not described(host=host, api_key_file=tmp_path / "key").exposed


def test_loopback_addresses_are_recognized():
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.2", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "127.example.org", "gpu-machine", "")))


def test_share_defaults_to_that_of_vllm():
    assert (described().share, described(gpu_memory_utilization=0.5).share) == (GPU_SHARE, 0.5)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [((0,), (0, 1), True), ((0,), (1,), False), ("all", (1,), True), ("all", "all", True), ("all", (), False)],
)
def test_shares_gpu_with_compares_the_gpus(one, other, shared):
    assert described(gpus=one).shares_gpu_with(described(gpus=other)) == shared
    assert described(gpus=other).shares_gpu_with(described(gpus=one)) == shared


def test_served_names_default_to_the_model():
    assert described().served == ("org/model",)
    assert described(served_model_name=("a",)).served == ("a",)


def test_digest_differs_by_description_and_survives_json():
    one = described(gpus=(0,), volumes={"cache": "/root"})
    assert Server.model_validate_json(one.model_dump_json()).digest == one.digest
    assert described(max_model_len=1).digest != described(max_model_len=2).digest


def test_digest_ignores_the_order_of_variables():
    assert described(env={"A": "1", "B": "2"}).digest == described(env={"B": "2", "A": "1"}).digest
    assert described(served_model_name=("a", "b")).digest != described(served_model_name=("b", "a")).digest


def test_variable_can_be_a_number():
    assert described(env={"VLLM_CPU_KVCACHE_SPACE": 4}).env == {"VLLM_CPU_KVCACHE_SPACE": "4"}


def test_flag_names_get_dashes_and_values_are_unchanged():
    arguments = ("--swap_space", "a_b", "--hf_overrides.rope_type=c_d")
    assert described(extra_args=arguments).extra_args == ("--swap-space", "a_b", "--hf-overrides.rope_type=c_d")


@pytest.mark.parametrize("written", [b" secret\n", b"\xef\xbb\xbfsecret\r\n"], ids=["blanks", "mark of UTF-8"])
def test_key_is_read_from_its_file(tmp_path, written):
    (tmp_path / "key").write_bytes(written)
    server = described(api_key_file=tmp_path / "key")
    assert server.key() == "secret"
    assert described().key() is None
    assert "secret" not in json.dumps([repr(server), server.model_dump_json(), server.arguments()])


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"\n", "is empty: the server would need no key"),
        (b"\xff", "cannot be read: it is not text"),
        (b"two words", "must contain only the key: one word of ASCII"),
        ("schlüssel".encode(), "must contain only the key"),
    ],
)
def test_invalid_key_file_is_named_without_its_content(tmp_path, written, why):
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
        ({"host": "http://gpu"}, "must be an address or a name of this machine"),
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
        ({"shm_size": "lots"}, "must be a size, such as 8g or 512m"),
        ({"shm_size": "8 g"}, "must be a size"),
        ({"extra_args": ("--api-key=k",)}, "use api_key_file"),
        ({"env": {"VLLM_API_KEY": "k"}}, "use api_key_file"),
        ({"env": {"HF_TOKEN": "k"}}, "a description must not contain HF_TOKEN: use HF_TOKEN in the environment"),
        ({"env": {"A": True}}, "valid string"),
        ({"gpus": 0}, r'must be "all" or a list of numbers, such as \[0\]'),
        ({"gpus": (-1,)}, "a list of numbers"),
        ({"gpus": ("0",)}, "a list of numbers"),
        ({"gpus": (0,), "tensor_parallel_size": 2}, "the parallel sizes need 2 GPUs, but gpus has 1"),
        ({"max_model_length": 1}, "Extra inputs are not permitted"),
    ],
)
def test_invalid_description_is_rejected(fields, why):
    with pytest.raises(ValidationError, match=why):
        described(**fields)


@pytest.mark.parametrize("field", FLAGS)
def test_extra_args_reject_flags_that_have_a_field(field):
    with pytest.raises(ValidationError, match=r"instead of --[a-z-]+, use [a-z_]+"):
        described(extra_args=("--" + field.replace("_", "-"), "1"))


@pytest.mark.parametrize("fields", [{"env": {"HF_TOKEN": "s3cret"}}, {"extra_args": ("--api-key=s3cret",)}])
def test_rejected_secret_is_not_shown(fields):
    with pytest.raises(ValidationError) as caught:
        described(**fields)
    assert "s3cret" not in str(caught.value)


def test_server_is_frozen():
    with pytest.raises(ValidationError):
        described().port = 1


def test_presets_are_the_production_pair_and_a_cpu_pair():
    llm, embed = (PRESETS[name] for name in GPU)
    assert (llm.model, llm.port, llm.reasoning_parser) == ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", 8001, "deepseek_v3")
    assert (embed.model, embed.port, embed.runner) == ("nlpai-lab/KURE-v1", 8002, "pooling")
    for name, other in zip(CPU, (llm, embed), strict=True):
        small = PRESETS[name]
        assert other.model in small.served
        assert small.port == other.port
        assert not small.gpus
    assert (llm.gpu_memory_utilization or 0) + (embed.gpu_memory_utilization or 0) <= 0.95
