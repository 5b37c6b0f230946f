"""`/api/chat` on `/v1/chat/completions`; for a profile with a Go template, on `/v1/completions` (templated.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..call import Call
from ..generation.completions import explain_refusal, payload_of, room
from ..generation.pipeline import respond
from ..generation.reader import Fragment, Plan
from ..generation.request import Checked, check, loaded
from ..generation.template_prompt import answer, template_of, templated
from ..generation.thinking_plan import ThinkingPlan, plan_thinking
from ..generation.window import cut, fits, shorten, tokenize
from ..mapping import tools
from ..mapping.errors import lacks, window_exceeded
from ..mapping.messages import begun, continues, joined, to_openai
from ..mapping.model_families import ThinkingParser
from ..steps import JsonObject, Steps

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionFunctionToolParam


def chat(call: Call) -> Steps[None]:
    """One chat call: `message` parts, streamed or one."""
    checked = check(call)
    messages: Sequence[Mapping[str, Any]] = call.body.get("messages") or []
    if not messages:
        yield loaded(call, {"message": {"role": "assistant", "content": ""}}, empty=True)
        return
    messages = begun(messages, call.profile)
    template = template_of(call)
    if template is not None:
        talk = templated(call, template, checked, call.body.get("tools") or ())
        yield from answer(talk, messages, _message)
        return
    wanted = yield from plan_thinking(call)
    offer = tools.offered(call.body.get("tools") or ())
    if offer and call.profile.lacks("tools"):
        raise lacks(call.name, "tools")
    yield from converse(call, Conversation(messages, checked, wanted, offer), _message)


@dataclass(frozen=True)
class Conversation:
    """What a chat request is made of."""

    messages: Sequence[Mapping[str, Any]]
    checked: Checked
    thought: ThinkingPlan
    tools: Sequence[ChatCompletionFunctionToolParam] = ()

    def rendered(self, messages: Sequence[Mapping[str, Any]]) -> JsonObject:
        """What decides the prompt: vLLM's `/tokenize` takes it too."""
        payload: JsonObject = {"messages": to_openai(joined(messages)), **self.thought.payload}
        if continues(messages):
            payload |= {"add_generation_prompt": False, "continue_final_message": True}
        if self.tools:  # vLLM refuses an empty list, and the official client always sends one
            payload["tools"] = list(self.tools)
        return payload

    def payload(self, messages: Sequence[Mapping[str, Any]]) -> JsonObject:
        """The whole request."""
        checked = self.checked
        payload = {**self.rendered(messages), **checked.payload}
        if checked.logprobs:
            payload |= {"logprobs": True, "top_logprobs": checked.top_logprobs}
        if checked.stops and not self.own_stops:
            payload["stop"] = list(checked.stops)
        return payload

    @property
    def own_stops(self) -> tuple[str, ...]:
        """The stop strings that are cut off here. They cut only the answer, and vLLM would cut thoughts too."""
        checked = self.checked
        return checked.stops if self.thought.possible or not checked.server_takes_stops else ()


def converse(
    call: Call, talk: Conversation, render: Callable[[Fragment], JsonObject], *, context: bool = False
) -> Steps[None]:
    """Have a conversation answered, shortened first where it does not fit the window."""
    plan = plan_of(talk, render, context=context)
    limit = talk.checked.num_ctx
    if limit is not None and not fits(talk.rendered(talk.messages), limit):
        yield from _shortened(call, talk, plan, limit, limit)
        return
    refused = yield from respond(call, "/v1/chat/completions", talk.payload(talk.messages), plan)
    if refused is not None and refused.too_long and call.window:
        yield from _shortened(call, talk, plan, room(call.window, talk.checked), call.window)
    elif refused is not None:
        raise explain_refusal(call, refused)


def plan_of(talk: Conversation, render: Callable[[Fragment], JsonObject], *, context: bool) -> Plan:
    """How the reply to a conversation is read."""
    return Plan(
        render=render,
        stops=talk.own_stops,
        tools=tools.names(talk.tools),
        splitter=_splitter(talk),
        learn=_learn(talk),
        reasoning=talk.thought.reasoning,
        settle=talk.thought.settle,
        top_logprobs=talk.checked.top_logprobs,
        stepwise=bool(talk.tools) or talk.thought.possible,
        context=context,
    )


def _shortened(call: Call, talk: Conversation, plan: Plan, limit: int, window: int) -> Steps[None]:
    """Answer what Ollama would keep of the conversation: fewer messages, and if need be fewer tokens."""
    messages = yield from shorten(call, talk.messages, talk.rendered, limit)
    tokens = yield from tokenize(call, talk.rendered(messages))
    if tokens is None or len(tokens) < window:
        refused = yield from respond(call, "/v1/chat/completions", talk.payload(messages), plan)
    elif talk.tools or any(message.get("images") for message in messages):
        raise window_exceeded(len(tokens), window)  # neither calls nor images can be had from bare tokens
    else:
        kept = cut(tokens, window, talk.checked.num_keep)
        refused = yield from respond(call, "/v1/completions", payload_of(kept, talk.checked, talk.own_stops), plan)
    if refused is not None:
        raise explain_refusal(call, refused)


def _splitter(talk: Conversation) -> Callable[[], ThinkingParser] | None:
    """Tells thoughts in the text. It begins inside one where the prompt opened it: not where it goes on from a message
    of the caller's, nor under a format, which without a reasoning parser binds from the first token."""
    wanted = talk.thought
    if not wanted.split:
        return None
    opened = wanted.opened and _may_open(talk)
    return lambda: ThinkingParser(wanted.tags, opened=opened)


def _learn(talk: Conversation) -> Callable[[str], ThinkingParser] | None:
    """The same, once the server has told the prompt's text: in a first call, where it is not known what it opens."""
    wanted = talk.thought
    if wanted.opens is None or not _may_open(talk):
        return None
    opens = wanted.opens
    return lambda prompt: ThinkingParser(wanted.tags, opened=opens(prompt))


def _may_open(talk: Conversation) -> bool:
    return not continues(talk.messages) and talk.checked.response_format is None


def _message(fragment: Fragment) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": fragment.content}
    if fragment.thinking:
        message["thinking"] = fragment.thinking
    if fragment.tool_calls:
        message["tool_calls"] = fragment.tool_calls
    return {"message": message}
