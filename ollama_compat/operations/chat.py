"""`/api/chat`: a conversation for the chat template of the server, or for the Go template of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..call import Call
from ..generation.pipeline import generate
from ..generation.prompts import ChatPrompt
from ..generation.reader import PartField, ReplyFormat
from ..generation.request import GenerationRequest, check, loaded
from ..generation.template_prompt import conversation_prompt, template_of
from ..generation.thinking_plan import plan_thinking
from ..mapping import tools
from ..mapping.errors import lacks
from ..mapping.messages import begun, continues
from ..steps import Steps


def chat(call: Call) -> Steps[None]:
    """One chat call: `message` parts, or one part for a plain call."""
    request = check(call)
    messages: Sequence[Mapping[str, Any]] = call.body.get("messages") or []
    if not messages:
        yield loaded(call, {"message": {"role": "assistant", "content": ""}})
        return
    messages = begun(messages, call.profile)
    offered = call.body.get("tools") or ()
    template = template_of(call)
    if template is not None:
        prompt = yield from conversation_prompt(call, template, request, messages, offered, "message")
    else:
        prompt = yield from chat_prompt(call, request, messages, offered, "message")
    yield from generate(call, request, prompt)


def chat_prompt(
    call: Call,
    request: GenerationRequest,
    messages: Sequence[Mapping[str, Any]],
    offered: Sequence[Mapping[str, Any]],
    part_field: PartField,
) -> Steps[ChatPrompt]:
    """The prompt of a conversation for the server's chat template.

    Raises Ollama's 400 if the call requests thinking or tools from a model without them.
    """
    may_open = request.response_format is None and not continues(messages)
    thinking = yield from plan_thinking(call, may_open=may_open)
    function_tools = tools.offered(offered) if offered else ()
    if function_tools and call.profile.lacks("tools"):
        raise lacks(call.name, "tools")
    reply = ReplyFormat(
        part_field,
        thinking,
        tools=tools.names(function_tools) if function_tools else frozenset(),
        client_stops=request.client_stops(thinking=thinking.possible),
        top_logprobs=request.top_logprobs,
        context=part_field == "response",
    )
    return ChatPrompt(messages, reply, tuple(function_tools))
