"""Makes a small model with the architecture of a large one and random weights. Runs with the Python that has vLLM.

    python tiny.py exaone4-tiny tokenizer-folder output-folder

Its text is random. It tests vLLM's code for the architecture, parsers, flags, windows, the arithmetic of the KV cache,
and dimensions. A fixed seed gives the same weights on every machine.
"""

import json
import shutil
import sys
from pathlib import Path

import torch  # type: ignore[import-not-found, unused-ignore]
import transformers  # type: ignore[import-not-found, unused-ignore]

TEMPLATES = Path(__file__).parent / "templates"


def exaone4(tokenizer: Path, folder: Path) -> None:
    """EXAONE 4.0 with the structure of LGAI-EXAONE/EXAONE-4.0-32B: three sliding-window layers per global layer."""
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
    """XLM-RoBERTa with the structure of nlpai-lab/KURE-v1: 1,024 dimensions, 8,192 tokens, CLS pooling, length 1."""
    config = transformers.XLMRobertaConfig(
        vocab_size=30522,
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=16,
        max_position_embeddings=8194,
        position_embedding_type="absolute",  # vLLM requires it, newer configurations omit it
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.1,  # large enough for different texts to have different vectors
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
