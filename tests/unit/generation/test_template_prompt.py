"""Chat and generate with a Go template: the requests to vLLM, and the answers from its text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.operations.catalog import show
from ollama_compat.operations.chat import chat
from ollama_compat.operations.generate import generate
from tests.play import NO_SUCH_PATH, TOO_LONG, Play, call, completion_stream, play, reply, tokens

PLAIN = "a {{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}<assistant>"
FIRST = "<s>" + PLAIN
LEGACY = "{{ if .System }}[{{ .System }}]{{ end }}{{ .Prompt }}: {{ .Response }}."
FIM = "{{ if .Suffix }}pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>{{ else }}{{ .Prompt }}{{ end }}"
THINKING = (
    "a {{ range .Messages }}<{{ .Role }}>"
    "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ end }}"
    "{{ if .Think }}<think>{{ else }}{{ .IsThinkSet }}{{ end }}"
)
TOOLS = (
    "{{ json .Tools }}{{ range .Messages }}{{ .Content }}{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}"
    "{{ .Function.Name }}{{ .Function.Arguments }}{{ end }}{{ end }}{{ end }}"
)
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
HI = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"


def run_chat(template: str, body: dict[str, Any] | None = None, *script: Any, **profile: Any) -> Play:
    """Run `/api/chat` with a profile that has the template."""
    chat_call = call("/api/chat", {"messages": HI, **(body or {})}, profile={"template": template, **profile})
    return play(chat(chat_call), *script)


def run_generate(body: dict[str, Any], *script: Any, **changes: Any) -> Play:
    """Run `/api/generate`."""
    return play(generate(call("/api/generate", {"prompt": "hi", **body}, **changes)), *script)


def refusal(run: Any, *arguments: Any, **changes: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        run(*arguments, **changes)
    return caught.value.error, caught.value.status_code


# Prompt


def test_chat_sends_rendered_prompt_to_completions() -> None:
    played = run_chat(PLAIN, {}, completion_stream("Hel", "lo"), system="S")
    assert played.paths == [COMPLETIONS]
    assert played.payload["prompt"] == "a <system>S<user>hi<assistant>"
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hello"}
    assert (played.parts[0]["prompt_eval_count"], played.parts[0]["done_reason"]) == (7, "stop")


def test_generate_uses_template_of_profile() -> None:
    played = run_generate({"system": "S"}, completion_stream("Hi"), profile={"template": LEGACY, "messages": HI})
    assert played.payload["prompt"] == "[S]hi\n\nhi: "
    assert played.payload["return_token_ids"] is True
    assert played.parts[0]["response"] == "Hi"


def test_template_of_request_overrides_template_of_profile() -> None:
    played = run_generate({"template": "own {{ .Prompt }}"}, completion_stream("Hi"), profile={"template": LEGACY})
    assert played.payload["prompt"] == "own hi"


def test_raw_prompt_uses_no_template() -> None:
    assert run_generate({"raw": True}, completion_stream("Hi"), profile={"template": LEGACY}).payload["prompt"] == "hi"


def test_context_precedes_rendered_prompt() -> None:
    played = run_generate({"template": LEGACY, "context": [1, 2]}, tokens(3, 4), completion_stream("Hi"))
    assert played.requests[0].payload == {"model": "smol", "prompt": "hi: ", "add_special_tokens": False}
    assert played.payload["prompt"] == [1, 2, 3, 4]


def test_context_is_refused_without_tokenize() -> None:
    text, status = refusal(run_generate, {"template": LEGACY, "context": [1]}, NO_SUCH_PATH)
    assert (text, status) == ("context is not available on vLLM: http://vllm:8001 has no /tokenize", 501)


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ nope }}", 'template: line 1: function "nope" not defined'),
        ("{{ .A.B }}", "template: line 1: nil pointer evaluating .B"),
    ],
)
def test_invalid_template_raises_status_500(template: str, error: str) -> None:
    assert refusal(run_generate, {"template": template}) == (error, 500)


@pytest.mark.parametrize("body", [{"template": LEGACY}, {}])
def test_images_are_refused_with_template(body: dict[str, Any]) -> None:
    error, status = refusal(run_generate, {"images": ["AAAA"], **body}, profile={"template": LEGACY})
    assert error.startswith("images with template is not available on vLLM")
    assert status == 501


# First token


@pytest.mark.parametrize(("ids", "sent"), [((1, 1), False), ((1,), None), ((0, 27, 82, 29), None)])
def test_first_token_of_template_is_not_duplicated(ids: tuple[int, ...], sent: bool | None) -> None:
    played = run_chat(FIRST, {}, tokens(*ids), completion_stream("Hi"))
    assert played.requests[0].payload == {"model": "smol", "prompt": "<s>"}
    assert played.payload.get("add_special_tokens") is sent


def test_first_token_is_not_checked_in_text_of_caller() -> None:
    assert run_generate({"prompt": "<b>", "template": "{{ .Prompt }}"}, completion_stream("Hi")).paths == [COMPLETIONS]


def test_first_token_is_checked_once() -> None:
    chat_call = call("/api/chat", {"messages": HI}, profile={"template": FIRST})
    play(chat(chat_call), tokens(1, 1), completion_stream("Hi"))
    assert play(chat(chat_call), completion_stream("Hi")).payload["add_special_tokens"] is False


# Window


CONVERSATION = [
    {"role": role, "content": str(i) * 999} for i, role in enumerate(["system", "user", "assistant", "user"])
]


def roles(prompt: Any) -> list[str]:
    return re.findall("<([a-z]+)>", str(prompt))


def test_oldest_messages_are_dropped_when_window_is_small() -> None:
    # The counts without one message, without two messages, and of the remaining prompt.
    counts = [tokens(*range(9)), tokens(*range(8)), tokens(*range(7))]
    played = run_chat(PLAIN, {"messages": CONVERSATION, "options": {"num_ctx": 8}}, *counts, completion_stream("Hi"))
    sent = [roles((request.payload or {})["prompt"]) for request in played.requests]
    assert sent[0] == ["system", "user", "assistant", "user", "assistant"]  # the system message stays
    assert sent[1] == sent[2] == sent[3] == ["system", "assistant", "user", "assistant"]


def test_oldest_messages_are_dropped_when_server_rejects_length() -> None:
    counts = [tokens(*range(1999)), tokens(*range(1999)), tokens(*range(1500))]
    played = run_chat(PLAIN, {"messages": CONVERSATION}, TOO_LONG, *counts, completion_stream("Hi"))
    assert played.paths == [COMPLETIONS, TOKENIZE, TOKENIZE, TOKENIZE, COMPLETIONS]
    assert roles(played.payload["prompt"]) == ["system", "user", "assistant"]


def test_prompt_of_request_template_is_cut() -> None:
    body = {"template": LEGACY, "system": "S", "prompt": "x" * 99, "options": {"num_ctx": 8, "num_keep": 2}}
    assert run_generate(body, tokens(*range(99)), completion_stream("Hi")).payload["prompt"] == [0, 1, 96, 97, 98]


def test_middle_of_last_message_is_cut() -> None:
    body = {"options": {"num_ctx": 8, "num_keep": 2}, "messages": [{"role": "user", "content": "x" * 99}]}
    played = run_chat(PLAIN, body, tokens(*range(99)), completion_stream("Hi"))
    assert played.payload["prompt"] == [0, 1, 96, 97, 98]


# Thinking


def test_thinking_is_parsed_with_tags_of_template() -> None:
    played = run_chat(THINKING, {}, completion_stream("Hm.\n</think>", "\nHi"))
    assert played.payload["prompt"] == "a <user>hi<think>"
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hi", "thinking": "Hm.\n"}


def test_thinking_is_parsed_when_prompt_does_not_open_it() -> None:
    template = THINKING.replace("{{ if .Think }}<think>", "{{ if .Think }}")
    message = run_chat(template, {"think": "high"}, completion_stream("<think>Hm</think>Hi")).parts[0]["message"]
    assert (message["thinking"], message["content"]) == ("Hm", "Hi")


def test_text_is_content_when_thinking_is_off() -> None:
    played = run_chat(THINKING, {"think": False}, completion_stream("<think>Hi"))
    assert played.payload["prompt"] == "a <user>hitrue"
    assert played.parts[0]["message"] == {"role": "assistant", "content": "<think>Hi"}


def test_profile_sets_default_of_thinking() -> None:
    assert (
        run_chat(THINKING, {}, completion_stream("Hi"), thinking={"default": False}).payload["prompt"]
        == "a <user>hitrue"
    )


def test_think_is_refused_when_template_has_no_thinking() -> None:
    assert refusal(run_chat, PLAIN, {"think": True}) == ('"smol" does not support thinking', 400)
    assert refusal(run_chat, THINKING, {"think": True}, capabilities=["completion"])[1] == 400


def test_format_turns_thinking_off() -> None:
    played = run_chat(THINKING, {"format": "json"}, completion_stream("{}"))
    assert played.payload["prompt"] == "a <user>hitrue"
    assert played.payload["response_format"]["type"] == "json_schema"
    assert played.parts[0]["message"]["content"] == "{}"


def test_request_template_uses_thinking_of_model_family() -> None:
    card = ModelCard("Qwen/Qwen3-8B", max_model_len=2048)
    part = run_generate(
        {"template": "{{ .Prompt }}{{ .Think }}"}, completion_stream("<think>Hm</think>Hi"), card=card
    ).parts[0]
    assert (part["thinking"], part["response"]) == ("Hm", "Hi")


def test_stop_strings_cut_content_only() -> None:
    body = {"options": {"stop": ["x"]}}
    played = run_chat(THINKING, body, completion_stream("a x b</think>Hi x there"))
    assert "stop" not in played.payload
    assert played.parts[0]["message"]["content"] == "Hi "
    assert run_chat(PLAIN, body, completion_stream("Hi")).payload["stop"] == ["x"]


# Tools


def test_template_renders_tools_and_calls_are_parsed_from_text() -> None:
    answer = completion_stream("Hm <tool_", 'call>{"name": "now", "arguments": {"a": 1}}', "</tool_call>")
    played = run_chat(TOOLS, {"tools": [TOOL], "stream": True}, answer)
    assert '"name":"now"' in played.payload["prompt"]
    assert played.payload["skip_special_tokens"] is False
    assert "tools" not in played.payload
    first, second, last = [part["message"] for part in played.parts]
    assert first["content"] == "Hm "
    assert second["tool_calls"][0]["function"] == {"index": 0, "name": "now", "arguments": {"a": 1}}
    assert (last["content"], played.parts[-1]["done"]) == ("", True)


def test_template_renders_empty_tools_as_empty_list() -> None:
    assert run_chat(TOOLS, {"tools": []}, completion_stream("Hi")).payload["prompt"] == "[]hi"


def test_generate_template_has_no_tools() -> None:
    template = "{{ .Messages | len }}{{ .Tools }}"
    assert run_generate({"template": template}, completion_stream("Hi")).payload["prompt"] == "1null"
    assert run_generate({}, completion_stream("Hi"), profile={"template": template}).payload["prompt"] == "1[]"


@pytest.mark.parametrize(("template", "capabilities"), [(PLAIN, None), (TOOLS, ["completion"])])
def test_tools_are_refused_when_template_has_no_tools(template: str, capabilities: Any) -> None:
    error = "registry.ollama.ai/library/smol:latest does not support tools"
    assert refusal(run_chat, template, {"tools": [TOOL]}, capabilities=capabilities) == (error, 400)


# Fill in the middle


def test_template_with_suffix_fills_in_the_middle() -> None:
    played = run_generate({"suffix": "end"}, completion_stream("mid"), profile={"template": FIM})
    assert played.payload["prompt"] == "pre>hi<suf>end<mid>"
    assert (
        run_generate({"suffix": "end", "template": "{{ .Suffix }}"}, completion_stream("mid")).payload["prompt"]
        == "end"
    )


def test_suffix_is_refused_when_template_has_no_suffix() -> None:
    error = "registry.ollama.ai/library/smol:latest does not support insert"
    assert refusal(run_generate, {"suffix": "end"}, profile={"template": PLAIN}) == (error, 400)
    assert refusal(run_generate, {"suffix": "end", "template": PLAIN}, profile={"fim": "{prefix}{suffix}"}) == (
        error,
        400,
    )


def test_fim_of_profile_applies_when_template_has_no_suffix() -> None:
    played = run_generate(
        {"suffix": "end"}, completion_stream("mid"), profile={"template": PLAIN, "fim": "{prefix}|{suffix}"}
    )
    assert played.payload["prompt"] == "hi|end"


# show


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        (PLAIN, ["completion"]),
        (TOOLS, ["completion", "tools"]),
        (FIM, ["completion", "insert"]),
        (THINKING, ["completion", "thinking"]),
    ],
)
def test_show_returns_template_and_its_capabilities(template: str, capabilities: list[str]) -> None:
    paths = reply({"paths": {"/v1/completions": {}}})
    part = play(show(call("/api/show", profile={"template": template})), paths).parts[0]
    assert part["template"] == template
    assert f'TEMPLATE """{template}"""' in part["modelfile"]
    assert part["capabilities"] == capabilities


def test_show_returns_insert_capability_of_fim() -> None:
    profile = {"template": PLAIN, "fim": "{prefix}{suffix}"}
    part = play(show(call("/api/show", profile=profile)), reply({"paths": {}})).parts[0]
    assert part["capabilities"] == ["completion", "insert"]
