"""Complete plans: the production pair on common cards, problems, and suggestions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vllm_launch import Server
from vllm_launch.plan import Change, Gpu, Model, Plan, Suggestion, known, named, plan, published, render
from vllm_launch.plan.gpus import GIB
from vllm_launch.presets import EXAONE, KURE, PRESETS
from vllm_launch.runtimes.base import LaunchError

LLM, EMBED = PRESETS["vllm-llm"], PRESETS["vllm-embed"]
PAIR = (LLM, EMBED)


def known_here(name: str, revision: str | None) -> Model:
    """The known models, independent of the cache of the test machine."""
    return Model(name, known.CONFIGS[name], None, None, "what is known of it here")


def planned(servers: Sequence[Server], *gpus: str | Gpu) -> Plan:
    cards = [gpu if isinstance(gpu, Gpu) else named(gpu, index) for index, gpu in enumerate(gpus)]
    return plan(servers, cards, known_here)


def changed(server: Server, **fields: Any) -> Server:
    return Server.model_validate({**server.model_dump(), **fields})


def shown(result: Plan) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(render(result))
    return capture.get()


# --- the pair


@pytest.mark.parametrize("card", ["48GiB", "L40S", "RTX A6000", "A100-80", "H100", "H200"])
def test_pair_fits_on_cards_of_48_gib_and_more(card: str) -> None:
    result = planned(PAIR, card)
    assert result.fits, result.problems
    assert result.suggestions == ()
    assert [share for share, _ in result.gpus[0].shares] == ["vllm-llm", "vllm-embed"]


@pytest.mark.parametrize("card", ["L4", "RTX 4090", "24GiB"])
def test_pair_does_not_fit_on_24_gib_and_gets_suggestions(card: str) -> None:
    result = planned(PAIR, card)
    assert not result.fits
    assert [problem.partition(":")[0] for problem in result.problems] == ["vllm-llm", "vllm-embed"]
    assert "vllm-embed: its share is" in result.problems[1]
    assert result.suggestions


def test_parts_of_a_server_add_up_to_its_share() -> None:
    llm = planned(PAIR, "48GiB").server("vllm-llm")
    assert llm.fixed + llm.kv_available == llm.budget
    assert llm.budget == pytest.approx(0.85 * 48 * GIB * 0.98, abs=2)


def test_kv_cache_figures_equal_those_in_vllms_log() -> None:
    llm = planned(PAIR, "48GiB").server("vllm-llm")
    cache = llm.kv_cache
    assert cache is not None
    assert cache.token_bytes == 64 * 4096
    assert cache.late_token_bytes == 16 * 4096
    assert cache.tokens == int(cache.concurrency * 32768)
    assert dict(cache.sequences)[32768] == int((llm.kv_available - cache.least_bytes) // cache.request_bytes) + 1


def test_embedding_model_has_no_kv_cache_and_shows_the_unused_memory() -> None:
    embed = planned(PAIR, "80GiB").server("vllm-embed")
    assert embed.kv_cache is None
    assert embed.needs == embed.fixed
    assert 0 < embed.fixed < embed.budget


def test_two_gpus_split_the_weights() -> None:
    one = planned([LLM], "48GiB").server("vllm-llm")
    two = planned([changed(LLM, tensor_parallel_size=2, gpus=(0, 1))], "48GiB", "48GiB").server("vllm-llm")
    assert two.gpus == (0, 1)
    assert two.weights == pytest.approx(one.weights / 2, rel=0.001)
    assert one.kv_cache is not None
    assert two.kv_cache is not None
    assert two.kv_cache.request_bytes * 2 == one.kv_cache.request_bytes


def test_smallest_gpu_of_a_server_counts() -> None:
    mixed = planned([changed(LLM, tensor_parallel_size=2, gpus=(0, 1))], "80GiB", "48GiB").server("vllm-llm")
    even = planned([changed(LLM, tensor_parallel_size=2, gpus=(0, 1))], "48GiB", "48GiB").server("vllm-llm")
    assert mixed.kv_available == even.kv_available


def test_fixed_kv_cache_determines_the_share() -> None:
    llm = planned([changed(LLM, kv_cache_memory_bytes=8 * GIB)], "48GiB").server("vllm-llm")
    assert llm.kv_available == 8 * GIB
    assert llm.budget == llm.fixed + 8 * GIB
    text = shown(planned([changed(LLM, kv_cache_memory_bytes=8 * GIB)], "48GiB"))
    assert "kv_cache_memory_bytes is set" in text
    assert "gpu_memory_utilization" not in text


def test_adapters_need_memory() -> None:
    plain = planned([LLM], "48GiB").server("vllm-llm")
    adapted = planned([changed(LLM, lora_modules={"a": "b"}, max_lora_rank=64)], "48GiB").server("vllm-llm")
    assert adapted.weights > plain.weights


# --- problems and suggestions


def apply(servers: Sequence[Server], changes: Sequence[Change]) -> list[Server]:
    fields: dict[str, dict[str, Any]] = {server.name: {} for server in servers}
    for change in changes:
        fields[change.server][change.field] = json.loads(change.value)
    return [changed(server, **fields[server.name]) for server in servers]


def gpus_of(suggestion: Suggestion) -> int:
    """The number of GPUs of a suggestion's changes."""
    return 1 + max(
        (max(json.loads(change.value)) for change in suggestion.changes if change.field == "gpus"), default=0
    )


def require_that_all_help(servers: Sequence[Server], card: str) -> int:
    """Check each suggestion with a new plan. Returns the number of suggestions."""
    suggestions = [suggestion for suggestion in planned(servers, card).suggestions if suggestion.changes]
    for suggestion in suggestions:
        helped = planned(apply(servers, suggestion.changes), *[card] * gpus_of(suggestion))
        assert helped.fits, (card, suggestion.text, helped.problems)
        assert (gpus_of(suggestion) > 1) is suggestion.text.startswith(f"On {gpus_of(suggestion)} such GPUs, ")
    return len(suggestions)


def test_every_suggestion_makes_all_servers_fit() -> None:
    tried = 0
    for card in ("T4", "L4", "24GiB", "32GiB", "A100-40"):
        for fields in ({}, {"max_model_len": 131072}, {"max_num_seqs": 1024, "max_model_len": 131072}):
            tried += require_that_all_help([changed(LLM, **fields), EMBED], card)
    assert tried > 20


def test_suggestion_changes_both_servers_that_lack_memory() -> None:
    suggestions = planned(PAIR, "24GiB").suggestions
    for suggestion in suggestions:
        assert not suggestion.changes or {change.server for change in suggestion.changes} == {"vllm-llm", "vllm-embed"}
    on_one, moved, split, larger = (suggestion.text for suggestion in suggestions)
    assert on_one.startswith('vllm-llm: kv_cache_dtype = "fp8", ')
    assert split.startswith("On 2 such GPUs, vllm-llm: tensor_parallel_size = 2, gpus = [0, 1], ")
    assert moved.startswith("On 2 such GPUs, vllm-embed: gpus = [1], ")
    assert larger == "Unchanged, it fits on a GPU with 31.8 GiB, such as the RTX 5090."


def test_free_gpu_is_suggested_before_additional_gpus() -> None:
    texts = [suggestion.text for suggestion in planned(PAIR, "24GiB", "24GiB").suggestions]
    assert any(text.startswith("vllm-embed: gpus = [1], ") for text in texts)
    assert not any("such GPUs" in text for text in texts)


def test_servers_on_different_gpus_get_one_combined_suggestion() -> None:
    servers = [changed(LLM, max_model_len=131072), changed(LLM, name="twin", port=9, gpus=(1,), max_model_len=131072)]
    first, *_ = planned(servers, "24GiB", "24GiB").suggestions
    assert {change.server for change in first.changes} == {"vllm-llm", "twin"}
    assert planned(apply(servers, first.changes), "24GiB", "24GiB").fits


def test_fixed_kv_cache_is_allocated_no_share() -> None:
    servers = [changed(LLM, kv_cache_memory_bytes=22 * GIB), changed(EMBED, gpu_memory_utilization=0.2)]
    result = planned(servers, "48GiB")
    assert not result.fits
    shares, *_ = result.suggestions
    assert [(change.server, change.field) for change in shares.changes] == [("vllm-embed", "gpu_memory_utilization")]
    assert planned(apply(servers, shares.changes), "48GiB").fits


def test_plan_reports_when_no_change_helps() -> None:
    result = planned([changed(LLM, tensor_parallel_size=3, gpus=(0, 1, 2))], *["48GiB"] * 3)
    assert result.suggestions == ()
    assert "No change that was tried makes it fit" in shown(result)


def test_too_long_request_gets_the_longest_length_that_fits() -> None:
    result = planned([changed(LLM, max_model_len=131072, gpu_memory_utilization=0.6)], "48GiB")
    assert "one request of max_model_len 131,072 tokens needs" in result.problems[0]
    [first] = result.suggestions[0].changes
    assert first.field == "max_model_len"
    length = int(first.value)
    assert planned([changed(LLM, max_model_len=length, gpu_memory_utilization=0.6)], "48GiB").fits
    assert not planned([changed(LLM, max_model_len=length + 1024, gpu_memory_utilization=0.6)], "48GiB").fits


def test_auto_length_is_the_longest_that_fits() -> None:
    llm = changed(LLM, max_model_len="auto", gpu_memory_utilization=0.6)
    small, large = planned([llm], "48GiB"), planned([llm], "H200")
    assert small.fits, small.problems
    longest = small.servers[0].options.max_model_len
    assert planned([changed(llm, max_model_len=longest)], "48GiB").fits
    assert not planned([changed(llm, max_model_len=longest + 16)], "48GiB").fits
    assert large.servers[0].options.max_model_len == 131072, "the model's own window"


def test_auto_length_does_not_help_when_the_weights_do_not_fit() -> None:
    assert not planned([changed(LLM, max_model_len="auto")], "16GiB").fits


def test_smallest_sufficient_share_is_suggested() -> None:
    result = planned([changed(LLM, gpu_memory_utilization=0.45)], "48GiB")
    [share] = [
        float(suggestion.changes[0].value)
        for suggestion in result.suggestions
        if [change.field for change in suggestion.changes] == ["gpu_memory_utilization"]
    ]
    assert planned([changed(LLM, gpu_memory_utilization=share)], "48GiB").fits
    assert not planned([changed(LLM, gpu_memory_utilization=share - 0.01)], "48GiB").fits


def test_excessive_shares_are_a_problem_with_new_shares_suggested() -> None:
    servers = [changed(LLM, gpu_memory_utilization=0.92), changed(EMBED, gpu_memory_utilization=0.2)]
    result = planned(servers, "48GiB")
    assert "The last server would not start" in result.problems[0]
    assert result.gpus[0].free < 0
    [suggestion] = result.suggestions
    assert {change.server for change in suggestion.changes} == {"vllm-llm", "vllm-embed"}
    assert planned(apply(servers, suggestion.changes), "48GiB").fits


def test_cuda_contexts_count_in_addition_to_the_shares() -> None:
    servers = [changed(LLM, gpu_memory_utilization=0.9), changed(EMBED, gpu_memory_utilization=0.09)]
    result = planned(servers, "48GiB")
    assert sum(share for _, share in result.gpus[0].shares) < result.gpus[0].total
    assert "1.30 GiB to CUDA contexts" in result.problems[0]


def test_two_models_too_large_for_one_card_get_two() -> None:
    servers = [LLM, changed(LLM, name="twin", port=9)]
    [elsewhere, split] = planned(servers, "32GiB").suggestions
    assert elsewhere.text == "On 2 such GPUs, vllm-llm: gpus = [1]."
    assert "tensor_parallel_size" in split.text
    assert require_that_all_help(servers, "32GiB") == 2


def test_length_above_the_models_maximum_is_a_problem() -> None:
    result = planned([changed(LLM, max_model_len=200000)], "H200")
    assert result.problems == ("vllm-llm: max_model_len is 200,000, but the model supports 131,072 tokens.",)


def test_parallel_sizes_must_divide_the_heads_and_have_gpus() -> None:
    result = planned([changed(LLM, tensor_parallel_size=3, gpus=(0, 1, 2))], "48GiB", "48GiB", "48GiB")
    assert "40 attention heads cannot be divided among 3 GPUs" in result.problems[0]
    result = planned([changed(LLM, tensor_parallel_size=2, gpus="all")], "48GiB")
    assert "its parallel sizes need 2 GPUs, and it has 1" in result.problems[0]
    assert [suggestion.text for suggestion in result.suggestions] == ["On 2 such GPUs, vllm-llm: gpus = [0, 1]."]


def test_missing_gpu_is_a_problem() -> None:
    result = planned([changed(LLM, gpus=(3,))], "48GiB")
    assert "it needs GPU 3, which does not exist" in result.problems[0]
    assert [suggestion.text for suggestion in result.suggestions] == ["vllm-llm: gpus = [0]."]


def test_plan_raises_without_gpus_or_gpu_servers() -> None:
    with pytest.raises(LaunchError, match="no GPU to plan for"):
        plan(PAIR, [], known_here)
    with pytest.raises(LaunchError, match="nothing to plan"):
        planned([PRESETS["vllm-llm-cpu"]], "48GiB")


def test_cpu_servers_are_skipped_with_a_note() -> None:
    result = planned([LLM, PRESETS["vllm-embed-cpu"]], "48GiB")
    assert [server.name for server in result.servers] == ["vllm-llm"]
    assert any(note.startswith("vllm-embed-cpu has no GPUs") for note in result.notes)


# --- rendering


def test_idle_memory_is_noted() -> None:
    assert any("the KV cache would have" in note for note in planned(PAIR, "80GiB").notes)


def test_shared_gpu_note_recommends_a_sequential_start() -> None:
    assert any("one after the other" in note for note in planned(PAIR, "80GiB").notes)
    assert not any("one after the other" in note for note in planned([LLM], "80GiB").notes)


def test_unknown_quantization_is_noted() -> None:
    def unsupported(name: str, revision: str | None) -> Model:
        return Model(
            name, {**known.CONFIGS[EXAONE], "quantization_config": {"quant_method": "aqlm"}}, None, None, "a test"
        )

    result = plan([LLM], [named("80GiB")], unsupported)
    assert any("quantization is unknown" in note for note in result.notes)


def test_computed_weights_are_noted_with_their_source(tmp_path: Path) -> None:
    assert any(
        "computed from its published figures; once its files are in the hub's cache" in note
        for note in plan(PAIR, [named("80GiB")], published).notes
    )
    (tmp_path / "config.json").write_text(json.dumps(known.CONFIGS[EXAONE]))
    [note, *_] = plan([changed(LLM, model=str(tmp_path))], [named("80GiB")]).notes
    assert note == (
        f"vllm-llm: the weights are computed from the config.json in the folder {tmp_path}; "
        "once its weights exist, their sizes are used."
    )


@pytest.mark.parametrize("mounted", ["/models", "/models:ro"])
def test_container_path_is_mapped_to_the_folder_of_its_volume(tmp_path: Path, mounted: str) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "config.json").write_text(json.dumps(known.CONFIGS[EXAONE]))
    server = changed(LLM, model="/models/chat", volumes={"a-volume": "/models/chat", str(tmp_path): mounted})
    assert plan([server], [named("80GiB")]).server("vllm-llm").model == str(tmp_path / "chat")


def test_ignored_flags_are_noted() -> None:
    notes = planned([changed(LLM, extra_args=("--cpu-offload-gb", "4", "--seed", "1"))], "80GiB").notes
    assert "vllm-llm: --cpu-offload-gb changes its memory. These figures do not include that." in notes


def test_vision_encoder_is_noted_as_not_counted() -> None:
    def seeing(name: str, revision: str | None) -> Model:
        return Model(name, {"text_config": known.CONFIGS[EXAONE], "vision_config": {}}, None, None, "a test")

    assert any("vision encoder" in note for note in plan([LLM], [named("H200")], seeing).notes)


def test_plan_is_serializable_as_json() -> None:
    content = json.loads(json.dumps(planned(PAIR, "24GiB").to_json()))
    assert content["fits"] is False
    assert content["problems"]
    assert content["servers"][0]["name"] == "vllm-llm"
    assert content["suggestions"][0]["text"]


def test_render_shows_the_parts_of_a_plan_that_fits() -> None:
    text = shown(planned(PAIR, "48GiB"))
    for words in ("It fits.", "weights", "16.9 GiB", "KV cache size", "as vLLM logs it", KURE, "the model has none"):
        assert words in text


def test_render_shows_suggestions_for_a_plan_that_does_not_fit() -> None:
    text = shown(planned(PAIR, "24GiB"))
    assert "Does not fit. vllm-embed: its share is" in text
    assert "too little by  0.47 GiB" in text
    assert "-0" not in text
    assert "Any one of these makes it fit:" in text
    assert "tensor_parallel_size = 2" in text
