"""The TOML file: which servers it means, and how it says that something in it is wrong."""

from __future__ import annotations

import pytest

from vllm_launch.config import Config, load
from vllm_launch.presets import PRESETS
from vllm_launch.runtimes import LaunchError


@pytest.fixture
def file(tmp_path):
    """Writes a file and returns its path."""

    def write(text):
        path = tmp_path / "servers.toml"
        path.write_text(text)
        return path

    return write


def test_no_file_no_servers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(environ={}) == Config()


def test_the_file_of_the_working_folder_and_the_one_of_the_variable(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm-launch.toml").write_text('runtime = "process"')
    assert load(environ={}).runtime == "process"
    other = file('runtime = "docker"')
    assert load(environ={"VLLM_LAUNCH_CONFIG": str(other)}).runtime == "docker"
    assert load(tmp_path / "vllm-launch.toml", environ={"VLLM_LAUNCH_CONFIG": str(other)}).runtime == "process"


def test_a_preset_with_changes(file):
    config = load(file("[servers.vllm-llm]\nmax_model_len = 16384"))
    assert config.servers["vllm-llm"] == PRESETS["vllm-llm"].model_copy(update={"max_model_len": 16384})


def test_a_preset_under_another_name(file):
    text = '[servers.second]\npreset = "vllm-llm"\nport = 8011\ngpus = [1]'
    second = load(file(text)).servers["second"]
    assert (second.name, second.model, second.port, second.gpus) == (
        "second",
        PRESETS["vllm-llm"].model,
        8011,
        (1,),
    )


def test_a_server_of_ones_own(file):
    server = load(file('[servers.coder]\nmodel = "org/coder"\nport = 8003\ngpus = "all"')).servers["coder"]
    assert (server.model, server.port, server.gpus) == ("org/coder", 8003, "all")


def test_names_are_those_of_the_file_and_of_the_presets(file):
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
        ('[servers.coder]\nmodel = "m"\nport = 8003\nnonsense = 1', "no key 'nonsense'.*go into extra_args"),
        ('[servers.coder]\nmodel = "m"\nport = "x"', r"servers.coder.port: .*\(it is 'x'\)"),
        ('[servers.coder]\npreset = "vllm-lm"', "no preset 'vllm-lm'. Known: vllm-llm"),
        ('[servers.coder]\nmodel = "m"\nport = 1\ngpus = [0]\ntensor_parallel_size = 2', "2 GPUs are needed"),
        ("runtime =", "no valid TOML"),
    ],
)
def test_a_wrong_file_says_where_and_what(file, text, why):
    with pytest.raises(LaunchError, match=why) as caught:
        load(file(text))
    assert "servers.toml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(LaunchError, match="There is no file"):
        load(tmp_path / "none.toml")
    with pytest.raises(LaunchError, match="can't be read"):
        load(tmp_path)


@pytest.mark.parametrize(("named", "meant"), [("key", "{folder}/key"), ("~/key", "/home/me/key"), ("/a/key", "/a/key")])
def test_a_key_file_is_meant_from_where_the_file_is(file, tmp_path, monkeypatch, named, meant):
    monkeypatch.setenv("HOME", "/home/me")
    path = file(f'[servers.vllm-llm]\napi_key_file = "{named}"')
    assert str(load(path).servers["vllm-llm"].api_key_file) == meant.format(folder=tmp_path)
