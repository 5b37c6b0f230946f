"""The runtime of processes: ownership, records, and the end of servers."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

from vllm_launch.runtimes.base import LaunchError
from vllm_launch.runtimes.groups import Identity, identity
from vllm_launch.runtimes.processes import Processes
from vllm_launch.runtimes.records import Records
from vllm_launch.up import down, up

from .fake_server import ROOT, group_is_there, until


@pytest.fixture
def runtime():
    """A launcher whose remaining servers are stopped after the test."""
    made = Processes(python=sys.executable)
    yield made
    for instance in made.instances():
        made.stop(instance, grace=0)


@pytest.fixture
def ready():
    """Waits until a server answers."""

    def wait(instance):
        assert instance.state == "running"
        until(lambda: answers(instance.server))
        return instance

    return wait


@pytest.fixture
def kept(runtime, fake_server, ready):
    """Starts a server and detaches it."""

    def start(*args, **kwargs):
        instance = ready(runtime.start(fake_server(*args, **kwargs)))
        runtime.keep(instance)
        return instance

    return start


@pytest.fixture
def launcher():
    """Runs the lines in a separate program, which starts `server` as `instance` and then waits."""
    programs = []

    def run(server, then):
        program = f"""
            import sys, time, httpx
            from vllm_launch import Server
            from vllm_launch.runtimes.processes import Processes
            runtime = Processes(python=sys.executable)
            instance = runtime.start({server!r})
            while True:
                try:
                    httpx.get(instance.server.base_url)
                    break
                except httpx.HTTPError:
                    time.sleep(0.05)
            {then}
            print(instance.id, flush=True)
            sys.stdin.readline()
        """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        programs.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes))
        return programs[-1], int(programs[-1].stdout.readline())

    yield run
    for program in programs:
        program.kill()
        program.communicate()


def answers(server):
    try:
        return httpx.get(server.base_url).is_success
    except httpx.HTTPError:
        return False


def get(instance, path):
    return httpx.get(f"{instance.server.base_url}/{path}").text


def crash(instance, status=3):
    with pytest.raises(httpx.HTTPError):
        get(instance, f"crash/{status}")
    until(lambda: not group_is_there(int(instance.id)))


def change(name, **fields):
    """Change values of a record."""
    records = Records()
    records.write(records.read(name).model_copy(update=fields))


# ownership


def end(program):
    program.communicate(b"\n")


def kill(program):
    program.kill()
    program.wait()


def interrupt(program):
    os.killpg(program.pid, signal.SIGINT)  # like Ctrl-C: to the whole foreground process group
    program.wait()


@pytest.mark.parametrize("how", [end, kill, interrupt])
def test_detached_server_outlives_its_launcher(fake_server, launcher, runtime, how):
    server = fake_server()
    program, group = launcher(server, "runtime.keep(instance)")
    how(program)
    [found] = runtime.instances()
    assert (found.state, found.id, found.server, found.ended) == ("running", str(group), server, "")
    assert found.server.digest == server.digest
    assert answers(server)
    runtime.stop(found, grace=5)
    assert not group_is_there(group)
    assert runtime.instances() == []


@pytest.mark.parametrize("how", [end, kill, interrupt])
def test_undetached_server_ends_with_its_launcher(fake_server, launcher, runtime, how):
    program, group = launcher(fake_server(), "")
    how(program)
    [found] = runtime.instances()  # the call waits for the end
    assert not group_is_there(group)
    assert (found.state, found.ended) == ("exited", "with the launcher that was starting it")


def test_keep_raises_while_another_launcher_starts_the_server(fake_server, launcher, runtime):
    program, _ = launcher(fake_server(), "")
    [found] = runtime.instances()
    with pytest.raises(LaunchError, match=rf"Another vllm-launch \(process {program.pid}\) is starting"):
        runtime.keep(found)


def test_guard_is_the_only_additional_process(kept):
    group = int(kept().id)
    commands = [Path("/proc", pid, "cmdline").read_text().split("\0") for pid in members(group)]
    assert len([command for command in commands if command[3].endswith("guard.py")]) == 1
    assert len(commands) == 3  # guard, server and engine core


def members(group):
    stats = ((path, path.read_text().rpartition(")")[2].split()) for path in Path("/proc").glob("[0-9]*/stat"))
    return [path.parent.name for path, fields in stats if fields[2] == str(group)]


# records


def test_later_crash_is_reported_with_its_exit_status(kept, runtime):
    instance = kept()
    crash(instance, status=3)
    [found] = runtime.instances()
    assert (found.state, found.ended) == ("exited", "with status 3")


def test_later_kill_is_reported_with_its_signal(kept, runtime):
    instance = kept()
    os.kill(Records().status("chat").pid, signal.SIGKILL)
    until(lambda: runtime.instances()[0].state == "exited")
    assert runtime.instances()[0].ended == "by SIGKILL, as when memory runs out"
    assert not group_is_there(int(instance.id)), "the engine core has ended too"


def test_keep_raises_when_the_server_ended_during_its_start(fake_server, runtime):
    instance = runtime.start(fake_server("broken"))
    until(lambda: runtime.instances()[0].state == "exited")
    [found] = runtime.instances()
    assert found.ended == "with status 1"
    assert "ValueError: No such weights" in runtime.log(found)
    assert not group_is_there(int(instance.id))
    with pytest.raises(LaunchError, match="'chat' ended before it could be detached"):
        runtime.keep(found)


def test_server_without_guard_is_found_and_stopped(kept, runtime):
    instance = kept()
    os.kill(int(instance.id), signal.SIGKILL)
    until(lambda: identity(int(instance.id)) is None)
    [found] = runtime.instances()
    assert found.state == "running"
    runtime.stop(found, grace=5)
    assert not group_is_there(int(instance.id))


def test_server_killed_with_its_guard_is_reported_as_such(kept, runtime):
    os.killpg(int(kept().id), signal.SIGKILL)
    until(lambda: runtime.instances()[0].state == "exited")
    assert runtime.instances()[0].ended == "killed together with its guard process"


def test_reused_pid_is_never_signalled(kept, runtime):
    crash(kept())
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as innocent:
        now = identity(innocent.pid)
        change("chat", leader=Identity(now.pid, now.start_time - 1))
        [found] = runtime.instances()
        assert found.state == "exited"
        runtime.stop(found, grace=0)
        assert innocent.poll() is None
        innocent.kill()
    assert runtime.instances() == []


def test_record_of_an_earlier_boot_matches_no_process(fake_server, launcher, runtime):
    program, group = launcher(fake_server(), "runtime.keep(instance)")
    end(program)
    change("chat", boot_id="another")
    [found] = runtime.instances()
    assert (found.state, found.ended) == ("exited", "when the machine was restarted")
    runtime.stop(found, grace=0)
    assert runtime.instances() == []
    assert group_is_there(group), "what has its number is not signalled"
    os.killpg(group, signal.SIGKILL)


# stopping


def test_stop_kills_a_server_that_ignores_sigterm(kept, runtime):
    instance = kept("stubborn")
    runtime.stop(instance, grace=0.3)
    assert not group_is_there(int(instance.id))
    assert not Path("/proc", instance.id).exists(), "no zombie is left"


def test_stop_is_harmless_for_an_ended_server(kept, runtime):
    instance = kept()
    crash(instance)
    runtime.stop(instance, grace=0)
    runtime.stop(instance, grace=0)
    assert runtime.instances() == []


def test_stop_of_an_earlier_start_keeps_the_later_one(kept, runtime):
    earlier = kept()
    crash(earlier)
    later = kept()
    runtime.stop(earlier, grace=0)
    assert [found.id for found in runtime.instances()] == [later.id]


def test_keep_is_idempotent(kept, runtime):
    instance = kept()
    runtime.keep(instance)
    assert runtime.instances()[0].state == "running"


def test_up_starts_and_down_stops_a_server(fake_server, runtime):
    server, seen = fake_server(), []
    [first] = up(runtime, [server], seen.append)
    [second] = up(runtime, [server], seen.append)
    assert (first.id, first.state) == (second.id, second.state)
    assert [event.kind for event in seen if event.kind in ("ready", "stays")] == ["ready", "stays", "ready"]
    assert down(runtime, ["chat"], lambda _: None) == ["chat"]
    assert not group_is_there(int(first.id))


# the log


def test_log_contains_the_servers_output(kept, runtime):
    instance = kept()
    assert "banner" in runtime.log(instance)
    get(instance, "say/hello")
    until(lambda: runtime.log(instance, lines=1) == "hello\n")
    crash(instance)
    assert "hello" in runtime.log(instance), "it is there when the server has ended"


def test_follow_ends_with_the_server(kept, runtime):
    instance = kept()
    get(instance, "say/one")
    until(lambda: runtime.log(instance, lines=1) == "one\n")
    following = runtime.follow(instance, lines=1)
    assert next(following) == "one"
    get(instance, "say/two")
    crash(instance)
    assert list(following) == ["two"]


def test_log_size_is_limited(fake_server, ready, state):
    runtime = Processes(python=sys.executable, log_bytes=2000)
    instance = ready(runtime.start(fake_server()))
    try:
        following = runtime.follow(instance)
        until(lambda: "Route" in next(following))  # the last line of the start
        for number in range(100):
            get(instance, f"say/{number:099}")
            assert next(following) == f"{number:099}", "no line is missed where one file follows another"
        files = list((state / "processes").glob("chat.log*"))
        assert len(files) == 2
        assert all(file.stat().st_size <= 2100 for file in files)
        assert [int(line) for line in runtime.log(instance, lines=15).splitlines()] == list(range(85, 100))
    finally:
        runtime.stop(instance, grace=0)


def test_full_disk_loses_only_log_lines(fake_server, ready, runtime, state):
    (state / "processes").mkdir(parents=True)
    (state / "processes" / "chat.log").symlink_to("/dev/full")
    instance = ready(runtime.start(fake_server()))
    runtime.keep(instance)
    assert get(instance, "say/" + "x" * 5000)
    crash(instance)
    assert runtime.instances()[0].ended == "with status 3"


# errors


def test_start_raises_for_a_name_in_use(kept, runtime):
    instance = kept()
    with pytest.raises(LaunchError, match=f"'chat' runs already \\(process {instance.id}\\)"):
        runtime.start(instance.server.model_copy(update={"port": 1}))


def test_port_error_names_the_other_server(kept, fake_server, runtime):
    port = kept().server.port
    other = fake_server(name="other", port=port)
    with pytest.raises(LaunchError, match=r"the vLLM server 'chat' uses it.*vllm-launch down chat"):
        runtime.prepare(other, lambda _: None)
    with pytest.raises(LaunchError, match="'chat' uses it"):
        runtime.start(other)


def test_port_error_names_the_other_process(fake_server, runtime):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"127.0.0.1:{port}.*process {os.getpid()} \("):
            runtime.prepare(fake_server(port=port), lambda _: None)


def test_prepare_allows_the_port_of_the_server_to_be_replaced(kept, runtime):
    runtime.prepare(kept().server, lambda _: None)


def test_prepare_raises_for_an_unwritable_folder(fake_server, runtime, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(LaunchError, match=r"Logs cannot be written in .*Not a directory.*VLLM_LAUNCH_STATE"):
        Processes(python=sys.executable).prepare(fake_server(), lambda _: None)


def test_prepare_and_start_raise_on_a_full_disk(fake_server, runtime, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LaunchError, match=r"No space left on device\. Free space"):
        runtime.prepare(fake_server(), lambda _: None)
    with pytest.raises(LaunchError, match="No space left on device"):
        runtime.start(fake_server())


def test_start_kills_the_server_when_its_record_cannot_be_written(fake_server, runtime, monkeypatch):
    started = []

    def fail(self, record):
        started.append(record.leader.pid)
        raise LaunchError("no record")

    monkeypatch.setattr(Records, "write", fail)
    with pytest.raises(LaunchError, match="no record"):
        runtime.start(fake_server())
    assert not group_is_there(started[0])


# environment


def test_key_is_only_in_the_environment(kept, fake_server, runtime, ready, tmp_path, state, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "the client's")
    (tmp_path / "key").write_text("its-own\n")
    server = fake_server().model_copy(update={"api_key_file": tmp_path / "key"})
    instance = ready(runtime.start(server))
    assert get(instance, "") == "key=its-own"
    commands = [Path("/proc", pid, "cmdline").read_text() for pid in members(int(instance.id))]
    written = [file.read_text() for file in (state / "processes").iterdir()]
    assert not any("its-own" in text for text in commands + written)


def test_client_variables_are_not_inherited(kept, monkeypatch):
    monkeypatch.setenv("VLLM_URLS", "http://127.0.0.1:1")
    instance = kept()
    assert [get(instance, f"env/{name}") for name in ("VLLM_API_KEY", "VLLM_URLS", "VLLM_LAUNCH_STATE")] == ["none"] * 3


@pytest.mark.parametrize(("gpus", "seen"), [((), "7"), ("all", "7"), ((0, 2), "0,2")])
def test_server_sees_only_its_gpus(fake_server, runtime, ready, monkeypatch, gpus, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    instance = ready(runtime.start(fake_server().model_copy(update={"gpus": gpus})))
    assert get(instance, "env/CUDA_VISIBLE_DEVICES") == seen


def test_files_are_readable_only_by_the_owner(kept, state):
    kept()
    assert [mode(path) for path in (state, state / "processes")] == [0o700, 0o700]
    assert {mode(path) for path in (state / "processes").iterdir()} == {0o600}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)
