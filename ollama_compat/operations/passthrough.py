"""A call that Ollama itself answers, as a fallback or first: the request unchanged, with the model's name there.

Ollama's streams are lines of JSON (0.33, `application/x-ndjson`); a line `{"error": …}` ends one.
"""

from __future__ import annotations

import json
from typing import Any

from ollama import ResponseError

from ..call import Call
from ..exceptions import MalformedReply
from ..mapping.errors import incomplete_reply, malformed_reply, with_advice
from ..mapping.messages import begun
from ..settings import OLLAMA
from ..steps import NEXT_EVENT, JsonObject, OpenStream, Reply, Request, Send, Steps


def passthrough(call: Call) -> Steps[None]:
    """Send the call to Ollama; the parts have the name of the requested model."""
    request = Request("POST", "", call.path, _body(call), call.name, credential=OLLAMA)
    try:
        if call.stream:
            yield from _stream(call, request)
        else:
            reply: Reply = yield Send(request)
            yield _part(call, _checked(call, reply))
    except MalformedReply as error:
        raise with_advice(error, "Please check OLLAMA_HOST.", "Ollama") from None


def _stream(call: Call, request: Request) -> Steps[None]:
    refused: Reply | None = yield OpenStream(request)
    if refused is not None:
        _checked(call, refused)
    part: JsonObject = {}
    while (line := (yield NEXT_EVENT)) is not None:
        part = _parse(line)
        if part.get("error"):
            raise ResponseError(json.dumps(part), _number(part.get("status_code")) or -1)
        if call.progress.first_token is None:
            call.progress.first_token = call.context.clock.ticks()
        call.progress.delivered = True
        yield _part(call, part)
    if not part.get("done"):
        raise incomplete_reply("Ollama", "the stream ended without its last part")


def _checked(call: Call, reply: Reply) -> JsonObject:
    """The document of a reply. Raises Ollama's own error for a refusal."""
    if not reply.ok:
        call.progress.retry_after = reply.retry_after
        raise ResponseError(reply.body.decode("utf-8", "replace"), reply.status)
    return _parse(reply.body)


def _parse(text: bytes) -> JsonObject:
    try:
        part: Any = json.loads(text)
    except (ValueError, RecursionError):
        part = None
    if not isinstance(part, dict):
        raise malformed_reply("Ollama", "a part that is no JSON object")
    return part


def _part(call: Call, part: JsonObject) -> JsonObject:
    """The part under the name of the requested model; its counts go into the call's progress."""
    if part.get("prompt_eval_count") is not None:
        call.progress.tokens_in = _number(part["prompt_eval_count"])
        call.progress.tokens_out = _number(part.get("eval_count"))
    call.progress.done = bool(part.get("done"))
    return {**part, "model": call.name} if "model" in part else part


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _body(call: Call) -> JsonObject:
    """The request with what the profile of the requested model adds."""
    body: JsonObject = {**call.body, "model": call.served}
    if call.profile.parameters:
        body["options"] = {**call.profile.parameters, **(body.get("options") or {})}
    if body.get("messages") is not None:
        body["messages"] = begun(body["messages"], call.profile)
    elif call.profile.system and call.path == "/api/generate":
        body["system"] = body.get("system") or call.profile.system
    return body
