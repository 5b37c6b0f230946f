"""The configuration file: the servers that it defines, and the errors for invalid content."""

from __future__ import annotations

import pytest

from vllm_launch.config import Config, load
from vllm_launch.presets import MODEL_CACHE, PRESETS
from vllm_launch.runtimes import LaunchError


@pytest.fixture
def file(tmp_path):
    """Writes a file and returns its path."""

    def write(text):
        path = tmp_path / "servers.toml"
        path.write_text(text)
        return path

    return write


def test_load_returns_no_servers_without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(environ={}) == Config()


def test_load_reads_the_working_folder_and_the_variable(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm-launch.toml").write_text('runtime = "process"')
    assert load(environ={}).runtime == "process"
    other = file('runtime = "docker"')
    assert load(environ={"VLLM_LAUNCH_CONFIG": str(other)}).runtime == "docker"
    assert load(tmp_path / "vllm-launch.toml", environ={"VLLM_LAUNCH_CONFIG": str(other)}).runtime == "process"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(environ={"VLLM_LAUNCH_CONFIG": "~/servers.toml"}).runtime == "docker"


def test_preset_is_overridden_by_the_file(file):
    config = load(file("[servers.vllm-llm]\nmax_model_len = 16384"))
    assert config.servers["vllm-llm"] == PRESETS["vllm-llm"].model_copy(update={"max_model_len": 16384})


def test_preset_can_have_another_name(file):
    text = '[servers.second]\npreset = "vllm-llm"\nport = 8011\ngpus = [1]'
    second = load(file(text)).servers["second"]
    assert (second.name, second.model, second.port, second.gpus) == (
        "second",
        PRESETS["vllm-llm"].model,
        8011,
        (1,),
    )


def test_tables_of_a_preset_are_merged_key_by_key(file):
    text = """
    [servers.vllm-llm-cpu]
    env = { VLLM_LOGGING_LEVEL = "DEBUG", VLLM_CPU_KVCACHE_SPACE = 8 }
    volumes = { "/models" = "/models:ro" }
    """
    server = load(file(text)).servers["vllm-llm-cpu"]
    assert server.env == {"VLLM_CPU_KVCACHE_SPACE": "8", "VLLM_LOGGING_LEVEL": "DEBUG"}
    assert server.volumes == {"huggingface": "/root/.cache/huggingface", "/models": "/models:ro"}


def test_new_server_has_the_model_volume_of_the_presets(file):
    own = '[servers.coder]\nmodel = "org/coder"\nport = 8003'
    assert load(file(own)).servers["coder"].volumes == MODEL_CACHE
    more = load(file(f'{own}\nvolumes = {{ "/data" = "/data" }}')).servers["coder"].volumes
    assert more == {**MODEL_CACHE, "/data": "/data"}


@pytest.mark.parametrize("heading", ["vllm-llm-cpu", "coder"])
def test_volume_replaces_the_one_at_the_same_path(file, heading):
    volumes = '{ "/cache" = "/root/.cache/huggingface:ro" }'
    text = f'[servers.{heading}]\nmodel = "org/coder"\nport = 8003\nvolumes = {volumes}'
    assert load(file(text)).servers[heading].volumes == {"/cache": "/root/.cache/huggingface:ro"}


def test_load_reads_a_new_server(file):
    server = load(file('[servers.coder]\nmodel = "org/coder"\nport = 8003\ngpus = "all"')).servers["coder"]
    assert (server.model, server.port, server.gpus) == ("org/coder", 8003, "all")


def test_named_finds_servers_of_the_file_and_presets(file):
    config = load(file('[servers.coder]\nmodel = "org/coder"\nport = 8003'))
    assert [server.name for server in config.named(["coder", "vllm-embed", "coder"])] == ["coder", "vllm-embed"]
    with pytest.raises(LaunchError, match="no server 'codre'; did you mean 'coder'"):
        config.named(["codre"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("servers = 1", "servers are tables"),
        ("[servers]\ncoder = 1", "servers are tables"),
        ("[server.x]\nport = 1", "no key 'server'; did you mean 'servers'"),
        ('runtime = "podman"', "runtime is 'podman'; it may be 'docker' or 'process'"),
        ("python = 3", "python is 3; it must be the path"),
        ("[servers.coder]\nport = 8003", "servers.coder: model is missing"),
        ('[servers.coder]\nmodel = "m"\nport = 8003\nmax-model-len = 1', "did you mean 'max_model_len'"),
        ('[servers.coder]\nmodel = "m"\nport = 8003\nnonsense = 1', "no key 'nonsense'.*into extra_args"),
        ('[servers.coder]\nmodel = "m"\nport = "x"', r"servers.coder.port: .*\(it is 'x'\)"),
        ('[servers.coder]\nmodel = "m"\nport = 1\nenv = { A = [] }', r"servers\.coder\.env\.A: .*valid string\.$"),
        ('[servers.coder]\nmodel = "m"\nport = 1\nextra_args = ["--x", 1]', r"servers\.coder\.extra_args\.1: .*string"),
        ('[servers.coder]\nmodel = "m"\nport = 1\nvolumes = "x"', r"servers\.coder\.volumes: .*dictionary"),
        ('[servers.coder]\nmodel = "m"\nport = 1\ngpus = 0', r'coder\.gpus: must be "all" or a list.*\(it is 0\)\.$'),
        (
            '[servers.coder]\nmodel = "m"\nport = 1\nname = "x"',
            r"remove the key name; the heading \[servers\.coder\]",
        ),
        ('[servers.coder]\npreset = ["vllm-llm"]', r"no preset \['vllm-llm'\]. Known: vllm-llm"),
        ('[servers.coder]\npreset = "vllm-lm"', "no preset 'vllm-lm'. Known: vllm-llm"),
        (
            '[servers.coder]\nmodel = "m"\nport = 1\ngpus = [0]\ntensor_parallel_size = 2',
            "the parallel sizes need 2 GPUs",
        ),
        ("runtime =", "is not valid TOML"),
    ],
)
def test_load_error_contains_the_place_and_the_cause(file, text, why):
    with pytest.raises(LaunchError, match=why) as caught:
        load(file(text))
    assert "servers.toml" in str(caught.value)


def test_load_raises_when_the_file_does_not_exist(tmp_path):
    with pytest.raises(LaunchError, match="There is no file"):
        load(tmp_path / "none.toml")
    with pytest.raises(LaunchError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    "table",
    [
        'env = { HF_TOKEN = "s3cret" }',
        'env = { A = ["s3cret"] }',
        'extra_args = ["--api-key", "s3cret"]',
        'api_key = "s3cret"',
    ],
)
def test_load_error_contains_no_value_that_may_be_secret(file, table):
    with pytest.raises(LaunchError) as caught:
        load(file(f"[servers.vllm-llm]\n{table}"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "named", "meant"),
    [
        ("api_key_file", "key", "{folder}/key"),
        ("api_key_file", "~/key", "/home/me/key"),
        ("api_key_file", "/a/key", "/a/key"),
        ("chat_template", "own.jinja", "{folder}/own.jinja"),
        ("chat_template", "~/own.jinja", "/home/me/own.jinja"),
        ("chat_template", "{{{{ messages }}}}", "{{{{ messages }}}}"),
        ("model", "./model", "{folder}/model"),
        ("model", "~/model", "/home/me/model"),
        ("model", "org/model", "org/model"),
    ],
)
def test_paths_are_relative_to_the_file(file, tmp_path, monkeypatch, key, named, meant):
    monkeypatch.setenv("HOME", "/home/me")
    path = file(f'[servers.vllm-llm]\n{key} = "{named.format()}"')
    assert str(getattr(load(path).servers["vllm-llm"], key)) == meant.format(folder=tmp_path)


def test_adapter_paths_are_relative_to_the_file(file, tmp_path):
    path = file('[servers.vllm-llm]\nlora_modules = { ko = "./ko", en = "org/en" }')
    assert load(path).servers["vllm-llm"].lora_modules == {"ko": f"{tmp_path}/ko", "en": "org/en"}


@pytest.mark.parametrize(
    ("named", "meant"),
    [("venv/bin/python", "{folder}/venv/bin/python"), ("~/bin/python", "/home/me/bin/python"), ("python3", "python3")],
)
def test_python_is_a_path_relative_to_the_file_or_a_command(file, tmp_path, monkeypatch, named, meant):
    monkeypatch.setenv("HOME", "/home/me")
    assert load(file(f'python = "{named}"')).python == meant.format(folder=tmp_path)
