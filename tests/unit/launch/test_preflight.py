"""What is refused before a server is started as a process."""

from __future__ import annotations

import os
import sys

import pytest

from vllm_launch.runtimes.base import LaunchError
from vllm_launch.runtimes.groups import environment
from vllm_launch.runtimes.preflight import check, find_python


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder that is the whole path; makes scripts in it."""
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
    """Makes a Python that has vLLM, or has not."""

    def make(name, has_vllm):
        return path(name, "#!/bin/sh", f"exit {0 if has_vllm else 1}")

    return make


@pytest.fixture
def no_vllm(monkeypatch, python):
    """This program's own Python has none."""
    monkeypatch.setattr(sys, "executable", python("own", has_vllm=False))


def test_a_folder_of_the_name_is_no_vllm(tmp_path):
    (tmp_path / "vllm" / "entrypoints").mkdir(parents=True)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with pytest.raises(LaunchError, match="has no vLLM"):
        find_python(sys.executable, env)
    (tmp_path / "vllm" / "entrypoints" / "openai").mkdir()
    (tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py").touch()
    assert find_python(sys.executable, env) == sys.executable


def test_the_python_that_is_chosen_comes_first(python, monkeypatch):
    monkeypatch.setenv("VLLM_PYTHON", python("of-variable", has_vllm=True))
    assert find_python(python("chosen", has_vllm=True), os.environ).endswith("/chosen")
    assert find_python(None, os.environ).endswith("/of-variable")


def test_the_python_of_vllm_on_the_path(python, path, no_vllm):
    wanted = python("python3.12", has_vllm=True)
    path("vllm", f"#!{wanted}", "import vllm")
    assert find_python(None, os.environ) == wanted


def test_the_python_beside_a_vllm_that_starts_by_a_shell(python, path, no_vllm):
    wanted = python("python", has_vllm=True)
    path("vllm", "#!/bin/sh", "'''exec' …")
    assert find_python(None, os.environ) == wanted


def test_this_programs_own_python(python, monkeypatch):
    monkeypatch.setattr(sys, "executable", python("own", has_vllm=True))
    assert find_python(None, os.environ) == sys.executable


def test_no_python_with_vllm(no_vllm):
    with pytest.raises(LaunchError, match=r"pip install vllm.*--python, or VLLM_PYTHON.*--runtime docker"):
        find_python(None, os.environ)


def test_a_chosen_python_without_vllm(python):
    without = python("without", has_vllm=False)
    with pytest.raises(LaunchError, match=f"{without}' has no vLLM. Install it there: {without} -m pip install vllm"):
        find_python(without, os.environ)


def test_a_python_that_is_not_there(monkeypatch):
    monkeypatch.setenv("VLLM_PYTHON", "/no/python")
    with pytest.raises(LaunchError, match=r"There is no Python '/no/python' \(named by VLLM_PYTHON\)"):
        find_python(None, os.environ)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "/no/model"}, r"no /no/model \(model\)"),
        ({"chat_template": "/no/file.jinja"}, r"no /no/file.jinja \(chat_template\)"),
        ({"lora_modules": {"ko": "/no/lora"}}, r"no /no/lora \(lora_modules.ko\)"),
    ],
)
def test_a_file_that_is_not_there(fake_server, fields, named):
    with pytest.raises(LaunchError, match=f"'chat' can't be started: there is {named}"):
        check(fake_server().model_copy(update=fields), sys.executable)


@pytest.mark.parametrize("gpus", ["all", (0,)])
def test_a_gpu_where_there_is_none(fake_server, path, gpus):
    with pytest.raises(LaunchError, match=r"has none that nvidia-smi tells of.*vllm-llm-cpu"):
        check(fake_server().model_copy(update={"gpus": gpus}), sys.executable)


@pytest.mark.parametrize(("gpus", "missing"), [("all", ""), ((0, 1), ""), ((1, 2, 3), "2, 3")])
def test_gpus_by_their_numbers(fake_server, path, gpus, missing):
    path("nvidia-smi", "#!/bin/sh", "echo 0; echo 1")
    server = fake_server().model_copy(update={"gpus": gpus})
    if not missing:
        check(server, sys.executable)
        return
    with pytest.raises(LaunchError, match=f"with GPU {missing}; this machine has 0, 1"):
        check(server, sys.executable)


def test_a_driver_that_does_not_work(fake_server, path):
    path("nvidia-smi", "#!/bin/sh", "echo NVIDIA-SMI has failed; exit 9")
    with pytest.raises(LaunchError, match="none that nvidia-smi tells of"):
        check(fake_server().model_copy(update={"gpus": "all"}), sys.executable)


def test_a_key_file_without_a_key(fake_server, tmp_path):
    with pytest.raises(LaunchError, match=f"api_key_file of the vLLM server 'chat', {tmp_path}/key, can't be read"):
        check(fake_server().model_copy(update={"api_key_file": tmp_path / "key"}), sys.executable)


def test_gpu_numbers_are_those_of_nvidia_smi(fake_server):
    env = environment(fake_server().model_copy(update={"gpus": (1, 0)}))
    assert (env["CUDA_DEVICE_ORDER"], env["CUDA_VISIBLE_DEVICES"]) == ("PCI_BUS_ID", "1,0")
