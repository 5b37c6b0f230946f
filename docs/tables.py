"""Writes the generated tables of the documentation pages: `python docs/tables.py`.

Each function below builds one table from the code. A page contains the table between `<!-- table: NAME -->` and
`<!-- end -->`; `TABLES` maps the name to the function. The test suite runs this file with `--check`, which writes
nothing and fails if a table differs from the code.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import launch_tables
import plan_tables
from ollama import ResponseError

from ollama_compat import exceptions
from ollama_compat.dispatch import REFUSED
from ollama_compat.mapping.model_families import FAMILIES
from ollama_compat.mapping.options import OPTIONS
from ollama_compat.providers.dialects import CHAT, DIALECTS, Dialect, Switch
from ollama_compat.providers.request import OLLAMA_NAMES
from ollama_compat.providers.response import FINISHES, SHAPES, STATUSES
from ollama_compat.servers.circuit_breaker import OPEN_S
from ollama_compat.servers.failures import FAILURES, UNAUTHORIZED
from ollama_compat.settings import CONFIG, VARIABLES, SettingsError
from tests.faults.faults import DISCOVERY_FAULTS, FAULTS
from tests.faults.matrix import DISCOVERY, MATRIX
from vllm_launch import router

ROOT = Path(__file__).parent.parent
_PAGES = ("differences", "errors", "reliability", "providers", "launch", "gpu-memory", "scale")
DOCUMENTS = ("README.md", *(f"docs/{name}.md" for name in _PAGES))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def environment() -> str:
    """The environment variables: name, meaning, allowed values, default."""
    rows = [(f"`{row.name}`", row.meaning, row.allowed, row.default) for row in (*VARIABLES, CONFIG)]
    return table(("variable", "meaning", "allowed values", "default"), rows)


def options() -> str:
    """Ollama's options and their vLLM parameters."""
    rows = [
        (
            f"`{row.name}`",
            "" if row.default is None else f"`{row.default}`",
            f"`{row.field}`" if row.field else "none",
            row.note,
        )
        for row in OPTIONS
    ]
    return table(("Ollama's option", "default", "vLLM's parameter", "on vLLM"), rows)


def thinking() -> str:
    """The model families whose thinking style the library knows."""
    meaning = {True: "thinks", False: "does not think", None: "server default"}
    rows = [
        (
            row.name,
            f"`{row.pattern}`",
            f"`{row.thinking.switch}`" if row.thinking.switch else "none",
            meaning[row.thinking.default],
            " ".join(f"`{tag}`" for tag in row.thinking.tags),
        )
        for row in FAMILIES
        if row.thinking is not None
    ]
    head = ("family", "served name matches", "key in `chat_template_kwargs`", "without `think`", "tags")
    return table(head, rows)


def fill_in_the_middle() -> str:
    """The model families whose fill-in-the-middle prompt the library knows."""
    rows = [(row.name, f"`{row.pattern}`", f"`{row.infill.prompt}`") for row in FAMILIES if row.infill is not None]
    return table(("family", "served name matches", "prompt"), rows)


def parsers() -> str:
    """The parsers that a vLLM server needs for the tools and the thinking of a model family."""
    rows = [
        (
            row.name,
            f"`{row.pattern}`",
            f"`{row.tool_parser}`" if row.tool_parser else "",
            f"`{row.reasoning_parser}`" if row.reasoning_parser else "",
        )
        for row in FAMILIES
        if row.tool_parser or row.reasoning_parser
    ]
    return table(("family", "served name matches", "`--tool-call-parser`", "`--reasoning-parser`"), rows)


def refused() -> str:
    """The endpoints that have no vLLM equivalent."""
    return table(("endpoint", "reason and alternative"), [(f"`{path}`", text) for path, text in REFUSED.items()])


ACTIONS: Mapping[type[Exception], str] = {
    exceptions.ServerUnreachable: "Check that the server runs, that it has loaded its model (`GET /health` returns "
    "200), and that `VLLM_URLS` contains its URL.",
    exceptions.ServerTimeout: "Check the server's log for overload or a hang. Increase the client's `timeout` if the "
    "server needs more time.",
    exceptions.CircuitOpen: "Fix the last failure, which the message contains. The circuit stays open for "
    f"{OPEN_S:g} s; then one call probes the server. `VLLM_FAILOVER` can name a fallback.",
    exceptions.ConnectionsExhausted: "Raise the limit of the process (`ulimit -n`), or limit the number of concurrent "
    "calls with `VLLM_MAX_CONCURRENT`.",
    exceptions.ServerNotReady: "Call again after `retry_after` seconds. If it is `None`, wait until `GET /health` "
    "returns 200.",
    exceptions.IncompleteReply: "Check the logs of the server and of any proxy in front of it. Call again if the "
    "service can discard the part that it already received.",
    exceptions.MalformedReply: "Check that the URL in the message belongs to an OpenAI-compatible server.",
    exceptions.RateLimited: "Send fewer calls at once, raise `VLLM_GENERATE_RATE`, `VLLM_CHAT_RATE`, `VLLM_EMBED_RATE` "
    "or `VLLM_MAX_CONCURRENT`, or give the client a longer `timeout`.",
    SettingsError: "Correct the setting that the message names.",
}
"""What a caller can do about each public exception."""


def errors() -> str:
    """The public exceptions: when raised, base classes, own attributes, what to do."""
    rows = [
        (
            f"`{kind.__name__}`",
            (inspect.getdoc(kind) or "").partition("\n")[0],
            ", ".join(f"`{_base(base)}`" for base in kind.__bases__),
            "; ".join(f"`{name}`: {text}" for name, text in _attributes(kind).items()),
            ACTIONS[kind],
        )
        for kind in (*_public_exceptions(), SettingsError)
    ]
    return table(("exception", "raised when", "base classes", "attributes", "what to do"), rows)


def _public_exceptions() -> list[type[Exception]]:
    """The exceptions that a caller can receive: each is also an exception of the official client."""
    own = [kind for kind in vars(exceptions).values() if getattr(kind, "__module__", "") == exceptions.__name__]
    return [kind for kind in own if issubclass(kind, (ConnectionError, ResponseError))]


def _base(kind: type) -> str:
    package = kind.__module__.partition(".")[0].removeprefix("_")
    return kind.__name__ if package in ("builtins", "ollama_compat") else f"{package}.{kind.__name__}"


def _attributes(kind: type) -> dict[str, str]:
    """The attributes that an exception class documents: name -> first line of the text below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node, after in itertools.pairwise(body.body):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            found[ast.unparse(target)] = str(ast.literal_eval(after.value)).partition("\n")[0]
    return found


def failures() -> str:
    """The kinds of failure and what the library does about each."""
    yes = {True: "yes", False: ""}
    rows = [
        (
            f"`{row.kind}`",
            row.meaning,
            yes[row.retry],
            yes[row.other_server],
            yes[row.other_server or row.fallback or row is UNAUTHORIZED] + (" *" if row is UNAUTHORIZED else ""),
            yes[row.counts],
        )
        for row in FAILURES
    ]
    head = (
        "kind",
        "failure",
        "retry on the same server",
        "try another server",
        "try the fallbacks",
        "opens the circuit",
    )
    return table(head, rows) + "\n\n\\* of a provider or Ollama. The caller receives the error if vLLM rejects a key."


def matrix() -> str:
    """The result of a call for each fault."""
    rows = []
    for row in MATRIX:
        outcomes = [row.outcome(name, stream=stream, lasting=on).value for name, stream, on in _COLUMNS.values()]
        rows.append((f"`{row.fault}`", FAULTS[row.fault][1], *outcomes))
    return table(("fault", "description", *_COLUMNS), rows)


def discovery() -> str:
    """The result of a call for each fault of the discovery request."""
    faults = FAULTS | DISCOVERY_FAULTS
    rows = [(f"`{row.fault}`", faults[row.fault][1], row.once.value, row.lasting.value) for row in DISCOVERY]
    return table(("fault", "description", "once", "lasting"), rows)


_COLUMNS = {
    "streamed, once": ("chat", True, False),
    "chat, generate, once": ("chat", False, False),
    "embed, once": ("embed", False, False),
    "chat, generate, lasting": ("chat", True, True),
    "embed, lasting": ("embed", False, True),
}
"""Heading -> operation, whether it streams, whether the fault lasts. A lasting fault gives a streamed call the same
result as a plain call."""


_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "max_tokens", "stop", "logprobs", "top_logprobs"),
)
"""The sampling parameters of a chat, by vLLM's names."""


def dialects() -> str:
    """The providers: the parameters of a chat that each accepts, and its endpoints."""
    schemas = {"enforced": "enforced", "requested": "sent, not enforced", "prompt": "written into the system prompt"}
    rows = [
        (
            f"`{row.name}`",
            "any other" if row is DIALECTS[-1] else " ".join(f"`{host}`" for host in row.hosts) or "by name only",
            "" if row.everything else f"`{row.endpoints[CHAT]['max_tokens']}`",
            _not_accepted(row),
            f"`{row.reasoning_field}`" if row.reasoning_field else "not returned",
            schemas[row.schema],
            "yes" if row.completions is not None or row.everything else "no",
            "yes" if row.embeddings is not None or row.everything else "no",
        )
        for row in DIALECTS
    ]
    head = ("dialect", "hosts", "`num_predict` becomes", "not accepted", "thinking is in", "a schema in `format` is")
    return table((*head, "raw prompts", "embeddings"), rows)


def _not_accepted(row: Dialect) -> str:
    """The parameters that a provider does not accept, limits to a range, or refuses for some models."""
    if row.everything:
        return ""
    missing = [_option(key) for key in _SAMPLING if key not in row.endpoints[CHAT]]
    # The limit of `logprobs` applies to raw prompts only.
    limited = [f"{_option(key)} above {most:g}" for key, most in row.limits.items() if key != "logprobs"]
    refused = [
        f"for models that match `{pattern}`: {' '.join(_option(key) for key in _SAMPLING if key in keys)}"
        for pattern, keys in row.refused.items()
    ]
    return "; ".join(text for text in (", ".join((*missing, *limited)), *refused) if text)


def _option(key: str) -> str:
    return f"`{OLLAMA_NAMES.get(key, key)}`"


def thinking_fields() -> str:
    """The fields that enable and disable thinking, provider by provider."""
    rows = [
        (
            f"`{row.name}`",
            f"`{switch.pattern}`" if switch.pattern else "any",
            _fields(switch.on),
            "not possible" if switch.off is None else _fields(switch.off),
            "no levels" if switch.levels["low"] == switch.on else _efforts(switch),
        )
        for row in DIALECTS
        for switch in row.thinking
    ]
    return table(("dialect", "model name matches", "on", "off", "`low`, `medium`, `high`, `max`"), rows)


def _fields(fields: Mapping[str, object]) -> str:
    return f"`{json.dumps(fields)}`" if fields else "no field: thinking is on by default"


def _efforts(switch: Switch) -> str:
    return ", ".join(f"`{fields['reasoning_effort']}`" for fields in switch.levels.values())


def replies() -> str:
    """The reply formats of providers that vLLM does not have."""
    rows = [(row.received, row.providers, row.becomes, row.source) for row in SHAPES]
    return table(("reply", "provider", "becomes", "source"), rows)


def finishes() -> str:
    """The values of `finish_reason` that vLLM does not have."""
    rows = [(f"`{row.prefix}`", f"`{row.means}`", row.warning, row.source) for row in FINISHES]
    return table(("`finish_reason` begins with", "treated as", "logged as", "source"), rows)


def statuses() -> str:
    """The status of an error that has no numeric status."""
    rows = [(f"`{word}`", str(status)) for word, status in STATUSES]
    return table(("`code`, `type` or `status` contains", "status"), rows)


def sources() -> str:
    """The source document of each dialect."""
    return table(("dialect", "source"), [(f"`{row.name}`", row.source) for row in DIALECTS])


def router_flags() -> str:
    """The flags that vLLM's router is started with."""
    rows = [(f"`{row.name} {row.value}`", str(row.default), row.why) for row in router.FLAGS]
    return table(("flag", "the router's default", "effect"), rows)


def _markdown(rows: Callable[[], plan_tables.Table]) -> str:
    return table(*rows())


TABLES: dict[str, Callable[[], str]] = {
    "environment": environment,
    "options": options,
    "thinking": thinking,
    "parsers": parsers,
    "fill_in_the_middle": fill_in_the_middle,
    "refused": refused,
    "errors": errors,
    "failures": failures,
    "matrix": matrix,
    "discovery": discovery,
    "router": router_flags,
    "dialects": dialects,
    "switches": thinking_fields,
    "replies": replies,
    "finishes": finishes,
    "statuses": statuses,
    "sources": sources,
    **{f"memory_{rows.__name__}": partial(_markdown, rows) for rows in plan_tables.ALL},
    **{f"launch_{rows.__name__}": partial(_markdown, rows) for rows in launch_tables.ALL},
}

_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


def with_current_tables(text: str) -> str:
    """Return a page with each table replaced by the current one."""
    return _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}\n{block[3]}", text)


def main(arguments: Sequence[str]) -> int:
    """Write the tables. With `--check`, write nothing and return 1 if a table is out of date."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text("utf-8")
        current = with_current_tables(text)
        if current != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(current, "utf-8")
    for name in stale:
        print(f"{name}: the tables were out of date; `python docs/tables.py` writes the current ones")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
