"""The variables for a service."""

from __future__ import annotations

import json
import subprocess

import pytest

from ollama_compat.settings import DEFAULT_MODEL_MAP
from vllm_launch import service
from vllm_launch.presets import KURE, PRESETS
from vllm_launch.runtimes import LaunchError

MAP = {"exaone3.5:7.8b": "LGAI-EXAONE/EXAONE-4.0-32B-AWQ", "daynice/kure-v1": "nlpai-lab/KURE-v1", "other": "nowhere"}
LLM, EMBED = PRESETS["vllm-llm"], PRESETS["vllm-embed"]


def test_variables_contain_urls_and_the_served_part_of_the_map():
    assert service.variables([LLM, EMBED], [MAP]) == {
        "BACKEND_MODE": "vllm",
        "VLLM_URLS": "http://127.0.0.1:8001,http://127.0.0.1:8002",
        "VLLM_MODEL_MAP": json.dumps({key: MAP[key] for key in ("exaone3.5:7.8b", "daynice/kure-v1")}),
    }


def test_variables_contain_no_map_without_served_entries():
    assert "VLLM_MODEL_MAP" not in service.variables([LLM.model_copy(update={"served_model_name": ("x",)})], [MAP])


def test_later_call_adds_servers_that_an_earlier_map_lacks(tmp_path):
    """The map in the environment comes from a call before the embedding server started."""
    earlier = service.variables([LLM], service.model_maps({}))["VLLM_MODEL_MAP"]
    later = service.variables([LLM, EMBED], service.model_maps({"VLLM_MODEL_MAP": earlier}))
    assert json.loads(later["VLLM_MODEL_MAP"]) == {key: MAP[key] for key in ("exaone3.5:7.8b", "daynice/kure-v1")}


def test_environment_precedes_file_and_file_precedes_defaults(tmp_path):
    (tmp_path / "c.toml").write_text(f"""vllm_model_map = {{ file = "{KURE}", both = "{KURE}" }}\n""")
    environ = {"OLLAMA_COMPAT_CONFIG": str(tmp_path / "c.toml"), "VLLM_MODEL_MAP": json.dumps({"both": LLM.model})}
    known = json.loads(service.variables([LLM, EMBED], service.model_maps(environ))["VLLM_MODEL_MAP"])
    assert known == {**DEFAULT_MODEL_MAP, "file": KURE, "both": LLM.model}


def test_invalid_settings_are_a_launch_error(tmp_path):
    with pytest.raises(LaunchError, match=r"settings of the service: VLLM_MODEL_MAP"):
        service.model_maps({"VLLM_MODEL_MAP": "no JSON"})
    with pytest.raises(LaunchError, match=r"nowhere\.toml"):
        service.model_maps({"OLLAMA_COMPAT_CONFIG": str(tmp_path / "nowhere.toml")})


def test_shell_form_unsets_variables_that_no_longer_apply():
    servers = [LLM.model_copy(update={"served_model_name": ("x",)})]
    script = service.written(servers, service.variables(servers, [MAP]), "shell")
    printed = subprocess.run(
        ["sh", "-c", f'{script}\nprintf "%s|%s" "${{VLLM_MODEL_MAP-none}}" "${{VLLM_API_KEY-none}}"'],
        capture_output=True,
        text=True,
        check=True,
        env={"VLLM_MODEL_MAP": "old", "VLLM_API_KEY": "old"},
    ).stdout
    assert printed == "none|none"


def test_shell_form_is_valid_shell(tmp_path):
    (tmp_path / "the key").write_text(" secret\r\n")
    servers = [LLM.model_copy(update={"api_key_file": tmp_path / "the key"})]
    variables = service.variables(servers, [MAP])
    script = service.written(servers, variables, "shell")
    assert "secret" not in script
    printed = subprocess.run(
        ["sh", "-c", f'{script}\nprintf "%s|%s|%s" "$VLLM_URLS" "$VLLM_MODEL_MAP" "$VLLM_API_KEY"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == f"http://127.0.0.1:8001|{variables['VLLM_MODEL_MAP']}|secret"


def test_dotenv_and_json_contain_the_variables(tmp_path):
    servers = [EMBED.model_copy(update={"api_key_file": tmp_path / "key"})]
    variables = service.variables(servers, [MAP])
    lines = service.written(servers, variables, "dotenv").splitlines()
    assert lines == [
        "BACKEND_MODE=vllm",
        "VLLM_URLS=http://127.0.0.1:8002",
        'VLLM_MODEL_MAP={"daynice/kure-v1": "nlpai-lab/KURE-v1"}',
        f"# VLLM_API_KEY: the content of {tmp_path / 'key'}",
    ]
    assert json.loads(service.written(servers, variables, "json")) == variables


def test_variables_raise_without_servers_or_with_two_keys(tmp_path):
    with pytest.raises(LaunchError, match="No server runs"):
        service.variables([], [MAP])
    with pytest.raises(LaunchError, match="one key"):
        service.variables([LLM, EMBED.model_copy(update={"api_key_file": tmp_path})], [MAP])
