"""The properties of a model that determine its memory, from its config.json. It reads no files.

The keys are those of files on the hub. Their interpretation follows vLLM 0.32: heads, head size, length and MLA as in
`transformers_utils/model_arch_config_convertor.py`, windows as in the classes under `model_executor/models`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..runtimes.base import LaunchError

Config: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["full", "sliding"]

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "nomic_bert", "new", "gte", "mpnet")
"""Encoder models, which attend in both directions: no KV cache (vLLM: `AttentionType.ENCODER_ONLY`)."""

# Without `layer_types`, every n-th layer is global: the defaults of transformers' configuration classes.
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "exaone4": 4}
_NOT_GATED = (*ENCODERS, "gpt2", "gpt_neox", "opt", "falcon", "phi", "starcoder2", "bloom", "mpt", "gpt_bigcode")
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text")
_QK_NORMS = ("qwen3", "qwen3_moe", "exaone4", "gemma3", "gemma3_text", "olmo2")
_QKV_BIAS = ("qwen2", "qwen2_moe")
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
# Layers without keys and values per token: their state has a different size (vLLM: `MambaSpec`).
_STATES = ("linear_attention", "mamba", "mamba2", "conv", "recurrent")


@dataclass(frozen=True, slots=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

    q_rank: int | None
    kv_rank: int
    nope: int
    """Dimensions of a head without position encoding."""
    rope: int
    """Dimensions of a head with position encoding."""
    value: int


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts instead of the feed-forward layer."""

    count: int
    width: int
    """The inner dimension of one expert."""
    shared_width: int
    """The total inner dimension of the shared experts, which process every token."""
    layers: frozenset[int]
    """The layers with experts. The other layers are dense."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix of a layer. Quantization may pack it."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    """The number of copies in the layer: one for each expert."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a model."""

    model_type: str
    dtype: str
    """The type in its file: `bfloat16`, `float16`, `float32`."""
    hidden: int
    width: int
    """The inner dimension of the feed-forward layers."""
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    positions: int
    """Rows of a learned position table; 0 without one."""
    types: int
    max_len: int
    """The longest input by its config.json, in tokens."""
    kinds: tuple[Kind, ...]
    """The kind of each layer's attention."""
    window: int
    """The tokens of a sliding layer's window."""
    tied: bool
    """Whether the output matrix is the input embedding."""
    encoder_only: bool
    mla: Mla | None
    experts: Experts | None
    quantization: Config | None
    """The `quantization_config` of its file."""

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.kinds)

    def linears(self, layer: int) -> Iterator[Linear]:
        """The matrices of a layer."""
        yield from self._latent() if self.mla else self._attention()
        yield from self._feed_forward(layer)

    def norms(self) -> int:
        """The number of parameters in a layer's norms, which are never quantized."""
        if self.encoder_only:
            return 2 * 2 * self.hidden
        count = 4 if self.model_type in _FOUR_NORMS else 2
        heads = 2 * self.head_size if self.model_type in _QK_NORMS else 0
        latent = (self.mla.kv_rank + (self.mla.q_rank or 0)) if self.mla else 0
        return count * self.hidden + heads + latent

    def _attention(self) -> Iterator[Linear]:
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        bias = self.encoder_only or self.model_type in _QKV_BIAS
        yield Linear("self_attn.q_proj", self.hidden, queries, bias)
        yield Linear("self_attn.k_proj", self.hidden, keys, bias)
        yield Linear("self_attn.v_proj", self.hidden, keys, bias)
        yield Linear("self_attn.o_proj", queries, self.hidden, self.encoder_only)

    def _latent(self) -> Iterator[Linear]:
        assert self.mla is not None
        queries = self.heads * (self.mla.nope + self.mla.rope)
        if self.mla.q_rank:
            yield Linear("self_attn.q_a_proj", self.hidden, self.mla.q_rank)
        yield Linear("self_attn.q_proj", self.mla.q_rank or self.hidden, queries)
        yield Linear("self_attn.kv_a_proj_with_mqa", self.hidden, self.mla.kv_rank + self.mla.rope)
        yield Linear("self_attn.kv_b_proj", self.mla.kv_rank, self.heads * (self.mla.nope + self.mla.value))
        yield Linear("self_attn.o_proj", self.heads * self.mla.value, self.hidden)

    def _feed_forward(self, layer: int) -> Iterator[Linear]:
        if self.experts is None or layer not in self.experts.layers:
            yield from self._gated("mlp", self.width)
            return
        yield Linear("mlp.gate", self.hidden, self.experts.count)
        yield from self._gated("mlp.experts", self.experts.width, self.experts.count)
        if self.experts.shared_width:
            yield from self._gated("mlp.shared_experts", self.experts.shared_width)

    def _gated(self, name: str, width: int, copies: int = 1) -> Iterator[Linear]:
        if self.model_type not in _NOT_GATED:
            yield Linear(f"{name}.gate_proj", self.hidden, width, copies=copies)
        yield Linear(f"{name}.up_proj", self.hidden, width, self.encoder_only, copies)
        yield Linear(f"{name}.down_proj", width, self.hidden, self.encoder_only, copies)


def read(config: Config, name: str) -> Architecture:
    """The architecture in a config.json.

    `name`: the model's name, for messages. Raises `LaunchError` if a key is missing or a kind of layer is unknown.
    """
    text: Config = config.get("text_config") or config
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    encoder_only = model_type in ENCODERS
    heads = _number(text, name, "num_attention_heads", "n_head", "n_heads")
    hidden = _number(text, name, "hidden_size", "n_embd", "d_model", "dim")
    layers = _number(text, name, "num_hidden_layers", "n_layer", "n_layers")
    kinds, window = _kinds(text, model_type, layers, name)
    mla = _mla(text)
    return Architecture(
        model_type=model_type,
        dtype=str(_first(text, "dtype", "torch_dtype") or _first(config, "dtype", "torch_dtype") or "float32"),
        hidden=hidden,
        width=int(_first(text, "intermediate_size", "n_inner", "ffn_dim", "hidden_dim") or 4 * hidden),
        heads=heads,
        kv_heads=1 if text.get("multi_query") else int(_first(text, *_KV_HEADS) or heads),
        head_size=mla.kv_rank + mla.rope if mla else int(_first(text, "head_dim") or hidden // heads),
        vocabulary=_number(text, name, "vocab_size"),
        positions=int(text.get("max_position_embeddings", 0)) if encoder_only else 0,
        types=int(text.get("type_vocab_size", 0)) if encoder_only else 0,
        max_len=_max_len(text, model_type),
        kinds=kinds,
        window=window,
        tied=bool(_first(text, "tie_word_embeddings", default=config.get("tie_word_embeddings", _ties(model_type)))),
        encoder_only=encoder_only,
        mla=mla,
        experts=_experts(text, layers),
        quantization=config.get("quantization_config") or text.get("quantization_config"),
    )


def _first(config: Config, *names: str, default: Any = None) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), default)


def _number(config: Config, name: str, *keys: str) -> int:
    value = _first(config, *keys)
    if not isinstance(value, int) or value < 1:
        raise LaunchError(f"The config.json of {name} has no {keys[0]!r}: its memory cannot be computed.")
    return value


def _ties(model_type: str) -> bool:
    return model_type.startswith("gemma")  # the only family here whose default is tied


def _kinds(text: Config, model_type: str, layers: int, name: str) -> tuple[tuple[Kind, ...], int]:
    """The kind of each layer's attention, and the window of the sliding layers."""
    window = text.get("sliding_window")
    listed = _first(text, "layer_types", "layers_block_type")
    if listed is not None:
        state = next((kind for kind in listed if kind in _STATES), None)
        if state:
            raise LaunchError(
                f"{name} has layers of kind {state!r}, whose memory this plan cannot compute. "
                "vLLM logs the size of its KV cache ('GPU KV cache size') when it starts."
            )
        # By default, chunked attention is cached like full attention (vllm/config/vllm.py, `_post_init`).
        return tuple(_kind(kind == "sliding_attention") for kind in listed), int(window or 0)
    if not window or text.get("use_sliding_window") is False:
        return (_kind(False),) * layers, 0
    if text.get("use_sliding_window"):
        first = int(text.get("max_window_layers", 0))
        return tuple(_kind(layer >= first) for layer in range(layers)), int(window)
    return tuple(_by_pattern(text, model_type, layers)), int(window)


def _by_pattern(text: Config, model_type: str, layers: int) -> Iterator[Kind]:
    pattern = _first(text, "sliding_window_pattern", "_sliding_window_pattern", default=_PATTERNS.get(model_type))
    for layer in range(layers):
        if isinstance(pattern, str):  # "LLLG"; the last layer is always global
            local = pattern[layer % len(pattern)] == "L" and layer < layers - 1
        else:
            local = pattern is None or (layer + 1) % int(pattern) != 0
        yield _kind(local)


def _kind(local: bool) -> Kind:
    return "sliding" if local else "full"


def _mla(text: Config) -> Mla | None:
    if text.get("kv_lora_rank") is None or text.get("qk_rope_head_dim") is None:
        return None
    return Mla(
        q_rank=text.get("q_lora_rank"),
        kv_rank=int(text["kv_lora_rank"]),
        nope=int(text.get("qk_nope_head_dim", 0)),
        rope=int(text["qk_rope_head_dim"]),
        value=int(text.get("v_head_dim", 0)),
    )


def _experts(text: Config, layers: int) -> Experts | None:
    count = _first(text, *_EXPERTS)
    if not count:
        return None
    width = int(_first(text, "moe_intermediate_size", "expert_intermediate_size", "intermediate_size"))
    shared = text.get("shared_expert_intermediate_size") or int(text.get("n_shared_experts") or 0) * width
    step, dense = int(text.get("decoder_sparse_step") or 1), set(text.get("mlp_only_layers") or ())
    first = int(text.get("first_k_dense_replace") or 0)
    chosen = {layer for layer in range(first, layers) if layer not in dense and (layer + 1) % step == 0}
    return Experts(int(count), width, int(shared), frozenset(chosen))


def _max_len(text: Config, model_type: str) -> int:
    lengths = [int(text[key]) for key in _LENGTHS if isinstance(text.get(key), int)]
    longest = min(lengths, default=2048)
    # RoBERTa's positions begin after the padding index: two rows of its table belong to no token.
    return longest - 2 if model_type in ("roberta", "xlm-roberta") and longest > 2 else longest
