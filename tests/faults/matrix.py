"""The required outcome of each fault, as a table: the contract of the client.

`once`: the fault hits one request. `lasting`: it hits every request. Chat and generate, sync and async, have the same
outcomes. `MATRIX` has the faults of the call itself, `LEARNING` the faults of the discovery request (`GET /v1/models`)
before a call. docs/tables.py writes docs/reliability.md from these tables; test_matrix.py checks them on a real vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How a call can end."""

    ANSWER = "the answer"
    REPEATED = "the answer, with the duplicated piece"
    CONNECTION = "`ConnectionError`"
    CUT_OFF = "`ResponseError`: unexpected EOF"
    RESET = "`ConnectionError`, or `ResponseError`: unexpected EOF"
    """The system can report the reset while the client connects or while it sends."""
    MALFORMED = "`ResponseError`: a malformed reply"
    STATUS = "`ResponseError` with that status"
    REDIRECT = "`ResponseError`: redirects"
    TIMEOUT = "`httpx.ReadTimeout`"
    NEVER = "does not occur"


@dataclass(frozen=True, slots=True)
class Row:
    """The outcomes of a fault from `faults.FAULTS`."""

    fault: str
    once: Outcome
    lasting: Outcome
    plain_once: Outcome | None = None
    """Of a call without streaming, which can be retried because the caller has received nothing. None: as `once`."""
    embed_once: Outcome | None = None
    """Of embed, which faults of a stream do not affect. None: as `plain_once`."""
    embed_lasting: Outcome | None = None
    """None: as `lasting`."""

    def outcome(self, operation: str, *, stream: bool, lasting: bool) -> Outcome:
        """The required outcome of a call of `operation`."""
        embed = self.embed_lasting if lasting else self.embed_once
        plain = None if lasting else self.plain_once
        own = (embed if operation == "embed" else None) or (None if stream else plain)
        return own or (self.lasting if lasting else self.once)


A, E = Outcome.ANSWER, Outcome
BODIES = ("", "-html", "-empty")

MATRIX = (
    Row("refuse", E.NEVER, E.CONNECTION),
    Row("reset-on-accept", A, E.RESET),
    Row("stale-keep-alive", A, A),
    Row("slow-accept", A, A),
    Row("reset-before-reply", A, E.CUT_OFF),
    Row("reset-after-head", A, E.CUT_OFF),
    Row("reset-in-body", E.CUT_OFF, E.CUT_OFF, plain_once=A),
    Row("stall-before-reply", E.TIMEOUT, E.TIMEOUT),
    Row("stall-in-body", E.TIMEOUT, E.TIMEOUT),
    Row("drip", A, A),
    Row("truncate", E.CUT_OFF, E.CUT_OFF, plain_once=A),
    Row("end-after-event", E.CUT_OFF, E.CUT_OFF, plain_once=A, embed_lasting=A),
    Row("duplicate-event", E.REPEATED, E.REPEATED, embed_once=A, embed_lasting=A),
    Row("corrupt-event", E.MALFORMED, E.MALFORMED, embed_once=A, embed_lasting=A),
    Row("corrupt-byte", E.MALFORMED, E.MALFORMED, embed_once=A, embed_lasting=A),  # in an unread field
    Row("corrupt-head", A, E.CUT_OFF),
    Row("other-protocol", A, E.CUT_OFF),
    *(Row(f"status-500{body}", E.STATUS, E.STATUS) for body in BODIES),
    *(Row(f"status-{status}{body}", A, E.STATUS) for status in (502, 503, 429) for body in BODIES),
    Row("retry-after", A, E.STATUS),
    Row("redirect", E.REDIRECT, E.REDIRECT),
    Row("echo-key", E.STATUS, E.STATUS),
    Row("escapes", E.STATUS, E.STATUS),
    Row("escapes-in-text", A, E.STATUS),
    Row("gzip-bomb", E.MALFORMED, E.MALFORMED),
    Row("endless-line", E.MALFORMED, E.MALFORMED),
    Row("endless-body", E.MALFORMED, E.MALFORMED),
)

DISCOVERY = (
    Row("refuse", E.NEVER, E.CONNECTION),
    Row("reset-before-reply", A, E.CUT_OFF),
    Row("reset-after-head", A, E.CUT_OFF),
    Row("truncate", A, E.CUT_OFF),
    Row("stall-before-reply", A, E.CONNECTION),
    Row("endless-hints", A, E.CONNECTION),
    Row("drip", A, A),
    Row("other-protocol", A, E.CUT_OFF),
    Row("status-500", E.STATUS, E.STATUS),
    *(Row(f"status-{status}{body}", A, E.STATUS) for status in (502, 503, 429) for body in ("", "-empty")),
    Row("redirect", E.REDIRECT, E.REDIRECT),
    Row("echo-key", E.STATUS, E.STATUS),
    Row("gzip-bomb", E.MALFORMED, E.MALFORMED),
    Row("endless-body", E.MALFORMED, E.MALFORMED),
)
