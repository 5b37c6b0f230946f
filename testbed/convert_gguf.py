"""Converts a GGUF file into a float32 model folder. Runs with the Python that has vLLM.

    python convert_gguf.py LlamaForCausalLM model.gguf output-folder

vLLM serves such a folder on any machine, but not a GGUF file.
"""

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found, unused-ignore]
import transformers  # type: ignore[import-not-found, unused-ignore]


def convert(class_name: str, gguf: Path, folder: Path) -> None:
    """Write the weights, the configuration and the tokenizer of the GGUF file into the folder."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are no longer quantized, so the configuration must not say that they are.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = getattr(transformers, class_name)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
