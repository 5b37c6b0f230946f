"""Finds a model's config.json and weight files: in a folder, in the hub's cache, or among the known models.

Only `download` uses the network. The layout of the cache: huggingface_hub's documentation, "Understand caching".
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
"""The source of the known models, which need no files."""


@dataclass(frozen=True, slots=True)
class Model:
    """The figures of a model."""

    name: str
    config: Mapping[str, Any]
    checkpoint: Checkpoint | None
    """The weight files; None if they are missing."""
    max_seq_length: int | None
    """The maximum tokens of an embedding model, from its sentence_bert_config.json."""
    source: str
    """A description of the source."""


def find(name: str, revision: str | None = None, env: Mapping[str, str] = os.environ) -> Model:
    """Find a model by its folder or its id on the hub.

    An id is searched in the hub's cache (`HF_HUB_CACHE`, `HF_HOME`) and then among the known models. Raises
    `LaunchError` if the model is not found or its files are broken.
    """
    folder = Path(name).expanduser()
    if folder.is_absolute() or name.startswith((".", "~")):
        if not (folder / "config.json").is_file():
            raise LaunchError(
                f"There is no config.json in {folder} on this machine. Set model to the folder of the model."
            )
        return _from_folder(name, folder, f"the folder {folder}")
    snapshot = _snapshot(name, revision, env)
    if snapshot is not None:
        return _from_folder(name, snapshot, "the hub's cache")
    if name in known.CONFIGS:
        return published(name)
    raise LaunchError(
        f"The config.json of {name} is not on this machine, and the plan needs it. To download it: "
        f"hf download {name} config.json, or vllm-launch plan --download"
    )


def here(server: Server) -> Server:
    """The server with its model's path on this machine. In a container, a volume's folder has another path."""
    inside = PurePosixPath(server.model)
    for host, mounted in server.volumes.items():
        folder, target = Path(host).expanduser(), PurePosixPath(mounted_at(mounted))
        if folder.is_absolute() and inside.is_relative_to(target) and not Path(server.model).exists():
            return server.model_copy(update={"model": str(folder / inside.relative_to(target))})
    return server


def published(name: str, _revision: str | None = None) -> Model:
    """A known model by its published figures, regardless of local files. Raises `KeyError` for an unknown model."""
    return Model(name, known.CONFIGS[name], None, None, PUBLISHED)


def download(name: str, revision: str | None = None) -> Model:
    """Download the model's config.json from the hub, then find the model. Raises `LaunchError` on failure."""
    try:
        from huggingface_hub import hf_hub_download  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LaunchError(
            "To download config.json from the hub, install huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        hf_hub_download(name, "config.json", revision=revision)
    except Exception as error:  # the errors of the hub and of its HTTP client have no common base class
        raise LaunchError(f"The config.json of {name} could not be downloaded: {error}") from error
    return find(name, revision)


def cache(env: Mapping[str, str] = os.environ) -> Path:
    """The folder of the hub's cache on this machine."""
    if env.get("HF_HUB_CACHE"):
        return Path(env["HF_HUB_CACHE"]).expanduser()
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _snapshot(name: str, revision: str | None, env: Mapping[str, str]) -> Path | None:
    """The folder of a downloaded revision: the given one, `main`, or the newest."""
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
        raise LaunchError(f"The files of {name} in {folder} cannot be read: {error}") from error
    return Model(name, config, checkpoint, length if isinstance(length, int) else None, source)


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} does not contain a JSON object")
    return content
