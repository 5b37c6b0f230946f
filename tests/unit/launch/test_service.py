"""The variables for a service."""

from __future__ import annotations

import json
import subprocess

import pytest

from vllm_launch import service
from vllm_launch.presets import PRESETS
from vllm_launch.runtimes import LaunchError

MAP = {"exaone3.5:7.8b": "LGAI-EXAONE/EXAONE-4.0-32B-AWQ", "daynice/kure-v1": "nlpai-lab/KURE-v1", "other": "nowhere"}
LLM, EMBED = PRESETS["vllm-llm"], PRESETS["vllm-embed"]


def test_urls_and_the_part_of_the_map_that_is_served():
    assert service.variables([LLM, EMBED], MAP) == {
        "BACKEND_MODE": "vllm",
        "VLLM_URLS": "http://127.0.0.1:8001,http://127.0.0.1:8002",
        "VLLM_MODEL_MAP": json.dumps({key: MAP[key] for key in ("exaone3.5:7.8b", "daynice/kure-v1")}),
    }


def test_no_map_where_nothing_of_it_is_served():
    assert "VLLM_MODEL_MAP" not in service.variables([LLM.model_copy(update={"served_model_name": ("x",)})], MAP)


def test_a_shell_takes_what_is_written_for_it(tmp_path):
    (tmp_path / "the key").write_text("secret\n")
    servers = [LLM.model_copy(update={"api_key_file": tmp_path / "the key"})]
    variables = service.variables(servers, MAP)
    script = service.written(servers, variables, "shell")
    assert "secret" not in script
    printed = subprocess.run(
        ["sh", "-c", f'{script}\nprintf "%s|%s|%s" "$VLLM_URLS" "$VLLM_MODEL_MAP" "$VLLM_API_KEY"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == f"http://127.0.0.1:8001|{variables['VLLM_MODEL_MAP']}|secret"


def test_an_env_file_and_json(tmp_path):
    servers = [EMBED.model_copy(update={"api_key_file": tmp_path / "key"})]
    variables = service.variables(servers, MAP)
    lines = service.written(servers, variables, "dotenv").splitlines()
    assert lines == [
        "BACKEND_MODE=vllm",
        "VLLM_URLS=http://127.0.0.1:8002",
        'VLLM_MODEL_MAP={"daynice/kure-v1": "nlpai-lab/KURE-v1"}',
        f"# VLLM_API_KEY: what is in {tmp_path / 'key'}",
    ]
    assert json.loads(service.written(servers, variables, "json")) == variables


def test_nothing_to_name(tmp_path):
    with pytest.raises(LaunchError, match="No server runs"):
        service.variables([], MAP)
    with pytest.raises(LaunchError, match="one key"):
        service.variables([LLM, EMBED.model_copy(update={"api_key_file": tmp_path})], MAP)
