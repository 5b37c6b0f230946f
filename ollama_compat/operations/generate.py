"""`/api/generate`: a prompt for the chat template or a Go template, a raw prompt, a `context`, or a `suffix`."""

from __future__ import annotations

from ..call import Call
from ..generation.pipeline import generate as run_pipeline
from ..generation.prompts import TextPrompt, after_context, chat_prompt
from ..generation.protocol import Prompt
from ..generation.reader import ReplyFormat
from ..generation.request import GenerationRequest, check, loaded, unavailable
from ..generation.template_prompt import conversation_prompt, insertion_prompt, inserts, template_of
from ..mapping.messages import begun
from ..mapping.model_families import fill, infill_of
from ..mapping.ollama_errors import lacks, response_error
from ..steps import JsonObject, Steps


def generate(call: Call) -> Steps[None]:
    """One generate call: `response` parts, or one part for a plain call."""
    request = check(call)
    _refuse(call)
    text = call.body.get("prompt") or ""
    if not text:
        yield loaded(call, {"response": ""})
        return
    if call.body.get("raw"):
        prompt: Prompt = _text_prompt(request, text, context=False)
    elif call.body.get("suffix"):
        request, prompt = yield from _infill_prompt(call, request, text, call.body["suffix"])
    else:
        prompt = yield from _conversation_prompt(call, request, text)
    yield from run_pipeline(call, request, prompt)


def _conversation_prompt(call: Call, request: GenerationRequest, text: str) -> Steps[Prompt]:
    """The prompt as a conversation of one message, after the call's `context` if it has one."""
    body = call.body
    user: JsonObject = {"role": "user", "content": text}
    if body.get("images"):
        user["images"] = body["images"]
    profile = call.profile.model_copy(update={"messages": ()}) if body.get("context") else call.profile
    messages = begun([user], profile, body.get("system"))
    template = template_of(call)
    if template is not None:
        tools = None if body.get("template") else ()  # Ollama renders `.Tools` only for the model's own template
        return (yield from conversation_prompt(call, template, request, messages, tools, "response"))
    prompt = yield from chat_prompt(call, request, messages, (), "response")
    if body.get("context"):
        return (yield from after_context(call, prompt.countable(), prompt.reply))
    return prompt


def _infill_prompt(
    call: Call, request: GenerationRequest, text: str, suffix: str
) -> Steps[tuple[GenerationRequest, Prompt]]:
    """A prompt to fill in the middle: the template's, the profile's, or the model family's.

    Raises Ollama's 400 for a model without any of them.
    """
    template = template_of(call)
    if template is not None and inserts(call, template):
        return request, (yield from insertion_prompt(call, template, request, text, suffix))
    infill = infill_of(call.served, call.target.card.root) if template is None else None
    form = call.profile.fim or (infill.prompt if infill else None)
    if form is None or call.profile.lacks("insert") or call.body.get("template"):
        raise lacks(call.name, "insert")
    if infill is not None and not call.profile.fim:
        request = request.with_stops(infill.stops)
    return request, _text_prompt(request, fill(form, text, suffix), context=True)


def _text_prompt(request: GenerationRequest, text: str, *, context: bool) -> TextPrompt:
    reply = ReplyFormat(
        "response", client_stops=request.client_stops(), top_logprobs=request.top_logprobs, context=context
    )
    return TextPrompt(text, reply)


def _refuse(call: Call) -> None:
    """Raise for combinations of fields that Ollama refuses or that vLLM cannot honour."""
    body = call.body
    if body.get("raw") and (body.get("template") or body.get("system") or body.get("context")):
        raise response_error("raw mode does not support template, system, or context", 400)
    if body.get("raw") and body.get("images"):
        raise unavailable("images with raw", "images need the model's chat template")
    if body.get("context") and body.get("images"):
        raise unavailable("images with context", "a context is token ids, which hold no image")
    if body.get("raw") and body.get("suffix"):
        raise unavailable("suffix with raw", "a raw prompt holds its own suffix")
    if any(body.get(name) for name in ("width", "height", "steps")):
        raise unavailable("image generation", "vLLM's OpenAI server answers with text")
