"""Fixtures for all tests: the data folder, and real vLLM servers, each started at its first use.

`chat_server` and `embed_server` start at the same time and live for the session; `korean_server` and
`reasoning_server` live for a module. A server takes 2 to 3 GB, so a test module uses one of the latter two, not both.

    @pytest.mark.parametrize("reasoning_server", ["qwen3"], indirect=True)
    def test_thoughts(reasoning_server, vllm_env):
        vllm_env(reasoning_server, model_map={"exaone": "smolreason"})

If a server does not start, its tests fail. VLLM_TESTS=off skips them instead.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import environment, models, servers
from testbed.paths import HOME, TestbedError
from tests.asker import connect as connect
from vllm_launch import Server, ServerError, ServerProcess, free_ports

_TESTS = Path(__file__).parent
_NUMBERS = itertools.count()
_LOGS = HOME / "logs" / "tests"
_SERVERS = {"chat_server", "embed_server", "korean_server", "reasoning_server"}
# What `make test` leaves to `make test-all`: folders and files below tests/, and all parsers but one.
_EXTENDED = (
    "faults/",
    "launch/",
    "docker/",
    "conformance/",
    "integration/test_korean.py",
    "integration/test_options.py",
    "integration/test_providers.py",
    "integration/test_rates_redis.py",
    "integration/test_templates.py",
)
_EXTENDED_PARSERS = ("deepseek_r1", "qwen3")

VllmEnv = Callable[..., None]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The address of a running server and the models that it serves."""

    url: str
    served_names: tuple[str, ...]
    api_key: str | None = None

    @property
    def model(self) -> str:
        """The first name that the server serves."""
        return self.served_names[0]


def pytest_configure() -> None:
    # A shell makes its background processes ignore Ctrl-C, and the processes that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the markers `vllm` and `extended`."""
    for item in items:
        if isinstance(item, pytest.Function) and _SERVERS.intersection(item.fixturenames):
            item.add_marker(pytest.mark.vllm)
        if _is_extended(item):
            item.add_marker(pytest.mark.extended)


def _is_extended(item: pytest.Item) -> bool:
    if item.path.relative_to(_TESTS).as_posix().startswith(_EXTENDED):
        return True
    callspec = getattr(item, "callspec", None)  # None: the test has no parameters
    return callspec is not None and callspec.params.get("reasoning_server") in _EXTENDED_PARSERS


@pytest.fixture(scope="session", autouse=True)
def cached_tls_contexts() -> Iterator[None]:
    """A client takes 30 ms to read the certificate authorities, and the tests create thousands of clients."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def session_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of clients that fixtures of a wider scope than a test create."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_DATA_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch, session_data_folder: Path) -> None:
    """Each test has its own data folder, which does not exist yet. The user's own models stay out of the tests.

    The folder is not below `tmp_path`: to create and remove that one takes 10 ms.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(session_data_folder / f"test-{next(_NUMBERS)}"))


@pytest.fixture(scope="session")
def chat_and_embed(pytestconfig: pytest.Config) -> Iterator[tuple[RunningServer, RunningServer]]:
    chat_port, embed_port = free_ports(2)
    wanted = [servers.chat(chat_port), servers.embed(embed_port)]
    with _serving(pytestconfig, wanted, (models.SMOLLM2, models.MINILM)) as (chat, embed):
        yield chat, embed


@pytest.fixture(scope="session")
def chat_server(chat_and_embed: tuple[RunningServer, RunningServer]) -> RunningServer:
    return chat_and_embed[0]


@pytest.fixture(scope="session")
def embed_server(chat_and_embed: tuple[RunningServer, RunningServer]) -> RunningServer:
    return chat_and_embed[1]


@pytest.fixture(scope="module")
def korean_server(pytestconfig: pytest.Config) -> Iterator[RunningServer]:
    with _serving(pytestconfig, [servers.korean(free_ports(1)[0])], (models.GEMMA3,)) as (korean,):
        yield RunningServer(korean.url, korean.served_names, api_key=servers.API_KEY)


@pytest.fixture(scope="module")
def reasoning_server(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[RunningServer]:
    parser = getattr(request, "param", "qwen3")
    wanted = [servers.reasoning(free_ports(1)[0], parser)]
    with _serving(pytestconfig, wanted, (models.SMOLLM2_REASONING,)) as (reasoning,):
        yield reasoning


@pytest.fixture
def vllm_env(monkeypatch: pytest.MonkeyPatch) -> VllmEnv:
    """Points the environment at servers: `vllm_env(chat_server, embed_server, model_map={…}, VLLM_FAILOVER="…")`."""
    for name in list(os.environ):
        if name.startswith("VLLM_") or name in ("OLLAMA_COMPAT_CONFIG", "OLLAMA_HOST"):
            monkeypatch.delenv(name)

    def point(*to: RunningServer, model_map: dict[str, str] | None = None, **variables: str) -> None:
        monkeypatch.setenv("BACKEND_MODE", "vllm")
        monkeypatch.setenv("VLLM_URLS", ",".join(server.url for server in to))
        keys = [server.api_key for server in to if server.api_key]
        if keys:
            monkeypatch.setenv("VLLM_API_KEY", keys[0])
        if model_map is not None:
            monkeypatch.setenv("VLLM_MODEL_MAP", json.dumps(model_map))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return point


@contextlib.contextmanager
def _serving(
    config: pytest.Config, wanted: Sequence[Server], needed_models: tuple[str, ...]
) -> Iterator[list[RunningServer]]:
    with serving(config, wanted, needed_models) as processes:
        yield [RunningServer(process.url, process.server.served) for process in processes]


@contextlib.contextmanager
def serving(
    config: pytest.Config, wanted: Sequence[Server], needed_models: tuple[str, ...]
) -> Iterator[list[ServerProcess]]:
    """Starts real vLLM servers for a test that needs other servers than the fixtures, or their processes."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: no real vLLM server is started")
    with contextlib.ExitStack() as stack:
        # Installation and start take minutes, so pytest does not capture their progress.
        with _uncaptured(config):
            try:
                python = environment.prepare()
                models.prepare(python, needed_models)
                processes = stack.enter_context(servers.serving(wanted, python, _LOGS))
            except (TestbedError, ServerError) as error:
                pytest.fail(f"No real vLLM server to test with. {error}", pytrace=False)
        yield processes


@contextlib.contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[None]:
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        print()
        yield
