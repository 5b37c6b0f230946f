"""`/v1/systemone`: vLLM 0.32 has the endpoint with the same path and the same fields."""

from __future__ import annotations

from ..call import Call
from ..generation.request import explain_refusal, notice_unused
from ..mapping.refusals import refusal
from ..mapping.validation import check_keep_alive
from ..mapping.vllm_schema import Decisions, decode
from ..steps import Steps


def systemone(call: Call) -> Steps[None]:
    """Choice, noul and score questions, answered with probabilities."""
    check_keep_alive(call.body.get("keep_alive"))
    notice_unused(call, {})
    payload = {key: value for key, value in call.body.items() if key not in ("model", "keep_alive")}
    reply = yield from call.post("/v1/systemone", payload)
    if not reply.ok:
        raise explain_refusal(call, refusal(call.url, reply.status, reply.body), "systemone")
    decisions = decode(reply.body, Decisions, call.url)
    usage = {"input_tokens": decisions.usage.input_tokens, "output_tokens": decisions.usage.output_tokens}
    yield {"model": call.name, "answers": decisions.answers, "usage": usage}
