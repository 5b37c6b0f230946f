"""Each fault, each operation, both clients, plain and streamed, against a real vLLM: what matrix.py requires.

Then the faults of the request that a client learns with what the server serves, which does not depend on the operation.
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

from .faults import FAULTS, OF_LEARNING, EndlessHints, Refuse, StallBeforeReply, Status
from .leaks import Leaks
from .matrix import LEARNING, MATRIX, Outcome, Row
from .proxy import FaultProxy

TIMEOUT_S = 20.0
SHORT_S = 1.0  # where the caller's time is to run out
KEY = "sesame-open-sesame"
CALM = {"temperature": 0, "num_predict": 5}
ALIKE = {Outcome.RESET: (Outcome.CONNECTION, Outcome.CUT_OFF)}
CALLS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Count to ten."}], "options": CALM},
    "generate": {"prompt": "Count to ten.", "options": CALM},
    "embed": {"input": "one text"},
}
WAYS = [("chat", True), ("chat", False), ("generate", True), ("generate", False), ("embed", False)]


@pytest.fixture(scope="module")
def proxies(chat_server: RunningServer, embed_server: RunningServer) -> Iterator[dict[str, tuple[FaultProxy, str]]]:
    with FaultProxy(chat_server.url) as chat, FaultProxy(embed_server.url) as embed:
        yield {"chat": (chat, chat_server.model), "embed": (embed, embed_server.model)}


@pytest.fixture(scope="module")
def undisturbed() -> dict[tuple[str, bool], Any]:
    """The answer of each call without a fault."""
    return {}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no end is given up earlier, and retries hardly wait."""
    monkeypatch.setattr("ollama_compat.servers.retry.backoff", lambda _: 0.01)
    monkeypatch.setattr("ollama_compat.transport.driver.MAX_REPLY_BYTES", 4_000_000)
    monkeypatch.setattr("ollama_compat.transport.sse.MAX_EVENT_BYTES", 4_000_000)


def test_the_matrix_has_every_fault() -> None:
    assert [row.fault for row in MATRIX] == list(FAULTS)


@pytest.mark.parametrize(("operation", "stream"), WAYS, ids=[f"{name}{'-stream' * on}" for name, on in WAYS])
@pytest.mark.parametrize("row", MATRIX, ids=[row.fault for row in MATRIX])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_a_fault_comes_to_what_it_must(
    proxies: dict[str, tuple[FaultProxy, str]],
    connect: Callable[..., Asker],
    undisturbed: dict[tuple[str, bool], Any],
    row: Row,
    operation: str,
    stream: bool,
    lasting: bool,
) -> None:
    required = row.outcome(operation, stream=stream, lasting=lasting)
    if required is Outcome.NEVER:
        pytest.skip("a server that refuses one connection and takes the next is one that was reset")
    proxy, model = proxies["embed" if operation == "embed" else "chat"]
    asked = {"model": model, **CALLS[operation], **({"stream": True} if stream else {})}
    if (operation, stream) not in undisturbed:
        first = connect(vllm_urls=proxy.url, timeout=TIMEOUT_S)
        undisturbed[operation, stream] = getattr(first, operation)(**asked)
        first.close()
    timeout = SHORT_S if required is Outcome.TIMEOUT else TIMEOUT_S
    asker = connect(vllm_urls=proxy.url, vllm_api_key=KEY, timeout=timeout)
    asker.list()  # it knows what the server serves, and has an idle connection to it
    fault, _ = FAULTS[row.fault]
    listens_anew = isinstance(fault, Refuse)  # the proxy itself, which a look for what is left would find
    with contextlib.nullcontext() if listens_anew else Leaks():
        proxy.inject(fault, times=None if lasting else 1)
        try:
            came = _outcome(asker, operation, asked, undisturbed[operation, stream], fault)
        finally:
            proxy.clear()
        assert came in (ALIKE.get(required) or (required,))
        asker.close()
        proxy.wait_idle()


@pytest.mark.parametrize("row", LEARNING, ids=[row.fault for row in LEARNING])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_a_fault_of_learning_what_is_served_comes_to_what_it_must(
    proxies: dict[str, tuple[FaultProxy, str]],
    connect: Callable[..., Asker],
    undisturbed: dict[tuple[str, bool], Any],
    monkeypatch: pytest.MonkeyPatch,
    row: Row,
    lasting: bool,
) -> None:
    required = row.outcome("chat", stream=False, lasting=lasting)
    if required is Outcome.NEVER:
        pytest.skip("a server that refuses one connection and takes the next is one that was reset")
    proxy, model = proxies["chat"]
    asked = {"model": model, **CALLS["chat"]}
    if ("chat", False) not in undisturbed:
        first = connect(vllm_urls=proxy.url, timeout=TIMEOUT_S)
        undisturbed["chat", False] = first.chat(**asked)
        first.close()
    fault, _ = (FAULTS | OF_LEARNING)[row.fault]
    if isinstance(fault, StallBeforeReply | EndlessHints):
        monkeypatch.setattr("ollama_compat.servers.registry.DISCOVERY_TIMEOUT_S", SHORT_S / 2)
    asker = connect(vllm_urls=proxy.url, vllm_api_key=KEY, timeout=TIMEOUT_S)
    with contextlib.nullcontext() if isinstance(fault, Refuse) else Leaks():
        proxy.inject(fault, on="/v1/models", times=None if lasting else 1)
        try:
            came = _outcome(asker, "chat", asked, undisturbed["chat", False], fault)
        finally:
            proxy.clear()
        assert came is required
        asker.close()
        proxy.wait_idle()


def _outcome(asker: Asker, operation: str, asked: dict[str, Any], undisturbed: Any, fault: object) -> Outcome:
    try:
        answer = getattr(asker, operation)(**asked)
    except httpx.ReadTimeout:
        return Outcome.TIMEOUT
    except ConnectionError:
        return Outcome.CONNECTION
    except ResponseError as error:
        return _kind(error, fault)
    if _said(answer) == _said(undisturbed):
        return Outcome.ANSWER
    return Outcome.REPEATED


def _kind(error: ResponseError, fault: object) -> Outcome:
    assert KEY not in str(error)
    assert str(error).replace("\n", "").isprintable()
    if "redirects to" in error.error:
        return Outcome.REDIRECT
    if "malformed reply" in error.error:
        return Outcome.MALFORMED
    if "unexpected EOF" in error.error:
        return Outcome.CUT_OFF
    wanted = fault.code if isinstance(fault, Status) else error.status_code
    assert error.status_code == wanted
    return Outcome.STATUS


def _said(answer: Any) -> Any:
    """What an answer says, without its times."""
    if isinstance(answer, list):
        return "".join(_said(part) for part in answer)
    if hasattr(answer, "embeddings"):
        return answer.embeddings
    return answer.message.content if hasattr(answer, "message") else answer.response
