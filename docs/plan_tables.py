"""The tables of docs/gpu-memory.md, as (head, rows), from plans.

The production pair is planned with its published figures, independent of this machine's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

from vllm_launch import Server
from vllm_launch.plan import Plan, ServerPlan, architecture, known, named, plan, published, quantization
from vllm_launch.plan.budget import gib
from vllm_launch.plan.gpus import MIB, NAMED
from vllm_launch.plan.overhead import CONTEXT, GRAPHS_PER_LAYER, NON_TORCH, NON_TORCH_PARALLEL, SAMPLING_BYTES
from vllm_launch.plan.weights import computed
from vllm_launch.presets import EXAONE, PRESETS

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]

CARDS = ("24GiB", "48GiB", "A100-80", "H100")
LLM, EMBED = PRESETS["vllm-llm"], PRESETS["vllm-embed"]


def _pair(card: str, *servers: Server) -> Plan:
    return plan(servers or (LLM, EMBED), [named(card)], published)


def pair() -> Table:
    """The presets on common cards."""
    llm_head = ("`vllm-llm`: share", "weights", "overhead", "KV cache")
    head = ("card", *llm_head, "`vllm-embed`: share", "needed", "fits", "printed by")
    rows = []
    for card in CARDS:
        result = _pair(card)
        llm, embed = result.servers
        overhead = llm.fixed - llm.weights
        left = gib(llm.kv_available) if llm.kv_available > 0 else "none"
        fits = "yes" if result.fits else "no"
        cells = (gib(llm.budget), gib(llm.weights), gib(overhead), left, gib(embed.budget), gib(embed.needs), fits)
        rows.append((card, *cells, f"`vllm-launch plan --gpu {card}`"))
    return head, rows


def requests() -> Table:
    """The number of concurrent requests of the LLM."""
    head = ("card", "configuration", "KV cache size", "concurrency", "2,048 tokens", "8,192 tokens", "32,768 tokens")
    variants = (
        ("the preset", LLM),
        ('with `kv_cache_dtype = "fp8"`', LLM.model_copy(update={"kv_cache_dtype": "fp8"})),
        ("with `max_num_batched_tokens = 2048`", LLM.model_copy(update={"max_num_batched_tokens": 2048})),
    )
    rows = [
        (card, words, *_requests(_pair(card, server, EMBED).server("vllm-llm")))
        for card in CARDS[1:]
        for words, server in variants
        if server.max_num_batched_tokens is None or card == "H100"  # it is vLLM's default on the other cards
    ]
    return head, rows


def _requests(server: ServerPlan) -> Iterator[str]:
    cache = server.kv_cache
    assert cache is not None
    yield f"{cache.tokens:,} tokens"
    yield f"{cache.concurrency:.2f}x"
    yield from (f"{count:,}" for _, count in cache.sequences)


def suggestions() -> Table:
    """The suggestions for 24 GiB."""
    result = _pair("24GiB")
    return ("on 24 GiB, any one of these",), [(suggestion.text,) for suggestion in result.suggestions]


def better_shares() -> Table:
    """The shares that use the whole card."""
    rows = []
    for card in CARDS[1:]:
        notes = [note.split(": ", 1)[1] for note in _pair(card).notes if "the KV cache would have" in note]
        rows.append((card, notes[0] if notes else "unchanged"))
    return ("card", "note of `plan`"), rows


def exaone() -> Table:
    """The parts of EXAONE's weights."""
    shape = architecture.read(known.CONFIGS[EXAONE], EXAONE)
    weights = computed(shape, 2, quantization.read(shape.quantization))
    layers = sum(part.split + part.whole for part in weights.layers)
    parameters = sum(linear.inputs * linear.outputs for layer in range(shape.layers) for linear in shape.linears(layer))
    return ("part", "parameters", "bytes", "explanation"), [
        (
            "64 layers",
            f"{parameters:,}",
            f"{layers:,}",
            "4 bits; for each 128 weights, a 16-bit scale and a 4-bit zero point",
        ),
        ("embeddings", f"{102400 * 5120:,}", f"{weights.embedding.split:,}", "16 bits"),
        (
            "output matrix",
            f"{102400 * 5120:,}",
            f"{weights.head.split:,}",
            "16 bits; it differs from the input embedding",
        ),
        ("total", "", f"{weights.total:,}", f"{gib(weights.total)}; vLLM allocates the same"),
    ]


def estimates() -> Table:
    """The estimates."""
    return ("part", "estimate", "published measurements"), [
        ("activation, sampling", f"{SAMPLING_BYTES} bytes * max_num_seqs * vocabulary", "38.4 to 39.6 bytes"),
        (
            "CUDA graphs",
            f"{GRAPHS_PER_LAYER // MIB} MiB per layer",
            "vLLM's estimate: 0.25 GiB for 32 layers, 1.55 for 64",
        ),
        ("outside PyTorch, one GPU", gib(NON_TORCH), "0.13 to 0.26 GiB"),
        ("outside PyTorch, several GPUs", gib(NON_TORCH_PARALLEL), "0.55 to 0.95 GiB"),
        ("CUDA context, outside the share", gib(CONTEXT), "0.38 to 0.61 GiB"),
    ]


def cards() -> Table:
    """The named cards."""
    rows = [
        (f"`{name}`", f"{size:,}", gib(named(name).total))
        for name, size in sorted(NAMED.items(), key=lambda item: item[1])
    ]
    return ("`--gpu`", "MiB in nvidia-smi", "counted as"), rows


ALL = (pair, requests, suggestions, better_shares, exaone, estimates, cards)
"""docs/tables.py adds the prefix `memory_` to each name."""
