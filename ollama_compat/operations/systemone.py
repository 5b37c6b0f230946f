"""`/v1/systemone`: vLLM 0.32 has the endpoint under the same name and with the same fields."""

from __future__ import annotations

from ..call import Call
from ..generation.request import check_keep_alive, explain, note_without_effect
from ..mapping.errors import refusal
from ..mapping.vllm_schema import Decisions, decode
from ..steps import Steps


def systemone(call: Call) -> Steps[None]:
    """Choice, noul and score questions, answered with probabilities."""
    check_keep_alive(call.body.get("keep_alive"))
    note_without_effect(call, {})
    payload = {key: value for key, value in call.body.items() if key not in ("model", "keep_alive")}
    reply = yield from call.ask("/v1/systemone", payload)
    if not reply.ok:
        raise explain(call, refusal(call.url, reply.status, reply.body), "systemone")
    log_decision = decode(reply.body, Decisions, call.url)
    usage = {"input_tokens": log_decision.usage.input_tokens, "output_tokens": log_decision.usage.output_tokens}
    yield {"model": call.name, "answers": log_decision.answers, "usage": usage}
