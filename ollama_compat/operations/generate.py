"""`/api/generate`.

Through the chat template it is `/v1/chat/completions`; a raw prompt, and a prompt after a `context`, are
`/v1/completions`.
"""

from __future__ import annotations

from ..errors import lacks, response_error
from ..exchange import Exchange, Part
from ..wire import Tokens, decode
from .assembly import Fragment, Plan
from .call import Call
from .chat import Conversation, converse
from .generation import respond
from .messages import with_system
from .request import Checked, check, explain, loaded, refuse_field
from .thought import thought


def generate(call: Call) -> Exchange[None]:
    """One generate call: `response` parts, streamed or one."""
    body = call.body
    checked = check(call)
    prompt = body.get("prompt") or ""
    _refuse(call)
    if not prompt:
        yield loaded(call, {"response": ""}, empty=True)
        return
    if body.get("raw"):
        yield from _complete(call, checked, prompt)
        return
    wanted = yield from thought(call)
    user: Part = {"role": "user", "content": prompt}
    if body.get("images"):
        user["images"] = body["images"]
    messages = with_system([user], body.get("system") or call.profile.system)
    talk = Conversation(messages, checked, wanted)
    if body.get("context"):
        yield from _after_context(call, talk)
        return
    yield from converse(call, talk, _response, context=True)


def _refuse(call: Call) -> None:
    body = call.body
    if body.get("raw") and (body.get("template") or body.get("system") or body.get("context")):
        raise response_error("raw mode does not support template, system, or context", 400)
    if body.get("suffix"):
        raise lacks(call.name, "insert")
    if body.get("template"):
        raise refuse_field("template", "the server's chat template is used; raw=True takes a prompt of your own making")
    if body.get("raw") and body.get("images"):
        raise refuse_field("images with raw", "images need the model's chat template")
    if any(body.get(name) for name in ("width", "height", "steps")):
        raise refuse_field("image generation", "vLLM's OpenAI server answers with text")


def _after_context(call: Call, talk: Conversation) -> Exchange[None]:
    """The prompt's tokens are put after those of the conversation so far."""
    reply = yield from call.ask("/tokenize", talk.rendered(talk.messages))
    if not reply.ok:
        raise refuse_field("context", f"{call.url} has no /tokenize")
    tokens = decode(reply.body, Tokens, call.url).tokens
    yield from _complete(call, talk.checked, [*call.body["context"], *tokens])


def _complete(call: Call, checked: Checked, prompt: str | list[int]) -> Exchange[None]:
    payload: Part = {"prompt": prompt, **checked.payload}
    if checked.logprobs:
        payload["logprobs"] = checked.top_logprobs
    if checked.stops and checked.server_takes_stops:
        payload["stop"] = list(checked.stops)
    plan = Plan(
        render=_response,
        stops=() if checked.server_takes_stops else checked.stops,
        top_logprobs=checked.top_logprobs,
        context=not call.body.get("raw"),
    )
    refused = yield from respond(call, "/v1/completions", payload, plan)
    if refused is not None:
        raise explain(call, refused, "generate")


def _response(fragment: Fragment) -> Part:
    part: Part = {"response": fragment.content}
    if fragment.thinking:
        part["thinking"] = fragment.thinking
    return part
