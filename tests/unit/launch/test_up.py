"""Bringing servers up and down: what stays, what is started, and what is left when something goes wrong."""

from __future__ import annotations

import contextlib
import fcntl

import pytest

from tests.unit.launch.fake_runtime import FakeRuntime
from vllm_launch import ready, up
from vllm_launch.runtimes import LaunchError
from vllm_launch.runtimes.state import state_folder
from vllm_launch.servers import Server


def described(name, port=8001, **fields):
    return Server(name=name, model="org/model", port=port, **fields)


CHAT, EMBED = described("chat"), described("embed", 8002)


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    fake = FakeRuntime()
    monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(ready, "ask", fake.ask)
    monkeypatch.setattr(up, "_POLL_S", 0)
    return fake


@pytest.fixture
def bring_up(runtime):
    """`up`, which keeps what it tells in `.events`."""

    def run(*servers, **options):
        run.events = []
        return up.up(runtime, servers, run.events.append, **options)

    return run


def kinds(bring_up, name):
    found = [event.kind for event in bring_up.events if event.server.name == name]
    return [kind for place, kind in enumerate(found) if kind not in found[:place]]


# What is done with each


def test_what_is_not_there_is_started_and_kept_once_it_is_ready(runtime, bring_up):
    runtime.plays = {"chat": ["loading", "loading", "ready"]}
    assert [instance.name for instance in bring_up(CHAT)] == ["chat"]
    assert runtime.done == [("prepare", "chat"), ("start", "chat"), ("keep", "chat")]
    assert kinds(bring_up, "chat") == ["prepares", "starts", "ready"]


def test_what_runs_as_described_stays(runtime, bring_up):
    runtime.has(CHAT)
    bring_up(CHAT, EMBED)
    assert runtime.did("start") == ["embed"]
    assert not runtime.did("stop")
    assert "stays" in kinds(bring_up, "chat")


def test_one_that_stays_is_waited_for(runtime, bring_up):
    runtime.has(CHAT)
    runtime.plays = {"chat": ["loading", "ready"]}
    bring_up(CHAT)
    assert kinds(bring_up, "chat") == ["stays", "starts", "ready"]


def test_what_differs_is_told_and_left_alone(runtime, bring_up):
    runtime.has(described("chat", max_model_len=1024))
    with pytest.raises(LaunchError, match=r"chat: max_model_len is 1024, described as None(.|\n)*up --replace"):
        bring_up(CHAT, EMBED)
    assert runtime.done == []


def test_of_variables_that_differ_only_the_names_are_told(runtime, bring_up):
    runtime.has(described("chat", env={"SAME": "s3cret", "NEW": "s3cret", "GONE": "s3cret"}))
    with pytest.raises(LaunchError, match=r"chat: env differs in GONE, NEW\n") as caught:
        bring_up(described("chat", env={"SAME": "s3cret", "NEW": "another s3cret"}))
    assert "s3cret" not in str(caught.value)


def test_what_differs_is_replaced_when_told_to(runtime, bring_up):
    runtime.has(described("chat", max_model_len=1024))
    bring_up(CHAT, replacing=True)
    assert runtime.done == [("prepare", "chat"), ("stop", "chat"), ("start", "chat"), ("keep", "chat")]


@pytest.mark.parametrize("state", ["exited", "restarting"])
def test_what_has_ended_is_started_anew_though_its_runtime_tries_as_well(runtime, bring_up, state):
    runtime.has(CHAT, state)
    bring_up(CHAT)
    assert runtime.did("stop") == ["chat"]
    assert runtime.did("start") == ["chat"]


def test_nothing_is_stopped_before_everything_is_prepared(runtime, bring_up):
    runtime.has(described("chat", max_model_len=1024))
    runtime.refuses = {("prepare", "embed"): "no such image"}
    with pytest.raises(LaunchError, match="no such image\nSo nothing has been started or stopped, chat neither"):
        bring_up(CHAT, EMBED, replacing=True)
    assert not runtime.did("stop")
    assert not runtime.did("start")


def test_one_alone_that_cannot_be_prepared_is_told_without_more_words(runtime, bring_up):
    runtime.refuses = {("prepare", "embed"): "no such image"}
    with pytest.raises(LaunchError, match=r"^no such image$"):
        bring_up(EMBED)


def test_two_servers_on_one_port(runtime, bring_up):
    with pytest.raises(LaunchError, match="chat and other have the same port, 8001"):
        bring_up(CHAT, described("other"))
    runtime.has(described("old"))
    with pytest.raises(LaunchError, match="vllm-launch down old"):
        bring_up(CHAT)


# GPUs


def test_servers_of_one_gpu_load_one_after_another_the_smallest_first(runtime, bring_up):
    large = described("large", gpus=(0,), gpu_memory_utilization=0.8)
    small = described("small", 8002, gpus=(0,), gpu_memory_utilization=0.1)
    runtime.plays = {"small": ["loading", "loading", "ready"]}
    bring_up(large, small)
    started = [step for step in runtime.done if step[0] in ("start", "keep")]
    assert started == [("start", "small"), ("keep", "small"), ("start", "large"), ("keep", "large")]
    assert kinds(bring_up, "large")[1] == "waits"


@pytest.mark.parametrize(
    ("one", "other", "together"), [((0,), (1,), True), ((), (0,), True), ("all", (1,), False), ((0, 1), (1, 2), False)]
)
def test_servers_of_different_gpus_load_side_by_side(runtime, bring_up, one, other, together):
    runtime.plays = {"one": ["loading", "loading", "ready"], "other": ["loading", "loading", "ready"]}
    bring_up(described("one", gpus=one), described("other", 8002, gpus=other))
    firsts = [verb for verb, _ in runtime.done if verb in ("start", "keep")]
    assert (firsts[:2] == ["start", "start"]) is together


# What goes wrong


def test_one_that_exits_is_told_with_its_cause_and_left_for_its_log(runtime, bring_up):
    runtime.plays = {"chat": ["loading", "exited"], "embed": ["loading", "loading", "loading", "ready"]}
    runtime.logs = {"chat": "ValueError: No such weights\n"}
    with pytest.raises(LaunchError) as caught:
        bring_up(CHAT, EMBED)
    message = str(caught.value)
    assert "'chat' ended while it was starting, with status 1" in message
    assert message.count("ValueError: No such weights") == 2  # the cause, and the last lines
    assert runtime.did("keep") == ["embed"]
    assert not runtime.did("stop")
    assert kinds(bring_up, "chat")[-1] == "failed"


def test_one_that_is_never_ready_is_stopped(runtime, bring_up):
    runtime.plays = {"chat": ["loading"]}
    with pytest.raises(LaunchError, match="was not ready after 0 seconds; it has been stopped"):
        bring_up(CHAT, timeout_s=0)
    assert runtime.did("stop") == ["chat"]


def test_one_that_somebody_else_has_started_and_that_is_never_ready_is_left_alone(runtime, bring_up):
    runtime.has(CHAT, kept=False)
    runtime.plays = {"chat": ["loading"]}
    with pytest.raises(LaunchError, match=r"was not ready after 0 seconds; to start it anew: vllm-launch down chat"):
        bring_up(CHAT, timeout_s=0)
    assert runtime.done == []


def test_one_that_answers_no_more_is_told_to_be_ill_and_not_to_be_starting(runtime, bring_up):
    runtime.has(CHAT, unhealthy="3 health checks in a row have failed")
    runtime.plays = {"chat": ["loading", "loading", "ready"]}
    bring_up(CHAT)
    assert bring_up.events[1].text == "3 health checks in a row have failed"


def test_a_stranger_at_its_address(runtime, bring_up):
    runtime.plays = {"chat": ["unexpected-server"]}
    with pytest.raises(LaunchError, match="'chat' can't be reached: another model answers"):
        bring_up(CHAT)
    assert runtime.did("stop") == ["chat"]


def test_a_start_that_is_refused_does_not_stop_the_others(runtime, bring_up):
    runtime.refuses = {("start", "chat"): "port 8001 is taken"}
    with pytest.raises(LaunchError, match="port 8001 is taken"):
        bring_up(CHAT, EMBED)
    assert runtime.did("keep") == ["embed"]


def test_ctrl_c_stops_what_was_starting_and_leaves_what_was_ready(runtime, bring_up):
    runtime.plays = {"chat": ["loading", "loading", "interrupt"], "embed": ["ready"]}
    with pytest.raises(KeyboardInterrupt):
        bring_up(CHAT, EMBED)
    assert runtime.did("keep") == ["embed"]
    assert runtime.did("stop") == ["chat"]


def test_ctrl_c_leaves_what_somebody_else_was_starting(runtime, bring_up):
    runtime.has(CHAT)
    runtime.plays = {"chat": ["interrupt"]}
    with pytest.raises(KeyboardInterrupt):
        bring_up(CHAT)
    assert not runtime.did("stop")


def test_what_another_launcher_starts_meanwhile_is_waited_for(runtime, bring_up):
    prepare = runtime.prepare

    def prepare_while_another_starts(server, report):
        prepare(server, report)
        runtime.has(server)

    runtime.prepare = prepare_while_another_starts
    runtime.plays = {"chat": ["loading", "ready"]}
    bring_up(CHAT)
    assert not runtime.did("start")
    assert kinds(bring_up, "chat")[-1] == "ready"


def test_what_another_launcher_starts_meanwhile_otherwise_than_described_is_left_alone(runtime, bring_up):
    prepare = runtime.prepare

    def prepare_while_another_starts(server, report):
        prepare(server, report)
        runtime.has(described("chat", max_model_len=1024))

    runtime.prepare = prepare_while_another_starts
    with pytest.raises(LaunchError, match=r"chat: max_model_len is 1024, described as None(.|\n)*up --replace"):
        bring_up(CHAT)
    assert not runtime.did("stop")
    assert not runtime.did("start")


def test_two_launchers_do_not_start_at_once(runtime, bring_up):
    start = runtime.start
    held = []

    def start_while_another_asks(server):
        with open(state_folder() / "lock") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(server.name)
        return start(server)

    runtime.start = start_while_another_asks
    bring_up(CHAT)
    assert runtime.did("start") == ["chat"]
    assert not held


def test_one_that_somebody_removes_meanwhile(runtime, bring_up):
    runtime.plays = {"chat": ["loading"]}
    instances = runtime.instances
    runtime.instances = lambda: [] if runtime.did("start") else instances()
    with pytest.raises(LaunchError, match="was removed by somebody else"):
        bring_up(CHAT)


def test_one_whose_launcher_is_gone_is_kept_once_it_is_ready(runtime, bring_up):
    runtime.has(CHAT, kept=False)
    runtime.plays = {"chat": ["loading", "ready"]}
    bring_up(CHAT)
    assert runtime.done == [("keep", "chat")]


def test_one_that_another_launcher_has_not_kept_yet_is_not_told_to_be_ready(runtime, bring_up):
    runtime.has(CHAT, kept=False)
    runtime.refuses = {("keep", "chat"): "it is another one's"}
    runtime.plays = {"chat": ["ready", "ready", "exited"]}
    with pytest.raises(LaunchError, match="'chat' ended while it was starting"):
        bring_up(CHAT)
    assert "ready" not in kinds(bring_up, "chat")


def test_what_can_not_be_prepared_has_failed(runtime, bring_up):
    runtime.refuses = {("prepare", "chat"): "no such image"}
    with pytest.raises(LaunchError, match="no such image"):
        bring_up(CHAT)
    assert kinds(bring_up, "chat") == ["failed"]


def test_what_can_not_be_stopped_is_named_beside_the_first_reason(runtime, bring_up):
    runtime.plays = {"chat": ["exited"], "embed": ["loading", "interrupt"]}
    runtime.refuses = {("stop", "embed"): "no engine answers"}
    with pytest.raises(LaunchError) as caught:
        bring_up(CHAT, EMBED)
    first, last = str(caught.value).split("\n\n")
    assert first.startswith("The vLLM server 'chat' ended")
    assert last.startswith("Not ready, and not stopped: embed.")
    assert last.endswith("vllm-launch down embed")


# Without waiting, and down


def test_without_waiting_it_is_kept_at_once(runtime, bring_up):
    runtime.plays = {"chat": ["loading"]}
    assert [instance.name for instance in bring_up(CHAT, waiting=False)] == ["chat"]
    assert runtime.did("keep") == ["chat"]
    assert not runtime.did("stop")


def test_down_stops_what_is_named_or_all(runtime):
    for server in (CHAT, EMBED):
        runtime.has(server)
    told = []
    assert up.down(runtime, ["chat", "nobody"], told.append) == ["chat"]
    assert told == ["Stopping chat"]
    assert up.down(runtime, [], told.append) == ["embed"]
    assert runtime.there == {}
