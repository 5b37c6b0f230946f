"""Finding a model's config.json and weight files on this machine: a folder, the hub's cache, or what is known here.

The network is left alone, but for `download`, which is asked for by name.
The cache's layout: huggingface_hub's documentation, "Understand caching".
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..runtimes.base import LaunchError
from ..servers import Server, mounted_at
from . import known
from .checkpoint import Checkpoint
from .checkpoint import read as read_checkpoint

PUBLISHED = "its published figures"
"""The source of what is known here without any file."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a model."""

    name: str
    config: Mapping[str, Any]
    checkpoint: Checkpoint | None
    """Its weight files; None where they are not there."""
    max_seq_length: int | None
    """Tokens that an embedding model reads, by its sentence_bert_config.json."""
    source: str
    """Where this is from, in words."""


def find(name: str, revision: str | None = None, env: Mapping[str, str] = os.environ) -> Model:
    """The model: a folder, or its id on the hub.

    Looked for in the folder, in the hub's cache (`HF_HUB_CACHE`, `HF_HOME`), then among the models that are known
    here. Raises `LaunchError` if it is nowhere, and where its files are broken.
    """
    folder = Path(name).expanduser()
    if folder.is_absolute() or name.startswith((".", "~")):
        if not (folder / "config.json").is_file():
            raise LaunchError(
                f"There is no config.json in {folder} on this machine: name the folder that has the model."
            )
        return _from_folder(name, folder, f"the folder {folder}")
    snapshot = _snapshot(name, revision, env)
    if snapshot is not None:
        return _from_folder(name, snapshot, "the hub's cache")
    if name in known.CONFIGS:
        return published(name)
    raise LaunchError(
        f"The config.json of {name} is not on this machine, and without it no memory can be planned. Get it with: "
        f"hf download {name} config.json, or have it fetched: vllm-launch plan --download"
    )


def here(server: Server) -> Server:
    """The server with its model as this machine has it: a folder of a container's volume has a path of its own here."""
    inside = PurePosixPath(server.model)
    for host, mounted in server.volumes.items():
        folder, target = Path(host).expanduser(), PurePosixPath(mounted_at(mounted))
        if folder.is_absolute() and inside.is_relative_to(target) and not Path(server.model).exists():
            return server.model_copy(update={"model": str(folder / inside.relative_to(target))})
    return server


def published(name: str, _revision: str | None = None) -> Model:
    """A model by its published figures alone, whatever is on this machine. Raises `KeyError` for an unknown one."""
    return Model(name, known.CONFIGS[name], None, None, PUBLISHED)


def download(name: str, revision: str | None = None) -> Model:
    """Get the model's config.json from the hub, then find it. Raises `LaunchError` where that fails."""
    try:
        from huggingface_hub import hf_hub_download  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LaunchError(
            "To get config.json from the hub, install huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        hf_hub_download(name, "config.json", revision=revision)
    except Exception as error:  # its own errors and those of its HTTP client have no common ancestor
        raise LaunchError(f"The config.json of {name} could not be downloaded: {error}") from error
    return find(name, revision)


def cache(env: Mapping[str, str] = os.environ) -> Path:
    """The hub's cache on this machine."""
    if env.get("HF_HUB_CACHE"):
        return Path(env["HF_HUB_CACHE"]).expanduser()
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _snapshot(name: str, revision: str | None, env: Mapping[str, str]) -> Path | None:
    """The folder of a downloaded revision: the one named, or `main`, or the newest."""
    folder = cache(env) / ("models--" + name.replace("/", "--"))
    snapshots = folder / "snapshots"
    reference = folder / "refs" / (revision or "main")
    wanted = reference.read_text("utf-8").strip() if reference.is_file() else revision
    if wanted and (snapshots / wanted / "config.json").is_file():
        return snapshots / wanted
    if revision is not None or not snapshots.is_dir():
        return None
    found = [child for child in snapshots.iterdir() if (child / "config.json").is_file()]
    return max(found, key=lambda child: child.stat().st_mtime, default=None)


def _from_folder(name: str, folder: Path, source: str) -> Model:
    try:
        config = _json(folder / "config.json")
        sentence = folder / "sentence_bert_config.json"
        length = _json(sentence).get("max_seq_length") if sentence.is_file() else None
        checkpoint = read_checkpoint(folder)
    except (OSError, ValueError) as error:
        raise LaunchError(f"The files of {name} in {folder} can't be read: {error}") from error
    return Model(name, config, checkpoint, length if isinstance(length, int) else None, source)


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content
