"""`/api/generate`.

Through the chat template it is `/v1/chat/completions`; a raw prompt, a prompt after a `context`, and a prompt by a Go
template (templated.py) are `/v1/completions`.
"""

from __future__ import annotations

from dataclasses import replace

from ..call import Call
from ..generation.completions import Completion, complete
from ..generation.reader import Fragment, Plan
from ..generation.request import Checked, check, loaded, refuse_field
from ..generation.template_prompt import answer, insert, inserts, template_of, templated
from ..generation.thinking_plan import plan_thinking
from ..generation.window import tokenize
from ..go_template.prompt import PromptTemplate
from ..mapping.errors import lacks, response_error
from ..mapping.infill import family_of, fill
from ..mapping.messages import begun
from ..steps import JsonObject, Steps
from .chat import Conversation, converse, plan_of


def generate(call: Call) -> Steps[None]:
    """One generate call: `response` parts, streamed or one."""
    body = call.body
    checked = check(call)
    prompt = body.get("prompt") or ""
    _refuse(call)
    if not prompt:
        yield loaded(call, {"response": ""}, empty=True)
        return
    if body.get("raw"):
        yield from complete(call, Completion(prompt, checked, _plan(call, checked)))
        return
    template = template_of(call)
    if body.get("suffix"):
        yield from _insert(call, checked, prompt, body["suffix"], template)
        return
    user: JsonObject = {"role": "user", "content": prompt}
    if body.get("images"):
        user["images"] = body["images"]
    profile = call.profile.model_copy(update={"messages": ()}) if body.get("context") else call.profile
    messages = begun([user], profile, body.get("system"))
    if template is not None:
        tools = None if body.get("template") else ()  # as Ollama tells a template that shows them unasked
        yield from answer(templated(call, template, checked, tools), messages, _response, context=True)
        return
    talk = Conversation(messages, checked, (yield from plan_thinking(call)))
    if body.get("context"):
        yield from _after_context(call, talk)
        return
    yield from converse(call, talk, _response, context=True)


def _refuse(call: Call) -> None:
    body = call.body
    if body.get("raw") and (body.get("template") or body.get("system") or body.get("context")):
        raise response_error("raw mode does not support template, system, or context", 400)
    if body.get("raw") and body.get("images"):
        raise refuse_field("images with raw", "images need the model's chat template")
    if body.get("context") and body.get("images"):
        raise refuse_field("images with context", "a context is token ids, which hold no image")
    if body.get("raw") and body.get("suffix"):
        raise refuse_field("suffix with raw", "a raw prompt holds its own suffix")
    if any(body.get(name) for name in ("width", "height", "steps")):
        raise refuse_field("image generation", "vLLM's OpenAI server answers with text")


def _insert(call: Call, checked: Checked, prompt: str, suffix: str, template: PromptTemplate | None) -> Steps[None]:
    """Fill in the middle: the template's prompt, the profile's, or the model family's. A model that has none of them is
    refused."""
    if template is not None and inserts(call, template):
        yield from insert(templated(call, template, checked), prompt, suffix, _response)
        return
    family = family_of(call.served, call.target.card.root) if template is None else None
    form = call.profile.fim or (family.prompt if family else None)
    if form is None or call.profile.lacks("insert") or call.body.get("template"):
        raise lacks(call.name, "insert")
    stops = checked.stops if call.profile.fim or family is None else (*checked.stops, *family.stops)
    checked = replace(checked, stops=stops)
    yield from complete(call, Completion(fill(form, prompt, suffix), checked, _plan(call, checked)))


def _after_context(call: Call, talk: Conversation) -> Steps[None]:
    """The prompt's tokens are put after those of the conversation so far."""
    tokens = yield from tokenize(call, talk.rendered(talk.messages))
    if tokens is None:
        raise refuse_field("context", f"{call.url} has no /tokenize")
    plan = plan_of(talk, _response, context=True)
    yield from complete(call, Completion([*call.body["context"], *tokens], talk.checked, plan))


def _plan(call: Call, checked: Checked) -> Plan:
    stops = () if checked.server_takes_stops else checked.stops
    return Plan(render=_response, stops=stops, top_logprobs=checked.top_logprobs, context=not call.body.get("raw"))


def _response(fragment: Fragment) -> JsonObject:
    part: JsonObject = {"response": fragment.content}
    if fragment.thinking:
        part["thinking"] = fragment.thinking
    return part
