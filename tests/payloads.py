"""Requests that have every key that the operations send to vLLM, and their conversion for a provider."""

from __future__ import annotations

from typing import Any

from ollama_compat.providers.dialects import CHAT, DIALECTS
from ollama_compat.providers.request import converted
from ollama_compat.steps import JsonObject

BY_NAME = {row.name: row for row in DIALECTS}
OTHERS = [row for row in DIALECTS if not row.everything]

VLLM_ONLY = {
    *("return_token_ids", "return_prompt_text", "stream_interval", "truncate_prompt_tokens", "truncation_side"),
    *("continue_final_message", "add_generation_prompt", "chat_template_kwargs", "include_reasoning"),
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
HISTORY: list[JsonObject] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the weather?"},
    {
        "role": "assistant",
        "content": "",
        "reasoning": "I should look.",
        "tool_calls": [
            {"id": "call_00000000", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "call_00000000"},
    {"role": "assistant", "content": "It"},
]
SAMPLING: JsonObject = {
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "seed": 7,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "max_tokens": 100,
    "stop": ["END"],
}
STREAMED: JsonObject = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "stream_interval": 1_000_000,
    "return_prompt_text": True,
    "return_token_ids": True,
}
FULL: JsonObject = {
    "model": "served",
    "messages": HISTORY,
    "add_generation_prompt": False,
    "continue_final_message": True,
    "chat_template_kwargs": {"enable_thinking": True},
    "tools": [TOOL],
    "response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": SCHEMA}},
    "logprobs": True,
    "top_logprobs": 20,
    **SAMPLING,
    **STREAMED,
}
RAW: JsonObject = {"model": "served", "prompt": "Once", "logprobs": 20, **SAMPLING, **STREAMED}
TEXTS: JsonObject = {
    "model": "served",
    "input": ["a"],
    "encoding_format": "base64",
    "truncate_prompt_tokens": 8,
    "truncation_side": "right",
}


def convert_chat(dialect: str, model: str = "any", **changes: Any) -> tuple[JsonObject, tuple[str, ...]]:
    """A chat with `changes` as the provider receives it, and what the provider lacks."""
    payload: JsonObject = {"model": "served", "messages": [{"role": "user", "content": "Hi"}], **changes}
    return converted(payload, CHAT, BY_NAME[dialect], model)


def as_format(schema: JsonObject) -> JsonObject:
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": schema}}
