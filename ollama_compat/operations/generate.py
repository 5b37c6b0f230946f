"""`/api/generate`.

Through the chat template it is `/v1/chat/completions`; a raw prompt, and a prompt after a `context`, are
`/v1/completions`.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import lacks, response_error
from ..exchange import Exchange, Part
from .assembly import Fragment, Plan
from .call import Call
from .chat import Conversation, completion, converse, plan_of
from .fim import family_of, fill
from .generation import respond
from .messages import begun
from .request import Checked, check, explain, loaded, refuse_field
from .shorten import cut, prompt_fits, tokenize
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
        yield from _complete(call, checked, prompt, _plan(call, checked))
        return
    if body.get("suffix"):
        yield from _insert(call, checked, prompt, body["suffix"])
        return
    wanted = yield from thought(call)
    user: Part = {"role": "user", "content": prompt}
    if body.get("images"):
        user["images"] = body["images"]
    profile = call.profile.model_copy(update={"messages": ()}) if body.get("context") else call.profile
    messages = begun([user], profile, body.get("system"))
    talk = Conversation(messages, checked, wanted)
    if body.get("context"):
        yield from _after_context(call, talk)
        return
    yield from converse(call, talk, _response, context=True)


def _refuse(call: Call) -> None:
    body = call.body
    if body.get("raw") and (body.get("template") or body.get("system") or body.get("context")):
        raise response_error("raw mode does not support template, system, or context", 400)
    if body.get("template"):
        raise refuse_field("template", "the server's chat template is used; raw=True takes a prompt of your own making")
    if body.get("raw") and body.get("images"):
        raise refuse_field("images with raw", "images need the model's chat template")
    if body.get("context") and body.get("images"):
        raise refuse_field("images with context", "a context is token ids, which hold no image")
    if body.get("raw") and body.get("suffix"):
        raise refuse_field("suffix with raw", "a raw prompt holds its own suffix")
    if any(body.get(name) for name in ("width", "height", "steps")):
        raise refuse_field("image generation", "vLLM's OpenAI server answers with text")


def _insert(call: Call, checked: Checked, prompt: str, suffix: str) -> Exchange[None]:
    """Fill in the middle: the profile's prompt, or the model family's. A model that has neither is refused."""
    family = family_of(call.served, call.target.card.root)
    template = call.profile.fim or (family.prompt if family else None)
    if template is None or call.profile.lacks("insert"):
        raise lacks(call.name, "insert")
    stops = checked.stops if call.profile.fim or family is None else (*checked.stops, *family.stops)
    checked = replace(checked, stops=stops)
    yield from _complete(call, checked, fill(template, prompt, suffix), _plan(call, checked))


def _after_context(call: Call, talk: Conversation) -> Exchange[None]:
    """The prompt's tokens are put after those of the conversation so far."""
    tokens = yield from tokenize(call, talk.rendered(talk.messages))
    if tokens is None:
        raise refuse_field("context", f"{call.url} has no /tokenize")
    plan = plan_of(talk, _response, context=True)
    yield from _complete(call, talk.checked, [*call.body["context"], *tokens], plan)


def _plan(call: Call, checked: Checked) -> Plan:
    stops = () if checked.server_takes_stops else checked.stops
    return Plan(render=_response, stops=stops, top_logprobs=checked.top_logprobs, context=not call.body.get("raw"))


def _complete(call: Call, checked: Checked, prompt: str | list[int], plan: Plan) -> Exchange[None]:
    """Have a prompt completed as it is, cut first where it does not fit the window."""
    if checked.num_ctx is not None:
        prompt = yield from _cut(call, checked, prompt, checked.num_ctx)
    refused = yield from respond(call, "/v1/completions", completion(prompt, checked, plan.stops), plan)
    if refused is not None and refused.too_long and call.window:
        prompt = yield from _cut(call, checked, prompt, call.window)
        refused = yield from respond(call, "/v1/completions", completion(prompt, checked, plan.stops), plan)
    if refused is not None:
        raise explain(call, refused, "generate")


def _cut(call: Call, checked: Checked, prompt: str | list[int], window: int) -> Exchange[str | list[int]]:
    if isinstance(prompt, str):
        if prompt_fits(prompt, window):
            return prompt
        tokens = yield from tokenize(call, {"prompt": prompt})
        return prompt if tokens is None or len(tokens) < window else cut(tokens, window, checked.num_keep)
    return cut(prompt, window, checked.num_keep)


def _response(fragment: Fragment) -> Part:
    part: Part = {"response": fragment.content}
    if fragment.thinking:
        part["thinking"] = fragment.thinking
    return part
