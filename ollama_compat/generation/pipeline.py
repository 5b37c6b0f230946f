"""A generation from its first event to Ollama's last part: what `chat` and `generate` share.

vLLM is always asked for an event stream, also where the caller wants one reply: the time of the first token is then
known, so `prompt_eval_duration` and `eval_duration` are true, and a caller who goes away frees the server. Where nobody
reads the parts, `stream_interval` makes vLLM send the rest in one event, which costs what a plain reply costs.
"""

from __future__ import annotations

from ..call import Call
from ..mapping.errors import Refusal, failure, incomplete_reply, refusal, response_error
from ..mapping.vllm_schema import Chunk, decode
from ..steps import NEXT_EVENT, JsonObject, OpenStream, Reply, Steps
from .reader import Assembler, Fragment, Plan

DONE = b"[DONE]"
_GIVEN_UP = {"abort": 500, "error": 500, "insufficient_system_resource": 503}  # vLLM 0.32's two, and DeepSeek's
_ONE_EVENT = 1_000_000  # tokens: more than any window


def respond(call: Call, path: str, payload: JsonObject, plan: Plan) -> Steps[Refusal | None]:
    """Ask vLLM and yield Ollama's parts. Returns the refusal where the server refused before the first part."""
    assembler = Assembler(plan)
    sent = call.clock.ticks()
    refused: Reply | None = yield OpenStream(call.request(path, _streamed(call, payload, plan)))
    if refused is not None:
        call.progress.retry_after = refused.retry_after
        return refusal(call.url, refused.status, refused.body)
    whole = Fragment()
    while (data := (yield NEXT_EVENT)) is not None:
        if data == DONE:
            continue  # to the stream's end, so that the connection can be used again
        chunk = decode(data, Chunk, call.url)
        if bytes(chunk.error) not in (b"", b"null"):
            raise failure(call.url, data)
        if call.progress.first is None:
            call.progress.first = call.clock.ticks()
        if assembler.kind == "unknown" and plan.settle and _reasons(chunk):
            assembler.kind = yield from plan.settle()
        fragment = assembler.feed(chunk)
        if fragment and call.stream:
            call.progress.delivered = True
            yield _part(call, plan, fragment)
        elif fragment:
            whole.add(fragment)
        if assembler.stopped:
            break
    _check_end(call, assembler)
    rest = assembler.finish()
    whole.add(rest)
    if mistaken := assembler.mistaken:
        rest = whole = Fragment(mistaken, logprobs=whole.logprobs)
    if call.stream:
        if rest:
            yield _part(call, plan, rest)
        whole = Fragment()
    yield _part(call, plan, whole) | _summary(call, assembler, sent)
    return None


def _reasons(chunk: Chunk) -> bool:
    deltas = (choice.delta for choice in chunk.choices)
    return any(delta is not None and (delta.reasoning or delta.reasoning_content) for delta in deltas)


def _streamed(call: Call, payload: JsonObject, plan: Plan) -> JsonObject:
    options: dict[str, bool] = {"include_usage": True}
    if plan.stops:
        options["continuous_usage_stats"] = True  # the last event, with the usage, will not be waited for
    streamed = {**payload, "stream": True, "stream_options": options}
    if not (call.stream or plan.stops or plan.stepwise):
        streamed["stream_interval"] = _ONE_EVENT
    if plan.learn is not None:
        streamed["return_prompt_text"] = True
    if plan.context:
        streamed["return_token_ids"] = True
    return streamed


def _check_end(call: Call, assembler: Assembler) -> None:
    if assembler.stopped:
        return
    if assembler.finish_reason is None:
        raise incomplete_reply(call.url, "the stream ended without a finish_reason")
    status = _GIVEN_UP.get(assembler.finish_reason)
    if status is not None:
        reason = f"finish_reason {assembler.finish_reason!r}"
        raise response_error(f"{call.url} gave the generation up ({reason})", status)


def _part(call: Call, plan: Plan, fragment: Fragment) -> JsonObject:
    part = {"model": call.name, "created_at": call.clock.stamp(), **plan.render(fragment), "done": False}
    if fragment.logprobs:
        part["logprobs"] = fragment.logprobs
    return part


def _summary(call: Call, assembler: Assembler, sent: int) -> JsonObject:
    for reason in assembler.tool_calls.dropped:
        call.memory.notice("tool call dropped", reason, "%(model)s: dropped %(what)s", model=call.name, what=reason)
    ended = call.clock.ticks()
    first = call.progress.first or ended
    call.progress.tokens_in, call.progress.tokens_out = assembler.prompt_tokens, assembler.completion_tokens
    call.progress.done = True
    summary: JsonObject = {
        "done": True,
        "done_reason": "length" if assembler.finish_reason == "length" and not assembler.stopped else "stop",
    }
    if assembler.plan.context:
        summary["context"] = assembler.token_ids
    return summary | {
        "total_duration": ended - call.started,
        "load_duration": sent - call.started,
        "prompt_eval_count": assembler.prompt_tokens,
        "prompt_eval_duration": first - sent,
        "eval_count": assembler.completion_tokens,
        "eval_duration": ended - first,
    }
