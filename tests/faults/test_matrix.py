"""Each fault with each operation, both clients, plain and streamed, on a real vLLM, as matrix.py requires.

Then the faults of the discovery request, whose outcome does not depend on the operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ollama_compat import ResponseError
from tests.asker import Asker
from tests.conftest import RunningServer
from tests.polling import eventually

from .faults import DISCOVERY_FAULTS, FAULTS, EndlessHints, Refuse, StallBeforeReply, Status
from .leaks import Leaks
from .matrix import DISCOVERY, MATRIX, Outcome, Row
from .proxy import FaultProxy

TIMEOUT_S = 120.0
SHORT_S = 1.0
"""Timeout of a call that must time out."""
DISCOVERY_S = {True: 0.5, False: 4.0}
"""Timeout of discovery for a lasting fault, and for one after which a retry has to succeed within that time."""
KEY = "sesame-open-sesame"
OPTIONS = {"temperature": 0, "num_predict": 5}
ACCEPTED = {Outcome.RESET: (Outcome.CONNECTION, Outcome.CUT_OFF)}
CALLS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Count to ten."}], "options": OPTIONS},
    "generate": {"prompt": "Count to ten.", "options": OPTIONS},
    "embed": {"input": "one text"},
}
VARIANTS = [("chat", True), ("chat", False), ("generate", True), ("generate", False), ("embed", False)]


@pytest.fixture(scope="module")
def proxies(chat_server: RunningServer, embed_server: RunningServer) -> Iterator[dict[str, tuple[FaultProxy, str]]]:
    with FaultProxy(chat_server.url) as chat, FaultProxy(embed_server.url) as embed:
        yield {"chat": (chat, chat_server.model), "embed": (embed, embed_server.model)}


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, bool], Any]:
    """The answer of each call without a fault, filled by the first test that needs it."""
    return {}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless replies reach a smaller limit, and retries wait only a moment."""
    monkeypatch.setattr("ollama_compat.servers.retry.backoff", lambda _: 0.01)
    monkeypatch.setattr("ollama_compat.transport.driver.MAX_REPLY_BYTES", 4_000_000)
    monkeypatch.setattr("ollama_compat.transport.sse.MAX_EVENT_BYTES", 4_000_000)


def test_matrix_has_every_fault() -> None:
    assert [row.fault for row in MATRIX] == list(FAULTS)


@pytest.mark.parametrize(("operation", "stream"), VARIANTS, ids=[f"{name}{'-stream' * on}" for name, on in VARIANTS])
@pytest.mark.parametrize("row", MATRIX, ids=[row.fault for row in MATRIX])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_fault_has_the_required_outcome(
    proxies: dict[str, tuple[FaultProxy, str]],
    connect: Callable[..., Asker],
    expected: dict[tuple[str, bool], Any],
    row: Row,
    operation: str,
    stream: bool,
    lasting: bool,
) -> None:
    required = row.outcome(operation, stream=stream, lasting=lasting)
    if required is Outcome.NEVER:
        pytest.skip("refusing a single connection is the same as resetting it")
    proxy, model = proxies["embed" if operation == "embed" else "chat"]
    arguments = {"model": model, **CALLS[operation], **({"stream": True} if stream else {})}
    if (operation, stream) not in expected:
        client = connect(vllm_urls=proxy.url, timeout=TIMEOUT_S)
        expected[operation, stream] = getattr(client, operation)(**arguments)
        client.close()
    timeout = SHORT_S if required is Outcome.TIMEOUT else TIMEOUT_S
    client = connect(vllm_urls=proxy.url, vllm_api_key=KEY, timeout=timeout)
    # Discovery is done, and the client has an idle connection. A short timeout may need several attempts.
    assert eventually(lambda: _discovers(client))
    fault, _ = FAULTS[row.fault]
    with _no_leaks(fault):
        proxy.inject(fault, times=None if lasting else 1)
        try:
            outcome = _outcome(client, operation, arguments, expected[operation, stream], fault)
        finally:
            proxy.clear()
        assert outcome in (ACCEPTED.get(required) or (required,))
        client.close()
        proxy.wait_idle()


@pytest.mark.parametrize("row", DISCOVERY, ids=[row.fault for row in DISCOVERY])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_fault_of_the_discovery_request_has_the_required_outcome(
    proxies: dict[str, tuple[FaultProxy, str]],
    connect: Callable[..., Asker],
    expected: dict[tuple[str, bool], Any],
    monkeypatch: pytest.MonkeyPatch,
    row: Row,
    lasting: bool,
) -> None:
    required = row.outcome("chat", stream=False, lasting=lasting)
    if required is Outcome.NEVER:
        pytest.skip("refusing a single connection is the same as resetting it")
    proxy, model = proxies["chat"]
    arguments = {"model": model, **CALLS["chat"]}
    if ("chat", False) not in expected:
        client = connect(vllm_urls=proxy.url, timeout=TIMEOUT_S)
        expected["chat", False] = client.chat(**arguments)
        client.close()
    fault, _ = (FAULTS | DISCOVERY_FAULTS)[row.fault]
    if isinstance(fault, StallBeforeReply | EndlessHints):
        monkeypatch.setattr("ollama_compat.servers.registry.DISCOVERY_TIMEOUT_S", DISCOVERY_S[lasting])
    client = connect(vllm_urls=proxy.url, vllm_api_key=KEY, timeout=TIMEOUT_S)
    with _no_leaks(fault):
        proxy.inject(fault, on="/v1/models", times=None if lasting else 1)
        try:
            outcome = _outcome(client, "chat", arguments, expected["chat", False], fault)
        finally:
            proxy.clear()
        assert outcome is required
        client.close()
        proxy.wait_idle()


def _no_leaks(fault: object) -> contextlib.AbstractContextManager[object]:
    """Checks for leaks. After `Refuse` the proxy itself opens a new socket to listen, so there it checks nothing."""
    return contextlib.nullcontext() if isinstance(fault, Refuse) else Leaks()


def _discovers(client: Asker) -> bool:
    try:
        client.list()
    except (httpx.TimeoutException, ConnectionError):
        return False
    return True


def _outcome(client: Asker, operation: str, arguments: dict[str, Any], expected: Any, fault: object) -> Outcome:
    try:
        answer = getattr(client, operation)(**arguments)
    except httpx.ReadTimeout:
        return Outcome.TIMEOUT
    except ConnectionError:
        return Outcome.CONNECTION
    except ResponseError as error:
        return _error_outcome(error, fault)
    return Outcome.ANSWER if _content(answer) == _content(expected) else Outcome.REPEATED


def _error_outcome(error: ResponseError, fault: object) -> Outcome:
    assert KEY not in str(error)
    assert str(error).replace("\n", "").isprintable()
    if "redirects to" in error.error:
        return Outcome.REDIRECT
    if "malformed reply" in error.error:
        return Outcome.MALFORMED
    if "unexpected EOF" in error.error:
        return Outcome.CUT_OFF
    if isinstance(fault, Status):
        assert error.status_code == fault.code
    return Outcome.STATUS


def _content(answer: Any) -> Any:
    """The content of an answer without its durations. A stream returns a list of parts."""
    if isinstance(answer, list):
        return "".join(_content(part) for part in answer)
    if hasattr(answer, "embeddings"):
        return answer.embeddings
    return answer.message.content if hasattr(answer, "message") else answer.response
