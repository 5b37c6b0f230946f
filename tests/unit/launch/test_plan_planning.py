"""Plans as people ask for them: the production pair on common cards, refusals, and changes that do help."""

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
    """Whatever is in the cache of the machine that runs the tests."""
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
def test_the_pair_fits_on_one_card_of_48_gib_and_more(card: str) -> None:
    result = planned(PAIR, card)
    assert result.fits, result.problems
    assert result.suggestions == ()
    assert [share for share, _ in result.gpus[0].shares] == ["vllm-llm", "vllm-embed"]


@pytest.mark.parametrize("card", ["L4", "RTX 4090", "24GiB"])
def test_the_pair_does_not_fit_on_24_gib_and_is_told_what_would(card: str) -> None:
    result = planned(PAIR, card)
    assert not result.fits
    assert [problem.partition(":")[0] for problem in result.problems] == ["vllm-llm", "vllm-embed"]
    assert "vllm-embed: its share is" in result.problems[1]
    assert result.suggestions


def test_all_that_a_server_takes_adds_up_to_its_share() -> None:
    llm = planned(PAIR, "48GiB").server("vllm-llm")
    assert llm.fixed + llm.kv_available == llm.budget
    assert llm.budget == pytest.approx(0.85 * 48 * GIB * 0.98, abs=2)


def test_the_kv_cache_is_told_as_vllm_logs_it() -> None:
    llm = planned(PAIR, "48GiB").server("vllm-llm")
    cache = llm.kv_cache
    assert cache is not None
    assert cache.token_bytes == 64 * 4096
    assert cache.late_token_bytes == 16 * 4096
    assert cache.tokens == int(cache.concurrency * 32768)
    assert dict(cache.sequences)[32768] == int((llm.kv_available - cache.least_bytes) // cache.request_bytes) + 1


def test_an_embedding_model_has_no_kv_cache_and_says_what_it_leaves() -> None:
    embed = planned(PAIR, "80GiB").server("vllm-embed")
    assert embed.kv_cache is None
    assert embed.needs == embed.fixed
    assert 0 < embed.fixed < embed.budget


def test_two_gpus_hold_half_of_the_weights_each() -> None:
    one = planned([LLM], "48GiB").server("vllm-llm")
    two = planned([changed(LLM, tensor_parallel_size=2, gpus=(0, 1))], "48GiB", "48GiB").server("vllm-llm")
    assert two.gpus == (0, 1)
    assert two.weights == pytest.approx(one.weights / 2, rel=0.001)
    assert one.kv_cache is not None
    assert two.kv_cache is not None
    assert two.kv_cache.request_bytes * 2 == one.kv_cache.request_bytes


def test_the_smallest_gpu_of_a_server_decides() -> None:
    mixed = planned([changed(LLM, tensor_parallel_size=2, gpus=(0, 1))], "80GiB", "48GiB").server("vllm-llm")
    even = planned([changed(LLM, tensor_parallel_size=2, gpus=(0, 1))], "48GiB", "48GiB").server("vllm-llm")
    assert mixed.kv_available == even.kv_available


def test_a_fixed_kv_cache_makes_the_share() -> None:
    llm = planned([changed(LLM, kv_cache_memory_bytes=8 * GIB)], "48GiB").server("vllm-llm")
    assert llm.kv_available == 8 * GIB
    assert llm.budget == llm.fixed + 8 * GIB
    text = shown(planned([changed(LLM, kv_cache_memory_bytes=8 * GIB)], "48GiB"))
    assert "kv_cache_memory_bytes is set" in text
    assert "gpu_memory_utilization" not in text


def test_adapters_take_their_room() -> None:
    plain = planned([LLM], "48GiB").server("vllm-llm")
    adapted = planned([changed(LLM, lora_modules={"a": "b"}, max_lora_rank=64)], "48GiB").server("vllm-llm")
    assert adapted.weights > plain.weights


# --- refusals, and what helps


def apply(servers: Sequence[Server], changes: Sequence[Change]) -> list[Server]:
    fields: dict[str, dict[str, Any]] = {server.name: {} for server in servers}
    for change in changes:
        fields[change.server][change.field] = json.loads(change.value)
    return [changed(server, **fields[server.name]) for server in servers]


def gpus_of(suggestion: Suggestion) -> int:
    """How many GPUs its changes take."""
    return 1 + max(
        (max(json.loads(change.value)) for change in suggestion.changes if change.field == "gpus"), default=0
    )


def require_that_all_help(servers: Sequence[Server], card: str) -> int:
    """Each suggested change, planned again, makes everything fit; how many there were."""
    suggestions = [suggestion for suggestion in planned(servers, card).suggestions if suggestion.changes]
    for suggestion in suggestions:
        helped = planned(apply(servers, suggestion.changes), *[card] * gpus_of(suggestion))
        assert helped.fits, (card, suggestion.text, helped.problems)
        assert (gpus_of(suggestion) > 1) is suggestion.text.startswith(f"On {gpus_of(suggestion)} such GPUs, ")
    return len(suggestions)


def test_every_change_that_is_suggested_makes_all_servers_fit() -> None:
    tried = 0
    for card in ("T4", "L4", "24GiB", "32GiB", "A100-40"):
        for fields in ({}, {"max_model_len": 131072}, {"max_num_seqs": 1024, "max_model_len": 131072}):
            tried += require_that_all_help([changed(LLM, **fields), EMBED], card)
    assert tried > 20


def test_two_servers_that_both_lack_memory_are_told_what_both_have_to_change() -> None:
    suggestions = planned(PAIR, "24GiB").suggestions
    for suggestion in suggestions:
        assert not suggestion.changes or {change.server for change in suggestion.changes} == {"vllm-llm", "vllm-embed"}
    on_one, moved, split, larger = (suggestion.text for suggestion in suggestions)
    assert on_one.startswith('vllm-llm: kv_cache_dtype = "fp8", ')
    assert split.startswith("On 2 such GPUs, vllm-llm: tensor_parallel_size = 2, gpus = [0, 1], ")
    assert moved.startswith("On 2 such GPUs, vllm-embed: gpus = [1], ")
    assert larger == "Unchanged, it fits on a GPU with 31.8 GiB, as the RTX 5090 has."


def test_a_gpu_that_is_there_and_free_is_used_before_more_are_asked_for() -> None:
    texts = [suggestion.text for suggestion in planned(PAIR, "24GiB", "24GiB").suggestions]
    assert any(text.startswith("vllm-embed: gpus = [1], ") for text in texts)
    assert not any("such GPUs" in text for text in texts)


def test_servers_on_different_gpus_are_told_one_change_for_all_of_them() -> None:
    servers = [changed(LLM, max_model_len=131072), changed(LLM, name="twin", port=9, gpus=(1,), max_model_len=131072)]
    first, *_ = planned(servers, "24GiB", "24GiB").suggestions
    assert {change.server for change in first.changes} == {"vllm-llm", "twin"}
    assert planned(apply(servers, first.changes), "24GiB", "24GiB").fits


def test_a_fixed_kv_cache_is_dealt_no_share() -> None:
    servers = [changed(LLM, kv_cache_memory_bytes=22 * GIB), changed(EMBED, gpu_memory_utilization=0.2)]
    result = planned(servers, "48GiB")
    assert not result.fits
    shares, *_ = result.suggestions
    assert [(change.server, change.field) for change in shares.changes] == [("vllm-embed", "gpu_memory_utilization")]
    assert planned(apply(servers, shares.changes), "48GiB").fits


def test_where_nothing_helps_it_is_said() -> None:
    result = planned([changed(LLM, tensor_parallel_size=3, gpus=(0, 1, 2))], *["48GiB"] * 3)
    assert result.suggestions == ()
    assert "Nothing that was tried would make it fit" in shown(result)


def test_a_request_that_is_too_long_is_told_the_longest_that_fits() -> None:
    result = planned([changed(LLM, max_model_len=131072, gpu_memory_utilization=0.6)], "48GiB")
    assert "one request of max_model_len 131,072 tokens needs" in result.problems[0]
    [first] = result.suggestions[0].changes
    assert first.field == "max_model_len"
    length = int(first.value)
    assert planned([changed(LLM, max_model_len=length, gpu_memory_utilization=0.6)], "48GiB").fits
    assert not planned([changed(LLM, max_model_len=length + 1024, gpu_memory_utilization=0.6)], "48GiB").fits


def test_a_length_that_is_left_to_vllm_is_the_longest_that_fits() -> None:
    llm = changed(LLM, max_model_len="auto", gpu_memory_utilization=0.6)
    small, large = planned([llm], "48GiB"), planned([llm], "H200")
    assert small.fits, small.problems
    longest = small.servers[0].options.max_model_len
    assert planned([changed(llm, max_model_len=longest)], "48GiB").fits
    assert not planned([changed(llm, max_model_len=longest + 16)], "48GiB").fits
    assert large.servers[0].options.max_model_len == 131072, "the model's own window"


def test_a_length_that_is_left_to_vllm_makes_no_room_for_weights() -> None:
    assert not planned([changed(LLM, max_model_len="auto")], "16GiB").fits


def test_the_smallest_sufficient_share_is_suggested() -> None:
    result = planned([changed(LLM, gpu_memory_utilization=0.45)], "48GiB")
    [share] = [
        float(suggestion.changes[0].value)
        for suggestion in result.suggestions
        if [change.field for change in suggestion.changes] == ["gpu_memory_utilization"]
    ]
    assert planned([changed(LLM, gpu_memory_utilization=share)], "48GiB").fits
    assert not planned([changed(LLM, gpu_memory_utilization=share - 0.01)], "48GiB").fits


def test_shares_that_exceed_the_card_are_a_problem_and_get_others() -> None:
    servers = [changed(LLM, gpu_memory_utilization=0.92), changed(EMBED, gpu_memory_utilization=0.2)]
    result = planned(servers, "48GiB")
    assert "The server that starts last would be refused" in result.problems[0]
    assert result.gpus[0].free < 0
    [suggestion] = result.suggestions
    assert {change.server for change in suggestion.changes} == {"vllm-llm", "vllm-embed"}
    assert planned(apply(servers, suggestion.changes), "48GiB").fits


def test_the_cuda_contexts_have_to_fit_beside_the_shares() -> None:
    servers = [changed(LLM, gpu_memory_utilization=0.9), changed(EMBED, gpu_memory_utilization=0.09)]
    result = planned(servers, "48GiB")
    assert sum(share for _, share in result.gpus[0].shares) < result.gpus[0].total
    assert "1.30 GiB to CUDA contexts" in result.problems[0]


def test_two_models_that_can_never_share_a_card_are_told_to_use_two() -> None:
    servers = [LLM, changed(LLM, name="twin", port=9)]
    [elsewhere, split] = planned(servers, "32GiB").suggestions
    assert elsewhere.text == "On 2 such GPUs, vllm-llm: gpus = [1]."
    assert "tensor_parallel_size" in split.text
    assert require_that_all_help(servers, "32GiB") == 2


def test_a_longer_text_than_the_model_takes_is_a_problem() -> None:
    result = planned([changed(LLM, max_model_len=200000)], "H200")
    assert result.problems == ("vllm-llm: max_model_len is 200,000, and the model takes 131,072 tokens.",)


def test_parallel_sizes_have_to_divide_the_heads_and_to_have_gpus() -> None:
    result = planned([changed(LLM, tensor_parallel_size=3, gpus=(0, 1, 2))], "48GiB", "48GiB", "48GiB")
    assert "40 attention heads can't be split among 3 GPUs" in result.problems[0]
    result = planned([changed(LLM, tensor_parallel_size=2, gpus="all")], "48GiB")
    assert "its parallel sizes need 2 GPUs, and it has 1" in result.problems[0]
    assert [suggestion.text for suggestion in result.suggestions] == ["On 2 such GPUs, vllm-llm: gpus = [0, 1]."]


def test_a_gpu_that_is_not_there_is_a_problem() -> None:
    result = planned([changed(LLM, gpus=(3,))], "48GiB")
    assert "it is to run on GPU 3, which is not there" in result.problems[0]
    assert [suggestion.text for suggestion in result.suggestions] == ["vllm-llm: gpus = [0]."]


def test_there_has_to_be_something_to_plan() -> None:
    with pytest.raises(LaunchError, match="no GPU to plan for"):
        plan(PAIR, [], known_here)
    with pytest.raises(LaunchError, match="nothing to plan"):
        planned([PRESETS["vllm-llm-cpu"]], "48GiB")


def test_servers_on_the_cpu_are_left_out_with_a_note() -> None:
    result = planned([LLM, PRESETS["vllm-embed-cpu"]], "48GiB")
    assert [server.name for server in result.servers] == ["vllm-llm"]
    assert any(note.startswith("vllm-embed-cpu has no GPUs") for note in result.notes)


# --- telling it


def test_memory_that_lies_idle_is_told() -> None:
    assert any("the KV cache would have" in note for note in planned(PAIR, "80GiB").notes)


def test_servers_on_one_gpu_are_to_start_one_after_the_other() -> None:
    assert any("one after the other" in note for note in planned(PAIR, "80GiB").notes)
    assert not any("one after the other" in note for note in planned([LLM], "80GiB").notes)


def test_an_unknown_quantisation_is_told() -> None:
    def strange(name: str, revision: str | None) -> Model:
        return Model(
            name, {**known.CONFIGS[EXAONE], "quantization_config": {"quant_method": "aqlm"}}, None, None, "a test"
        )

    result = plan([LLM], [named("80GiB")], strange)
    assert any("quantisation is unknown" in note for note in result.notes)


def test_weights_that_are_computed_are_told_with_what_from(tmp_path: Path) -> None:
    assert any(
        "computed from its published figures; once its files are in the hub's cache" in note
        for note in plan(PAIR, [named("80GiB")], published).notes
    )
    (tmp_path / "config.json").write_text(json.dumps(known.CONFIGS[EXAONE]))
    [note, *_] = plan([changed(LLM, model=str(tmp_path))], [named("80GiB")]).notes
    assert note == (
        f"vllm-llm: the weights are computed from the config.json in the folder {tmp_path}; "
        "once its weights are there too, their sizes count."
    )


@pytest.mark.parametrize("mounted", ["/models", "/models:ro"])
def test_a_folder_of_a_containers_volume_is_found_where_this_machine_has_it(tmp_path: Path, mounted: str) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "config.json").write_text(json.dumps(known.CONFIGS[EXAONE]))
    server = changed(LLM, model="/models/chat", volumes={"a-volume": "/models/chat", str(tmp_path): mounted})
    assert plan([server], [named("80GiB")]).server("vllm-llm").model == str(tmp_path / "chat")


def test_flags_that_are_not_counted_are_told() -> None:
    notes = planned([changed(LLM, extra_args=("--cpu-offload-gb", "4", "--seed", "1"))], "80GiB").notes
    assert "vllm-llm: --cpu-offload-gb changes what it takes, and is not in these figures." in notes


def test_a_vision_encoders_need_is_told_not_to_be_counted() -> None:
    def seeing(name: str, revision: str | None) -> Model:
        return Model(name, {"text_config": known.CONFIGS[EXAONE], "vision_config": {}}, None, None, "a test")

    assert any("vision encoder" in note for note in plan([LLM], [named("H200")], seeing).notes)


def test_a_plan_is_json() -> None:
    content = json.loads(json.dumps(planned(PAIR, "24GiB").to_json()))
    assert content["fits"] is False
    assert content["problems"]
    assert content["servers"][0]["name"] == "vllm-llm"
    assert content["suggestions"][0]["text"]


def test_a_plan_that_fits_is_shown_with_what_it_is_made_of() -> None:
    text = shown(planned(PAIR, "48GiB"))
    for words in ("It fits.", "weights", "16.9 GiB", "KV cache size", "as vLLM logs it", KURE, "a model without one"):
        assert words in text


def test_a_plan_that_does_not_fit_is_shown_with_the_ways_out() -> None:
    text = shown(planned(PAIR, "24GiB"))
    assert "Does not fit. vllm-embed: its share is" in text
    assert "too little by  0.47 GiB" in text
    assert "-0" not in text
    assert "Any one of these would make it fit:" in text
    assert "tensor_parallel_size = 2" in text
