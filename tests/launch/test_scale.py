"""The servers of docs/scale.md, checked by the argument parser of the real vLLM. No server is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed import environment
from tests.unit.launch.test_scale import read_examples
from vllm_launch import arguments

pytestmark = pytest.mark.vllm


def test_vllm_accepts_the_arguments_of_every_server_in_docs_scale(tmp_path: Path) -> None:
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: vLLM is not run")
    described = [server for config in read_examples(tmp_path) for server in config.servers.values()]
    verdicts = arguments.check_all(described, environment.prepare())
    assert [verdict.words for verdict in verdicts if not verdict.accepted] == []
    assert len(verdicts) == 5
