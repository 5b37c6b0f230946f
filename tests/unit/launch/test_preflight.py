"""The checks before a server starts as a process."""

from __future__ import annotations

import os
import sys

import pytest

from vllm_launch.runtimes.base import LaunchError
from vllm_launch.runtimes.groups import environment
from vllm_launch.runtimes.preflight import check, find_python


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder that is the whole PATH. Creates scripts in it."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def script(name, *lines):
        file = tmp_path / "bin" / name
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o755)
        return str(file)

    return script


@pytest.fixture
def python(path):
    """Creates a fake Python with or without vLLM."""

    def make(name, has_vllm):
        return path(name, "#!/bin/sh", f"exit {0 if has_vllm else 1}")

    return make


@pytest.fixture
def no_vllm(monkeypatch, python):
    """The Python of this program has no vLLM."""
    monkeypatch.setattr(sys, "executable", python("own", has_vllm=False))


def test_folder_named_vllm_does_not_count_as_vllm(tmp_path):
    (tmp_path / "vllm" / "entrypoints").mkdir(parents=True)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with pytest.raises(LaunchError, match="has no vLLM"):
        find_python(sys.executable, env)
    (tmp_path / "vllm" / "entrypoints" / "openai").mkdir()
    (tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py").touch()
    assert find_python(sys.executable, env) == sys.executable


def test_chosen_python_takes_precedence(python, monkeypatch):
    monkeypatch.setenv("VLLM_PYTHON", python("of-variable", has_vllm=True))
    assert find_python(python("chosen", has_vllm=True), os.environ).endswith("/chosen")
    assert find_python(None, os.environ).endswith("/of-variable")


def test_find_python_uses_the_python_of_vllm_on_the_path(python, path, no_vllm):
    wanted = python("python3.12", has_vllm=True)
    path("vllm", f"#!{wanted}", "import vllm")
    assert find_python(None, os.environ) == wanted


def test_find_python_uses_the_python_next_to_a_shell_script(python, path, no_vllm):
    wanted = python("python", has_vllm=True)
    path("vllm", "#!/bin/sh", "'''exec' …")
    assert find_python(None, os.environ) == wanted


def test_find_python_uses_the_python_of_this_program(python, monkeypatch):
    monkeypatch.setattr(sys, "executable", python("own", has_vllm=True))
    assert find_python(None, os.environ) == sys.executable


def test_find_python_raises_without_any_vllm(no_vllm):
    with pytest.raises(LaunchError, match=r"pip install vllm.*--python, or VLLM_PYTHON.*--runtime docker"):
        find_python(None, os.environ)


def test_find_python_raises_when_the_chosen_python_has_no_vllm(python):
    without = python("without", has_vllm=False)
    with pytest.raises(LaunchError, match=f"{without}' has no vLLM. To install it: {without} -m pip install vllm"):
        find_python(without, os.environ)


def test_find_python_raises_when_the_chosen_python_does_not_exist(monkeypatch):
    monkeypatch.setenv("VLLM_PYTHON", "/no/python")
    with pytest.raises(LaunchError, match=r"There is no Python '/no/python' \(set by VLLM_PYTHON\)"):
        find_python(None, os.environ)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "/no/model"}, r"no /no/model \(model\)"),
        ({"chat_template": "/no/file.jinja"}, r"no /no/file.jinja \(chat_template\)"),
        ({"lora_modules": {"ko": "/no/lora"}}, r"no /no/lora \(lora_modules.ko\)"),
    ],
)
def test_check_raises_for_a_missing_file(fake_server, fields, named):
    with pytest.raises(LaunchError, match=f"'chat' cannot be started: there is {named}"):
        check(fake_server().model_copy(update=fields), sys.executable)


@pytest.mark.parametrize("gpus", ["all", (0,)])
def test_check_raises_for_gpus_without_a_gpu(fake_server, path, gpus):
    with pytest.raises(LaunchError, match=r"nvidia-smi lists none.*vllm-llm-cpu"):
        check(fake_server().model_copy(update={"gpus": gpus}), sys.executable)


@pytest.mark.parametrize(("gpus", "missing"), [("all", ""), ((0, 1), ""), ((1, 2, 3), "2, 3")])
def test_check_raises_for_missing_gpu_numbers(fake_server, path, gpus, missing):
    path("nvidia-smi", "#!/bin/sh", "echo 0; echo 1")
    server = fake_server().model_copy(update={"gpus": gpus})
    if not missing:
        check(server, sys.executable)
        return
    with pytest.raises(LaunchError, match=f"needs GPU {missing}; this machine has 0, 1"):
        check(server, sys.executable)


def test_check_raises_when_the_driver_fails(fake_server, path):
    path("nvidia-smi", "#!/bin/sh", "echo NVIDIA-SMI has failed; exit 9")
    with pytest.raises(LaunchError, match="nvidia-smi lists none"):
        check(fake_server().model_copy(update={"gpus": "all"}), sys.executable)


def test_check_raises_for_a_missing_key_file(fake_server, tmp_path):
    with pytest.raises(LaunchError, match=f"api_key_file of the vLLM server 'chat', {tmp_path}/key, cannot be read"):
        check(fake_server().model_copy(update={"api_key_file": tmp_path / "key"}), sys.executable)


def test_gpu_numbers_follow_nvidia_smi(fake_server):
    env = environment(fake_server().model_copy(update={"gpus": (1, 0)}))
    assert (env["CUDA_DEVICE_ORDER"], env["CUDA_VISIBLE_DEVICES"]) == ("PCI_BUS_ID", "1,0")
