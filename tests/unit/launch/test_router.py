"""The arguments of vLLM's router."""

from __future__ import annotations

from vllm_launch import router


def test_arguments_contain_the_listen_address_and_the_workers() -> None:
    given = router.arguments(["http://a:1", "http://b:2"], 8001, host="0.0.0.0", policy="round_robin", metrics_port=9)
    assert given[:9] == [
        *("--host", "0.0.0.0", "--port", "8001"),
        *("--worker-urls", "http://a:1", "http://b:2"),
        *("--policy", "round_robin"),
    ]
    assert given[-4:] == ["--prometheus-host", "0.0.0.0", "--prometheus-port", "9"]


def test_router_listens_on_loopback_by_default() -> None:
    given = router.arguments(["http://a:1"], 8001)
    assert [given[given.index(flag) + 1] for flag in ("--host", "--prometheus-host")] == ["127.0.0.1", "127.0.0.1"]


def test_arguments_contain_every_flag_with_its_value() -> None:
    given = router.arguments(["http://a:1"], 8001)
    assert {flag.name: given[given.index(flag.name) + 1] for flag in router.FLAGS} == {
        flag.name: str(flag.value) for flag in router.FLAGS
    }


def test_circuit_opens_before_the_retries_are_used_up() -> None:
    values = {flag.name: flag.value for flag in router.FLAGS}
    assert values["--cb-failure-threshold"] < values["--retry-max-retries"]
