"""Starting and stopping servers: which servers stay, start or stop, also after errors."""

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
    """`up`, which stores its events in `.events`."""

    def run(*servers, **options):
        run.events = []
        return up.up(runtime, servers, run.events.append, **options)

    return run


def kinds(bring_up, name):
    found = [event.kind for event in bring_up.events if event.server.name == name]
    return [kind for place, kind in enumerate(found) if kind not in found[:place]]


# Steps


def test_missing_server_is_started_and_detached_when_ready(runtime, bring_up):
    runtime.plays = {"chat": ["loading", "loading", "ready"]}
    assert [instance.name for instance in bring_up(CHAT)] == ["chat"]
    assert runtime.done == [("prepare", "chat"), ("start", "chat"), ("keep", "chat")]
    assert kinds(bring_up, "chat") == ["prepares", "starts", "ready"]


def test_server_that_runs_as_described_stays(runtime, bring_up):
    runtime.has(CHAT)
    bring_up(CHAT, EMBED)
    assert runtime.did("start") == ["embed"]
    assert not runtime.did("stop")
    assert "stays" in kinds(bring_up, "chat")


def test_unchanged_loading_server_is_waited_for(runtime, bring_up):
    runtime.has(CHAT)
    runtime.plays = {"chat": ["loading", "ready"]}
    bring_up(CHAT)
    assert kinds(bring_up, "chat") == ["stays", "starts", "ready"]


def test_differing_server_is_reported_and_not_changed(runtime, bring_up):
    runtime.has(described("chat", max_model_len=1024))
    with pytest.raises(LaunchError, match=r"chat: max_model_len is 1024, described as None(.|\n)*up --replace"):
        bring_up(CHAT, EMBED)
    assert runtime.done == []


def test_differing_variables_are_reported_by_name_only(runtime, bring_up):
    runtime.has(described("chat", env={"SAME": "s3cret", "NEW": "s3cret", "GONE": "s3cret"}))
    with pytest.raises(LaunchError, match=r"chat: env differs in GONE, NEW\n") as caught:
        bring_up(described("chat", env={"SAME": "s3cret", "NEW": "another s3cret"}))
    assert "s3cret" not in str(caught.value)


def test_differing_server_is_replaced_with_replacing(runtime, bring_up):
    runtime.has(described("chat", max_model_len=1024))
    bring_up(CHAT, replacing=True)
    assert runtime.done == [("prepare", "chat"), ("stop", "chat"), ("start", "chat"), ("keep", "chat")]


@pytest.mark.parametrize("state", ["exited", "restarting"])
def test_exited_or_restarting_server_is_started_again(runtime, bring_up, state):
    runtime.has(CHAT, state)
    bring_up(CHAT)
    assert runtime.did("stop") == ["chat"]
    assert runtime.did("start") == ["chat"]


def test_no_server_is_stopped_before_all_are_prepared(runtime, bring_up):
    runtime.has(described("chat", max_model_len=1024))
    runtime.refuses = {("prepare", "embed"): "no such image"}
    with pytest.raises(LaunchError, match="no such image\nNo server has been started or stopped; this includes chat"):
        bring_up(CHAT, EMBED, replacing=True)
    assert not runtime.did("stop")
    assert not runtime.did("start")


def test_prepare_error_of_a_single_server_is_unchanged(runtime, bring_up):
    runtime.refuses = {("prepare", "embed"): "no such image"}
    with pytest.raises(LaunchError, match=r"^no such image$"):
        bring_up(EMBED)


def test_up_raises_for_two_servers_on_one_port(runtime, bring_up):
    with pytest.raises(LaunchError, match="chat and other have the same port, 8001"):
        bring_up(CHAT, described("other"))
    runtime.has(described("old"))
    with pytest.raises(LaunchError, match="vllm-launch down old"):
        bring_up(CHAT)


# GPUs


def test_servers_on_one_gpu_load_sequentially_smallest_first(runtime, bring_up):
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
def test_servers_on_different_gpus_load_concurrently(runtime, bring_up, one, other, together):
    runtime.plays = {"one": ["loading", "loading", "ready"], "other": ["loading", "loading", "ready"]}
    bring_up(described("one", gpus=one), described("other", 8002, gpus=other))
    firsts = [verb for verb, _ in runtime.done if verb in ("start", "keep")]
    assert (firsts[:2] == ["start", "start"]) is together


# Errors


def test_exited_server_is_reported_with_its_cause_and_not_removed(runtime, bring_up):
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


def test_server_that_is_not_ready_in_time_is_stopped(runtime, bring_up):
    runtime.plays = {"chat": ["loading"]}
    with pytest.raises(LaunchError, match="was not ready after 0 seconds; it has been stopped"):
        bring_up(CHAT, timeout_s=0)
    assert runtime.did("stop") == ["chat"]


def test_server_of_another_launcher_that_is_not_ready_in_time_is_not_stopped(runtime, bring_up):
    runtime.has(CHAT, kept=False)
    runtime.plays = {"chat": ["loading"]}
    with pytest.raises(LaunchError, match=r"was not ready after 0 seconds; to restart it: vllm-launch down chat"):
        bring_up(CHAT, timeout_s=0)
    assert runtime.done == []


def test_server_that_stopped_answering_is_reported_as_unhealthy(runtime, bring_up):
    runtime.has(CHAT, unhealthy="3 health checks in a row have failed")
    runtime.plays = {"chat": ["loading", "loading", "ready"]}
    bring_up(CHAT)
    assert bring_up.events[1].text == "3 health checks in a row have failed"


def test_unexpected_server_at_the_address_is_an_error(runtime, bring_up):
    runtime.plays = {"chat": ["unexpected-server"]}
    with pytest.raises(LaunchError, match="'chat' is unreachable: another model answers"):
        bring_up(CHAT)
    assert runtime.did("stop") == ["chat"]


def test_rejected_start_does_not_stop_the_others(runtime, bring_up):
    runtime.refuses = {("start", "chat"): "port 8001 is taken"}
    with pytest.raises(LaunchError, match="port 8001 is taken"):
        bring_up(CHAT, EMBED)
    assert runtime.did("keep") == ["embed"]


def test_ctrl_c_stops_starting_servers_and_keeps_ready_ones(runtime, bring_up):
    runtime.plays = {"chat": ["loading", "loading", "interrupt"], "embed": ["ready"]}
    with pytest.raises(KeyboardInterrupt):
        bring_up(CHAT, EMBED)
    assert runtime.did("keep") == ["embed"]
    assert runtime.did("stop") == ["chat"]


def test_ctrl_c_keeps_servers_of_other_launchers(runtime, bring_up):
    runtime.has(CHAT)
    runtime.plays = {"chat": ["interrupt"]}
    with pytest.raises(KeyboardInterrupt):
        bring_up(CHAT)
    assert not runtime.did("stop")


def test_server_that_another_launcher_starts_meanwhile_is_waited_for(runtime, bring_up):
    prepare = runtime.prepare

    def prepare_while_another_starts(server, report):
        prepare(server, report)
        runtime.has(server)

    runtime.prepare = prepare_while_another_starts
    runtime.plays = {"chat": ["loading", "ready"]}
    bring_up(CHAT)
    assert not runtime.did("start")
    assert kinds(bring_up, "chat")[-1] == "ready"


def test_differing_server_of_another_launcher_is_not_changed(runtime, bring_up):
    prepare = runtime.prepare

    def prepare_while_another_starts(server, report):
        prepare(server, report)
        runtime.has(described("chat", max_model_len=1024))

    runtime.prepare = prepare_while_another_starts
    with pytest.raises(LaunchError, match=r"chat: max_model_len is 1024, described as None(.|\n)*up --replace"):
        bring_up(CHAT)
    assert not runtime.did("stop")
    assert not runtime.did("start")


def test_two_launchers_do_not_start_concurrently(runtime, bring_up):
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


def test_server_removed_by_another_program_is_an_error(runtime, bring_up):
    runtime.plays = {"chat": ["loading"]}
    instances = runtime.instances
    runtime.instances = lambda: [] if runtime.did("start") else instances()
    with pytest.raises(LaunchError, match="another program removed it"):
        bring_up(CHAT)


def test_server_without_launcher_is_detached_when_ready(runtime, bring_up):
    runtime.has(CHAT, kept=False)
    runtime.plays = {"chat": ["loading", "ready"]}
    bring_up(CHAT)
    assert runtime.done == [("keep", "chat")]


def test_server_is_not_ready_before_its_launcher_detaches_it(runtime, bring_up):
    runtime.has(CHAT, kept=False)
    runtime.refuses = {("keep", "chat"): "it is another one's"}
    runtime.plays = {"chat": ["ready", "ready", "exited"]}
    with pytest.raises(LaunchError, match="'chat' ended while it was starting"):
        bring_up(CHAT)
    assert "ready" not in kinds(bring_up, "chat")


def test_server_that_cannot_be_prepared_fails(runtime, bring_up):
    runtime.refuses = {("prepare", "chat"): "no such image"}
    with pytest.raises(LaunchError, match="no such image"):
        bring_up(CHAT)
    assert kinds(bring_up, "chat") == ["failed"]


def test_error_names_servers_that_could_not_be_stopped(runtime, bring_up):
    runtime.plays = {"chat": ["exited"], "embed": ["loading", "interrupt"]}
    runtime.refuses = {("stop", "embed"): "no engine answers"}
    with pytest.raises(LaunchError) as caught:
        bring_up(CHAT, EMBED)
    first, last = str(caught.value).split("\n\n")
    assert first.startswith("The vLLM server 'chat' ended")
    assert last.startswith("Not ready, and not stopped: embed.")
    assert last.endswith("vllm-launch down embed")


# Without waiting, and down


def test_server_is_detached_immediately_without_waiting(runtime, bring_up):
    runtime.plays = {"chat": ["loading"]}
    assert [instance.name for instance in bring_up(CHAT, waiting=False)] == ["chat"]
    assert runtime.did("keep") == ["chat"]
    assert not runtime.did("stop")


def test_down_stops_the_named_servers_or_all(runtime):
    for server in (CHAT, EMBED):
        runtime.has(server)
    reports = []
    assert up.down(runtime, ["chat", "unknown"], reports.append) == ["chat"]
    assert reports == ["Stopping chat"]
    assert up.down(runtime, [], reports.append) == ["embed"]
    assert runtime.there == {}
