"""A prompt that is completed as it is: `/v1/completions`, for raw prompts, contexts, and prompts of a Go template.

Where it does not fit the window it is made shorter, and cut as Ollama cuts it (shorten.py). A prompt that brings the
model's first token (`<bos>`) as text is sent so that the server does not put another in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..call import Call
from ..mapping.errors import Refusal
from ..steps import JsonObject, Steps
from .pipeline import respond
from .reader import Plan
from .request import Checked, explain
from .window import cut, prompt_fits, tokenize

Prompt = str | list[int]

_MARK = re.compile(r"<[^<>\s]{1,40}>|\[[A-Z_]{1,40}\]")  # what a model's first token may look like


@dataclass(frozen=True)
class Completion:
    """What is asked for."""

    prompt: Prompt
    checked: Checked
    plan: Plan
    fields: JsonObject = field(default_factory=dict)
    """What the request says beside sampling and format."""
    shorter: Callable[[int], Steps[str]] | None = None
    """Makes the prompt anew for so many tokens, where it can be shortened otherwise than by cutting."""

    def payload(self, prompt: Prompt) -> JsonObject:
        """The request."""
        return {**payload_of(prompt, self.checked, self.plan.stops), **self.fields}


def payload_of(prompt: str | Sequence[int], checked: Checked, own_stops: Sequence[str]) -> JsonObject:
    """A request to `/v1/completions`; `own_stops` are cut off on this side."""
    payload: JsonObject = {"prompt": prompt, **checked.payload}
    if checked.logprobs:
        payload["logprobs"] = checked.top_logprobs
    if checked.stops and not own_stops:
        payload["stop"] = list(checked.stops)
    return payload


def complete(call: Call, wanted: Completion) -> Steps[None]:
    """Have the prompt completed, shortened first where it does not fit the window."""
    limit = wanted.checked.num_ctx
    prompt = wanted.prompt if limit is None else (yield from _fitted(call, wanted, limit, limit))
    refused = yield from respond(call, "/v1/completions", wanted.payload(prompt), wanted.plan)
    if refused is not None and refused.too_long and call.window:
        prompt = yield from _fitted(call, wanted, room(call.window, wanted.checked), call.window)
        refused = yield from respond(call, "/v1/completions", wanted.payload(prompt), wanted.plan)
    if refused is not None:
        raise explain_refusal(call, refused)


def _fitted(call: Call, wanted: Completion, limit: int, window: int) -> Steps[Prompt]:
    """The prompt made shorter until it has at most `limit` tokens, and cut to `window` where it can't be."""
    prompt = wanted.prompt
    if isinstance(prompt, list):
        return cut(prompt, window, wanted.checked.num_keep)
    if prompt_fits(prompt, limit):
        return prompt
    if wanted.shorter is not None:
        prompt = yield from wanted.shorter(limit)
    tokens = yield from tokenize(call, to_count(prompt, wanted.fields))
    return prompt if tokens is None or len(tokens) < window else cut(tokens, window, wanted.checked.num_keep)


def to_count(prompt: str, fields: JsonObject) -> JsonObject:
    """What `/tokenize` is told, so that it counts what a completion of these fields would be made from."""
    return {"prompt": prompt, **{key: fields[key] for key in ("add_special_tokens",) if key in fields}}


def first_token(call: Call, prompt: str, template: str) -> Steps[JsonObject]:
    """The fields that keep the server from putting its first token in front of a prompt that begins with it, because
    the template brings it: asked of the server once for each mark."""
    mark = _MARK.match(prompt)
    if mark is None or mark[0] not in template:
        return {}
    subject = f"first token {mark[0]}"
    doubled = call.recall(subject, bool)
    if doubled is None:
        tokens = yield from tokenize(call, {"prompt": mark[0]})
        if tokens is None:
            return {}
        doubled = len(tokens) > 1 and tokens[0] == tokens[1]  # the text's own token, and one in front of it
        call.remember(subject, doubled)
    return {"add_special_tokens": False} if doubled else {}


def room(window: int, checked: Checked) -> int:
    """The most tokens of a prompt that leaves the answer some room: vLLM can't shift its window as Ollama does."""
    asked = checked.options.get("num_predict", -1)
    reserve = asked if asked > 0 else window // 4
    return window - max(1, min(reserve, window // 4))


def explain_refusal(call: Call, refused: Refusal) -> Exception:
    """The exception for a refusal, in the words of the operation."""
    return explain(call, refused, call.path.removeprefix("/api/"))
