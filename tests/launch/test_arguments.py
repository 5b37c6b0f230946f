"""The arguments of servers, checked by the argument parser of the real vLLM. No server is started."""

from __future__ import annotations

import os

import pytest

from testbed import environment, servers
from vllm_launch import Server, arguments
from vllm_launch.presets import PRESETS

pytestmark = pytest.mark.vllm

WRONG = {
    "unknown-flag": ({"extra_args": ("--max-model-length", "9")}, "Nearest: --max-model-len."),
    "unknown-tools": ({"tool_call_parser": "hermess"}, "Nearest: hermes."),
    "unknown-reasoning": ({"reasoning_parser": "deepseek_r2"}, "Nearest: deepseek_r1."),
    "unknown-dtype": ({"dtype": "float17"}, "Nearest: float16."),
    "wrong-number": ({"kv_cache_dtype": "fp9"}, "--kv-cache-dtype can't be 'fp9'"),
    "no-template": ({"chat_template": "/no/such.jinja"}, "no chat template /no/such.jinja"),
}


@pytest.fixture(scope="module")
def verdicts():
    """vLLM's verdict on each server, by name. One process checks all of them."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: vLLM is not run")
    wrong = [Server(name=name, model="org/model", port=8001, **fields) for name, (fields, _) in WRONG.items()]
    tested = [servers.chat(8001), servers.embed(8002), servers.korean(8003), servers.reasoning(8004, "qwen3")]
    read = arguments.check_all([*PRESETS.values(), *tested, *wrong], environment.prepare())
    return {verdict.server: verdict for verdict in read}


@pytest.mark.parametrize("name", [*PRESETS, "chat", "embed", "korean", "reasoning-qwen3"])
def test_vllm_accepts_the_arguments_of_presets_and_of_the_test_bed(verdicts, name):
    assert verdicts[name].accepted, verdicts[name].words


@pytest.mark.parametrize("name", WRONG)
def test_rejected_arguments_are_explained(verdicts, name):
    assert verdicts[name].accepted is False
    assert WRONG[name][1] in verdicts[name].words
