"""A fake runtime that starts nothing. The test sets what each server does at each look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_launch.ready import Answer
from vllm_launch.runtimes import Instance, LaunchError
from vllm_launch.servers import Server


@dataclass
class FakeRuntime:
    """Each server of `plays` takes its next state at each look, and repeats the last state.

    States: loading, ready, exited, unexpected-server. `refuses`: errors that `prepare` and `start` raise.
    """

    plays: dict[str, list[str]] = field(default_factory=dict)
    refuses: dict[tuple[str, str], str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    there: dict[str, Instance] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    name: str = "process"

    def has(self, server: Server, state: str = "running", **more: Any) -> None:
        """Add a server that exists before the test. `more`: other fields of `Instance`."""
        ended = "with status 1" * (state != "running")
        self.there[server.name] = Instance(server, "process", state, "1", 0.0, ended, **more)

    def prepare(self, server, report):
        self._do("prepare", server.name)
        report("pulling")

    def start(self, server):
        self._do("start", server.name)
        self.has(server)
        return self.there[server.name]

    def keep(self, instance):
        self._do("keep", instance.name)

    def stop(self, instance, grace):
        self._do("stop", instance.name)
        self.there.pop(instance.name, None)

    def instances(self):
        for name, instance in self.there.items():
            if self._now(name) == "exited":
                self.there[name] = replace(instance, state="exited", ended="with status 1")
        return sorted(self.there.values(), key=lambda instance: instance.name)

    def log(self, instance, lines=None):
        return self.logs.get(instance.name, "")

    def follow(self, instance, lines=None) -> Iterator[str]:
        yield from self.logs.get(instance.name, "").splitlines()

    def ask(self, server, http):
        """Replaces `ready.ask`: one look."""
        word = self._now(server.name)
        if len(self.plays.get(server.name, ())) > 1:
            self.plays[server.name].pop(0)
        match word:
            case "ready":
                return Answer("ready")
            case "unexpected-server":
                return Answer("unexpected-server", "another model answers")
            case "interrupt":
                raise KeyboardInterrupt
            case _:
                return Answer("unreachable", "no answer")

    def did(self, what):
        """The servers of this operation, in order."""
        return [name for verb, name in self.done if verb == what]

    def _now(self, name):
        return self.plays.get(name, ["ready"])[0]

    def _do(self, what, name):
        self.done.append((what, name))
        if (what, name) in self.refuses:
            raise LaunchError(self.refuses[what, name])
