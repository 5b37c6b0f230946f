"""`/api/chat`: a conversation for the chat template of the server, or for the Go template of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..call import Call
from ..generation.pipeline import generate
from ..generation.prompts import chat_prompt
from ..generation.request import check, loaded
from ..generation.template_prompt import conversation_prompt, template_of
from ..mapping.messages import begun
from ..steps import Steps


def chat(call: Call) -> Steps[None]:
    """One chat call: `message` parts, or one part for a plain call."""
    request = check(call)
    messages: Sequence[Mapping[str, Any]] = call.body.get("messages") or []
    if not messages:
        yield loaded(call, {"message": {"role": "assistant", "content": ""}})
        return
    profile = call.profile
    if profile.system or profile.messages:
        messages = begun(messages, profile)
    offered = call.body.get("tools") or ()
    template = template_of(call) if profile.template else None
    if template is not None:
        prompt = yield from conversation_prompt(call, template, request, messages, offered, "message")
    else:
        prompt = yield from chat_prompt(call, request, messages, offered, "message")
    yield from generate(call, request, prompt)
