"""Reading a model for the plan: config.json, weight files, and their location."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vllm_launch.plan import architecture, checkpoint, find, models
from vllm_launch.presets import EXAONE, KURE
from vllm_launch.runtimes.base import LaunchError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}


def kinds(config: Mapping[str, Any]) -> str:
    return "".join("L" if kind == "sliding" else "G" for kind in architecture.read({**LLAMA, **config}, "m").kinds)


def test_model_without_window_has_global_layers() -> None:
    assert kinds({}) == "GGGG"


def test_window_without_pattern_applies_to_every_layer() -> None:
    assert kinds({"sliding_window": 256}) == "LLLL"


def test_disabled_window_is_ignored() -> None:
    assert kinds({"sliding_window": 256, "use_sliding_window": False}) == "GGGG"


def test_window_can_start_at_a_layer() -> None:
    assert kinds({"sliding_window": 256, "use_sliding_window": True, "max_window_layers": 2}) == "GGLL"


def test_layer_types_take_precedence() -> None:
    listed = ["full_attention", "sliding_attention", "full_attention", "chunked_attention"]
    assert kinds({"layer_types": listed, "sliding_window": 256, "sliding_window_pattern": 2}) == "GLGG"


def test_pattern_is_a_number_or_letters_with_a_global_last_layer() -> None:
    assert kinds({"sliding_window": 256, "sliding_window_pattern": 2}) == "LGLG"
    assert kinds({"sliding_window": 256, "sliding_window_pattern": "LLG"}) == "LLGG"


def test_family_default_pattern_applies_without_a_pattern() -> None:
    assert kinds({"model_type": "gemma2", "sliding_window": 256}) == "LGLG"
    assert kinds({"model_type": "gemma3_text", "sliding_window": 256, "num_hidden_layers": 7}) == "LLLLLGL"


def test_state_space_model_is_rejected() -> None:
    with pytest.raises(LaunchError, match=r"jamba has layers of kind 'mamba'.*GPU KV cache size"):
        architecture.read({**LLAMA, "layer_types": ["mamba", "full_attention"]}, "jamba")


def test_config_without_a_size_is_rejected_with_the_key() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "num_hidden_layers"}
    with pytest.raises(LaunchError, match=r"config.json of mine has no 'num_hidden_layers'"):
        architecture.read(config, "mine")


def test_text_config_of_a_vision_model_is_used() -> None:
    shape = architecture.read({"model_type": "gemma3", "text_config": {**LLAMA, "head_dim": 32}}, "m")
    assert (shape.layers, shape.head_size, shape.dtype) == (4, 32, "bfloat16")


def test_multi_query_has_one_kv_head_and_the_default_is_all() -> None:
    no_groups = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert architecture.read(no_groups, "m").kv_heads == 4
    assert architecture.read({**no_groups, "multi_query": True}, "m").kv_heads == 1


def test_roberta_length_excludes_two_position_rows() -> None:
    shape = architecture.read({**LLAMA, "model_type": "xlm-roberta", "max_position_embeddings": 8194}, "m")
    assert shape.max_len == 8192
    assert shape.positions == 8194
    assert shape.encoder_only


# --- weight files


def write(path: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> None:
    header = {"__metadata__": {"format": "pt"}} | {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


TENSORS: dict[str, tuple[str, list[int]]] = {
    "model.embed_tokens.weight": ("F32", [1000, 64]),
    "model.layers.0.self_attn.q_proj.weight": ("F32", [64, 64]),
    "model.layers.0.input_layernorm.weight": ("F32", [64]),
    "model.layers.1.mlp.up_proj.qweight": ("I32", [64, 16]),
    "model.layers.1.mlp.up_proj.weight_scale": ("F32", [16, 1]),
    "model.layers.9.mtp.weight": ("F32", [5000, 5000]),
    "model.norm.weight": ("F32", [64]),
    "lm_head.weight": ("F32", [1000, 64]),
}


def test_file_sizes_are_converted_to_the_model_type(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", TENSORS)
    found = checkpoint.read(tmp_path)
    assert found is not None
    weights = checkpoint.weights(found, architecture.read(LLAMA, "m"), dtype_bytes=2)
    assert weights.embedding.split == weights.head.split == 1000 * 64 * 2
    assert (weights.layers[0].split, weights.layers[0].whole) == (64 * 64 * 2, 64 * 2)
    assert weights.layers[1].split == 64 * 16 * 4 + 16 * 4  # packed weights and 32-bit scales are not converted
    assert weights.other.whole == 64 * 2
    assert weights.source == "files"


def test_tied_output_matrix_is_counted_once(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", TENSORS)
    found = checkpoint.read(tmp_path)
    assert found is not None
    shape = architecture.read({**LLAMA, "tie_word_embeddings": True}, "m")
    assert checkpoint.weights(found, shape, 2).head.split == 0


def test_all_files_of_the_index_are_read(tmp_path: Path) -> None:
    write(tmp_path / "model-1.safetensors", {"a": ("BF16", [2, 3])})
    write(tmp_path / "model-2.safetensors", {"b": ("BF16", [4])})
    write(tmp_path / "consolidated.safetensors", {"c": ("BF16", [99])})
    index = {"metadata": {"total_size": 20}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = checkpoint.read(tmp_path)
    assert found is not None
    assert [tensor.name for tensor in found.tensors] == ["a", "b"]


def test_index_alone_yields_the_total(tmp_path: Path) -> None:
    index = {"metadata": {"total_size": 20}, "weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoint.read(tmp_path) == checkpoint.Checkpoint((), 20)


def test_folder_without_weights_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 20, (5).to_bytes(8, "little") + b"{nope"])
def test_broken_weight_file_is_rejected_with_its_folder(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(LaunchError, match=f"The files of {tmp_path}"):
        find(str(tmp_path))


# --- location


def snapshot(cache: Path, name: str, revision: str, hidden: int, main: bool = False) -> Path:
    folder = cache / ("models--" + name.replace("/", "--"))
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "snapshots" / revision / "config.json").write_text(json.dumps({**LLAMA, "hidden_size": hidden}))
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return folder / "snapshots" / revision


def test_find_reads_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    model = find(str(tmp_path))
    assert model.config == LLAMA
    assert model.max_seq_length == 512
    assert model.source == f"the folder {tmp_path}"


def test_find_rejects_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=f"no config.json in {tmp_path} on this machine"):
        find(str(tmp_path))


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_find_reads_main_in_the_hub_cache(variable: str, tmp_path: Path) -> None:
    cache = tmp_path if variable == "HF_HUB_CACHE" else tmp_path / "hub"
    snapshot(cache, "org/model", "aaa", 1, main=True)
    snapshot(cache, "org/model", "bbb", 2)
    model = find("org/model", env={variable: str(tmp_path)})
    assert model.config["hidden_size"] == 1
    assert model.source == "the hub's cache"


def test_find_reads_only_the_given_revision(tmp_path: Path) -> None:
    snapshot(tmp_path, "org/model", "aaa", 1, main=True)
    snapshot(tmp_path, "org/model", "bbb", 2)
    assert find("org/model", "bbb", {"HF_HUB_CACHE": str(tmp_path)}).config["hidden_size"] == 2
    with pytest.raises(LaunchError):
        find("org/model", "ccc", {"HF_HUB_CACHE": str(tmp_path)})


def test_hub_cache_takes_precedence_over_known_models(tmp_path: Path) -> None:
    snapshot(tmp_path, KURE, "aaa", 7, main=True)
    assert find(KURE, env={"HF_HUB_CACHE": str(tmp_path)}).config["hidden_size"] == 7


@pytest.mark.parametrize("name", [EXAONE, KURE])
def test_production_pair_is_known_without_files(name: str, tmp_path: Path) -> None:
    model = find(name, env={"HF_HUB_CACHE": str(tmp_path)})
    assert architecture.read(model.config, name).layers in (24, 64)
    assert model.checkpoint is None


def test_unknown_model_error_contains_the_download_command(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"hf download org/unknown config.json, or .*plan --download"):
        find("org/unknown", env={"HF_HUB_CACHE": str(tmp_path)})


def test_cache_folder_equals_that_of_the_hub_library() -> None:
    assert models.cache({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert models.cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert models.cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert models.cache({}) == Path.home() / ".cache" / "huggingface" / "hub"
