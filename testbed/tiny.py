"""A script for the Python that has vLLM: makes a small model of a large one's architecture, with random weights.

    python tiny.py exaone4-tiny tokenizer-folder output-folder

What it says is noise. What it proves is the rest: the architecture's code in vLLM, parsers and flags, windows, the KV
cache's arithmetic, the number of dimensions. The weights are the same on every machine (the seed is fixed).
"""

import json
import shutil
import sys
from pathlib import Path

import torch  # type: ignore[import-not-found, unused-ignore]
import transformers  # type: ignore[import-not-found, unused-ignore]

TEMPLATES = Path(__file__).parent / "templates"


def exaone4(tokenizer: Path, folder: Path) -> None:
    """EXAONE 4.0 as LGAI-EXAONE/EXAONE-4.0-32B is built: three layers with a sliding window to a global one."""
    config = transformers.Exaone4Config(
        vocab_size=49152,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=131072,
        sliding_window=512,
        sliding_window_pattern=4,
        rope_theta=1000000,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    _write(transformers.Exaone4ForCausalLM(config), folder)
    for source in tokenizer.glob("tokenizer*"):
        shutil.copyfile(source, folder / source.name)
    shutil.copyfile(TEMPLATES / "tiny.jinja", folder / "chat_template.jinja")


def kure(tokenizer: Path, folder: Path) -> None:
    """XLM-RoBERTa as nlpai-lab/KURE-v1 is built: 1,024 dimensions, 8,192 tokens, first-token pooling, length 1."""
    config = transformers.XLMRobertaConfig(
        vocab_size=30522,
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=16,
        max_position_embeddings=8194,
        position_embedding_type="absolute",  # said by older configurations, and asked for by vLLM
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.1,  # so that different texts have vectors that differ
        bos_token_id=101,
        eos_token_id=102,
        pad_token_id=1,
    )
    _write(transformers.XLMRobertaModel(config, add_pooling_layer=False), folder)
    shutil.copyfile(tokenizer / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    _json(folder / "tokenizer_config.json", {**settings, "model_max_length": 8192})
    parts = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(parts)
    ]
    _json(folder / "modules.json", modules)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": 8192, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 1024, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    _json(folder / "1_Pooling" / "config.json", pooling)


def _write(model: torch.nn.Module, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2))


MODELS = {"exaone4-tiny": exaone4, "kure-tiny": kure}

if __name__ == "__main__":
    torch.manual_seed(0)
    MODELS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
