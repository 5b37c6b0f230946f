"""Chats and generations by a Go template: what vLLM is asked, and how its text becomes Ollama's answer."""

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
THINKS = (
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


def told(template: str, body: dict[str, Any] | None = None, *script: Any, **profile: Any) -> Play:
    """The playing of a chat with a profile that has the template."""
    asked = call("/api/chat", {"messages": HI, **(body or {})}, profile={"template": template, **profile})
    return play(chat(asked), *script)


def made(body: dict[str, Any], *script: Any, **changes: Any) -> Play:
    """The playing of a generation."""
    return play(generate(call("/api/generate", {"prompt": "hi", **body}, **changes)), *script)


def refusal(ask: Any, *arguments: Any, **changes: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        ask(*arguments, **changes)
    return caught.value.error, caught.value.status_code


# The prompt


def test_a_chat_is_a_completion_of_the_rendered_prompt() -> None:
    played = told(PLAIN, {}, completion_stream("Hel", "lo"), system="S")
    assert played.paths == [COMPLETIONS]
    assert played.payload["prompt"] == "a <system>S<user>hi<assistant>"
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hello"}
    assert (played.parts[0]["prompt_eval_count"], played.parts[0]["done_reason"]) == (7, "stop")


def test_a_profiles_template_makes_the_prompt_of_a_generation() -> None:
    played = made({"system": "S"}, completion_stream("Hi"), profile={"template": LEGACY, "messages": HI})
    assert played.payload["prompt"] == "[S]hi\n\nhi: "
    assert played.payload["return_token_ids"] is True
    assert played.parts[0]["response"] == "Hi"


def test_a_calls_own_template_goes_before_the_profiles() -> None:
    played = made({"template": "own {{ .Prompt }}"}, completion_stream("Hi"), profile={"template": LEGACY})
    assert played.payload["prompt"] == "own hi"


def test_a_raw_prompt_goes_through_no_template() -> None:
    assert made({"raw": True}, completion_stream("Hi"), profile={"template": LEGACY}).payload["prompt"] == "hi"


def test_a_context_stands_in_front_of_the_rendered_prompt() -> None:
    played = made({"template": LEGACY, "context": [1, 2]}, tokens(3, 4), completion_stream("Hi"))
    assert played.requests[0].payload == {"model": "smol", "prompt": "hi: ", "add_special_tokens": False}
    assert played.payload["prompt"] == [1, 2, 3, 4]


def test_a_context_needs_the_servers_tokenizer() -> None:
    text, status = refusal(made, {"template": LEGACY, "context": [1]}, NO_SUCH_PATH)
    assert (text, status) == ("context is not available on vLLM: http://vllm:8001 has no /tokenize", 501)


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ nope }}", 'template: line 1: function "nope" not defined'),
        ("{{ .A.B }}", "template: line 1: nil pointer evaluating .B"),
    ],
)
def test_a_template_that_is_not_understood_is_ollamas_500(template: str, error: str) -> None:
    assert refusal(made, {"template": template}) == (error, 500)


@pytest.mark.parametrize("body", [{"template": LEGACY}, {}])
def test_images_are_refused(body: dict[str, Any]) -> None:
    error, status = refusal(made, {"images": ["AAAA"], **body}, profile={"template": LEGACY})
    assert error.startswith("images with template is not available on vLLM")
    assert status == 501


# The first token


@pytest.mark.parametrize(("ids", "sent"), [((1, 1), False), ((1,), None), ((0, 27, 82, 29), None)])
def test_a_first_token_in_the_template_is_not_put_there_twice(ids: tuple[int, ...], sent: bool | None) -> None:
    played = told(FIRST, {}, tokens(*ids), completion_stream("Hi"))
    assert played.requests[0].payload == {"model": "smol", "prompt": "<s>"}
    assert played.payload.get("add_special_tokens") is sent


def test_what_a_caller_writes_is_not_asked_about() -> None:
    assert made({"prompt": "<b>", "template": "{{ .Prompt }}"}, completion_stream("Hi")).paths == [COMPLETIONS]


def test_whether_it_is_doubled_is_asked_once() -> None:
    asked = call("/api/chat", {"messages": HI}, profile={"template": FIRST})
    play(chat(asked), tokens(1, 1), completion_stream("Hi"))
    assert play(chat(asked), completion_stream("Hi")).payload["add_special_tokens"] is False


# What does not fit


TALK = [{"role": role, "content": str(i) * 999} for i, role in enumerate(["system", "user", "assistant", "user"])]


def roles(prompt: Any) -> list[str]:
    return re.findall("<([a-z]+)>", str(prompt))


def test_the_oldest_messages_go_where_the_window_is_small() -> None:
    counts = [tokens(*range(9)), tokens(*range(8)), tokens(*range(7))]  # less one message, less two, what is left
    played = told(PLAIN, {"messages": TALK, "options": {"num_ctx": 8}}, *counts, completion_stream("Hi"))
    asked = [roles((request.payload or {})["prompt"]) for request in played.requests]
    assert asked[0] == ["system", "user", "assistant", "user", "assistant"]  # the system message stays
    assert asked[1] == asked[2] == asked[3] == ["system", "assistant", "user", "assistant"]


def test_a_server_that_finds_it_too_long_has_it_shortened() -> None:
    counts = [tokens(*range(1999)), tokens(*range(1999)), tokens(*range(1500))]
    played = told(PLAIN, {"messages": TALK}, TOO_LONG, *counts, completion_stream("Hi"))
    assert played.paths == [COMPLETIONS, TOKENIZE, TOKENIZE, TOKENIZE, COMPLETIONS]
    assert roles(played.payload["prompt"]) == ["system", "user", "assistant"]


def test_a_calls_own_template_has_its_prompt_cut() -> None:
    body = {"template": LEGACY, "system": "S", "prompt": "x" * 99, "options": {"num_ctx": 8, "num_keep": 2}}
    assert made(body, tokens(*range(99)), completion_stream("Hi")).payload["prompt"] == [0, 1, 96, 97, 98]


def test_a_last_message_that_does_not_fit_loses_its_middle() -> None:
    body = {"options": {"num_ctx": 8, "num_keep": 2}, "messages": [{"role": "user", "content": "x" * 99}]}
    played = told(PLAIN, body, tokens(*range(99)), completion_stream("Hi"))
    assert played.payload["prompt"] == [0, 1, 96, 97, 98]


# Thinking


def test_thoughts_are_told_by_the_tags_of_the_template() -> None:
    played = told(THINKS, {}, completion_stream("Hm.\n</think>", "\nHi"))
    assert played.payload["prompt"] == "a <user>hi<think>"
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hi", "thinking": "Hm.\n"}


def test_thoughts_that_the_prompt_did_not_open() -> None:
    template = THINKS.replace("{{ if .Think }}<think>", "{{ if .Think }}")
    message = told(template, {"think": "high"}, completion_stream("<think>Hm</think>Hi")).parts[0]["message"]
    assert (message["thinking"], message["content"]) == ("Hm", "Hi")


def test_without_thinking_the_text_is_the_answer() -> None:
    played = told(THINKS, {"think": False}, completion_stream("<think>Hi"))
    assert played.payload["prompt"] == "a <user>hitrue"
    assert played.parts[0]["message"] == {"role": "assistant", "content": "<think>Hi"}


def test_a_profile_says_what_unasked_means() -> None:
    assert told(THINKS, {}, completion_stream("Hi"), thinking={"default": False}).payload["prompt"] == "a <user>hitrue"


def test_a_template_without_thoughts_is_ollamas_refusal() -> None:
    assert refusal(told, PLAIN, {"think": True}) == ('"smol" does not support thinking', 400)
    assert refusal(told, THINKS, {"think": True}, capabilities=["completion"])[1] == 400


def test_under_a_format_it_does_not_think() -> None:
    played = told(THINKS, {"format": "json"}, completion_stream("{}"))
    assert played.payload["prompt"] == "a <user>hitrue"
    assert played.payload["response_format"]["type"] == "json_schema"
    assert played.parts[0]["message"]["content"] == "{}"


def test_a_calls_own_template_thinks_as_the_models_family_does() -> None:
    card = ModelCard("Qwen/Qwen3-8B", max_model_len=2048)
    part = made({"template": "{{ .Prompt }}{{ .Think }}"}, completion_stream("<think>Hm</think>Hi"), card=card).parts[0]
    assert (part["thinking"], part["response"]) == ("Hm", "Hi")


def test_stop_strings_cut_only_the_answer() -> None:
    body = {"options": {"stop": ["x"]}}
    played = told(THINKS, body, completion_stream("a x b</think>Hi x there"))
    assert "stop" not in played.payload
    assert played.parts[0]["message"]["content"] == "Hi "
    assert told(PLAIN, body, completion_stream("Hi")).payload["stop"] == ["x"]


# Tools


def test_tools_are_shown_by_the_template_and_calls_told_from_the_text() -> None:
    answer = completion_stream("Hm <tool_", 'call>{"name": "now", "arguments": {"a": 1}}', "</tool_call>")
    played = told(TOOLS, {"tools": [TOOL], "stream": True}, answer)
    assert '"name":"now"' in played.payload["prompt"]
    assert played.payload["skip_special_tokens"] is False
    assert "tools" not in played.payload
    first, second, last = [part["message"] for part in played.parts]
    assert first["content"] == "Hm "
    assert second["tool_calls"][0]["function"] == {"index": 0, "name": "now", "arguments": {"a": 1}}
    assert (last["content"], played.parts[-1]["done"]) == ("", True)


def test_no_tools_are_an_empty_list() -> None:
    assert told(TOOLS, {"tools": []}, completion_stream("Hi")).payload["prompt"] == "[]hi"


def test_a_generations_own_template_has_no_tools_to_show() -> None:
    template = "{{ .Messages | len }}{{ .Tools }}"
    assert made({"template": template}, completion_stream("Hi")).payload["prompt"] == "1null"
    assert made({}, completion_stream("Hi"), profile={"template": template}).payload["prompt"] == "1[]"


@pytest.mark.parametrize(("template", "capabilities"), [(PLAIN, None), (TOOLS, ["completion"])])
def test_a_template_without_tools_is_ollamas_refusal(template: str, capabilities: Any) -> None:
    error = "registry.ollama.ai/library/smol:latest does not support tools"
    assert refusal(told, template, {"tools": [TOOL]}, capabilities=capabilities) == (error, 400)


# Fill in the middle


def test_a_template_with_a_suffix_fills_in() -> None:
    played = made({"suffix": "end"}, completion_stream("mid"), profile={"template": FIM})
    assert played.payload["prompt"] == "pre>hi<suf>end<mid>"
    assert made({"suffix": "end", "template": "{{ .Suffix }}"}, completion_stream("mid")).payload["prompt"] == "end"


def test_a_template_without_a_suffix_is_ollamas_refusal() -> None:
    error = "registry.ollama.ai/library/smol:latest does not support insert"
    assert refusal(made, {"suffix": "end"}, profile={"template": PLAIN}) == (error, 400)
    assert refusal(made, {"suffix": "end", "template": PLAIN}, profile={"fim": "{prefix}{suffix}"}) == (error, 400)


def test_a_profiles_fim_helps_a_template_out() -> None:
    played = made({"suffix": "end"}, completion_stream("mid"), profile={"template": PLAIN, "fim": "{prefix}|{suffix}"})
    assert played.payload["prompt"] == "hi|end"


# show


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        (PLAIN, ["completion"]),
        (TOOLS, ["completion", "tools"]),
        (FIM, ["completion", "insert"]),
        (THINKS, ["completion", "thinking"]),
    ],
)
def test_show_tells_the_template_and_what_it_can(template: str, capabilities: list[str]) -> None:
    paths = reply({"paths": {"/v1/completions": {}}})
    part = play(show(call("/api/show", profile={"template": template})), paths).parts[0]
    assert part["template"] == template
    assert f'TEMPLATE """{template}"""' in part["modelfile"]
    assert part["capabilities"] == capabilities


def test_a_profiles_fim_is_a_capability_too() -> None:
    profile = {"template": PLAIN, "fim": "{prefix}{suffix}"}
    part = play(show(call("/api/show", profile=profile)), reply({"paths": {}})).parts[0]
    assert part["capabilities"] == ["completion", "insert"]
