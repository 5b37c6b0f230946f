"""The one pipeline from a prompt to Ollama's parts: fit, send, shorten and retry when the prompt is too long, stream.

The request always asks vLLM for an event stream, also for a plain call: the time of the first token is then known, so
`prompt_eval_duration` and `eval_duration` are true, and a caller that closes the call frees the server. For a plain
call, `stream_interval` makes vLLM send the whole answer in one event, which costs what a plain reply costs.
"""

from __future__ import annotations

from ..call import Call
from ..mapping.errors import incomplete_reply
from ..mapping.ollama_errors import response_error
from ..mapping.refusals import Refusal, refusal, stream_error
from ..mapping.vllm_schema import DECODE_ERRORS, Chunk, decode_chunk, undecodable
from ..steps import NEXT_EVENT, JsonObject, OpenStream, Reply, Steps
from .protocol import CHAT_PATH, Prompt
from .reader import ReplyDelta, ReplyFormat, ReplyReader
from .request import GenerationRequest, explain_refusal
from .thinking_plan import keep_opened, resolve_reasoning
from .window import fit

DONE = b"[DONE]"
_FAILED = {"abort": 500, "error": 500, "insufficient_system_resource": 503}  # two of vLLM 0.32, one of DeepSeek
_ONE_EVENT = 1_000_000  # tokens: more than any window


def generate(call: Call, request: GenerationRequest, prompt: Prompt) -> Steps[None]:
    """Generate from a prompt and yield Ollama's parts. Raises the translated refusal of vLLM."""
    if request.num_ctx is not None and not prompt.surely_fits(request.num_ctx):
        prompt = yield from fit(call, prompt, limit=request.num_ctx, window=request.num_ctx, keep=request.num_keep)
    refused = yield from _stream(call, request, prompt)
    if refused is not None and refused.too_long and call.window:
        limit = request.room_for_prompt(call.window)
        prompt = yield from fit(call, prompt, limit=limit, window=call.window, keep=request.num_keep)
        refused = yield from _stream(call, request, prompt)
    if refused is not None:
        raise explain_refusal(call, refused)


def _stream(call: Call, request: GenerationRequest, prompt: Prompt) -> Steps[Refusal | None]:
    """Send the request and yield the parts. Returns the refusal if the server refuses the request."""
    reply, progress, clock = prompt.reply, call.progress, call.context.clock
    reader, plan = ReplyReader(reply), reply.thinking
    sent_at = clock.ticks()
    refused: Reply | None = yield OpenStream(call.request(prompt.path, _payload(call, request, prompt)))
    if refused is not None:
        progress.retry_after = refused.retry_after
        return refusal(call.url, refused.status, refused.body)
    delta = ReplyDelta()
    unresolved = plan.style if plan.reasoning == "unknown" else None
    while (data := (yield NEXT_EVENT)) is not None:
        if data == DONE:
            continue  # read to the end of the stream, so that the connection can be reused
        try:
            chunk = decode_chunk(data)
        except DECODE_ERRORS as error:
            raise undecodable(data, call.url, error) from None
        if chunk.error is not None:
            raise stream_error(call.url, data)
        if progress.first_token is None:
            progress.first_token = clock.ticks()
        if plan.opened is None and chunk.prompt_text is not None:
            keep_opened(call, opened=reader.prompt_opened(chunk.prompt_text))
        if unresolved is not None and _has_reasoning(chunk):
            reader.reasoning, unresolved = (yield from resolve_reasoning(call, unresolved)), None
        reader.feed(chunk, delta)
        if call.stream and delta:
            progress.delivered = True
            yield _part(call, reply, delta)
            delta = ReplyDelta()
        if reader.stopped:
            break
    if not reader.stopped and (reader.finish_reason is None or reader.finish_reason in _FAILED):
        raise _unfinished(call, reader.finish_reason)
    reader.finish(delta)
    if call.stream and delta:
        yield _part(call, reply, delta)
        delta = ReplyDelta()
    delta.content += reader.held_back()
    yield _part(call, reply, delta) | _summary(call, reader, reply, sent_at)
    return None


def _payload(call: Call, request: GenerationRequest, prompt: Prompt) -> JsonObject:
    reply = prompt.reply
    stream_options = {"include_usage": True}
    payload: JsonObject = {**prompt.fields(), **request.fields(reply.client_stops)}
    if request.logprobs:
        is_chat = prompt.path == CHAT_PATH
        payload["logprobs"] = True if is_chat else request.top_logprobs
        if is_chat:
            payload["top_logprobs"] = request.top_logprobs
    if reply.client_stops:
        stream_options["continuous_usage_stats"] = True  # the client will not read the last event, with the usage
    payload["stream"] = True
    payload["stream_options"] = stream_options
    if not (call.stream or reply.client_stops or reply.by_token):
        payload["stream_interval"] = _ONE_EVENT
    if reply.thinking.opened is None:
        payload["return_prompt_text"] = True
    if reply.context:
        payload["return_token_ids"] = True
    return payload


def _has_reasoning(chunk: Chunk) -> bool:
    for choice in chunk.choices:
        if choice.delta is not None and (choice.delta.reasoning or choice.delta.reasoning_content):
            return True
    return False


def _unfinished(call: Call, finish_reason: str | None) -> Exception:
    """The exception for a stream that ended before the answer was complete."""
    if finish_reason is None:
        return incomplete_reply(call.url, "the stream ended without a finish_reason")
    cause = f"finish_reason {finish_reason!r}"
    return response_error(
        f"{call.url} stopped generating before the answer was complete ({cause})", _FAILED[finish_reason]
    )


def _part(call: Call, reply: ReplyFormat, delta: ReplyDelta) -> JsonObject:
    part: JsonObject = {"model": call.name, "created_at": call.context.clock.stamp()}
    if reply.part_field == "message":
        message: JsonObject = {"role": "assistant", "content": delta.content}
        if delta.thinking:
            message["thinking"] = delta.thinking
        if delta.tool_calls:
            message["tool_calls"] = delta.tool_calls
        part["message"] = message
    else:
        part["response"] = delta.content
        if delta.thinking:
            part["thinking"] = delta.thinking
    part["done"] = False
    if delta.logprobs:
        part["logprobs"] = delta.logprobs
    return part


def _summary(call: Call, reader: ReplyReader, reply: ReplyFormat, sent_at: int) -> JsonObject:
    for dropped in reader.dropped_calls:
        call.notice("tool call dropped", dropped, "model %(model)s: dropped %(what)s", model=call.name, what=dropped)
    ended, progress = call.context.clock.ticks(), call.progress
    first_token = progress.first_token or ended
    progress.tokens_in, progress.tokens_out = reader.prompt_tokens, reader.completion_tokens
    progress.done = True
    summary: JsonObject = {
        "done": True,
        "done_reason": "length" if reader.finish_reason == "length" and not reader.stopped else "stop",
    }
    if reply.context:
        summary["context"] = reader.token_ids
    return summary | {
        "total_duration": ended - call.started,
        "load_duration": sent_at - call.started,
        "prompt_eval_count": reader.prompt_tokens,
        "prompt_eval_duration": first_token - sent_at,
        "eval_count": reader.completion_tokens,
        "eval_duration": ended - first_token,
    }
