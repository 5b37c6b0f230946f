"""Store of created profiles: the file `profiles.json` in the data folder of the user.

`create` and `copy` write it. Every process reads it again after it has changed. A writer holds a lock file and replaces
`profiles.json` as a whole, so concurrent writers lose nothing and a reader never sees a partial file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

from pydantic import ValidationError

from ..mapping.model_names import same
from ..mapping.ollama_errors import response_error
from ..settings import Profile

_APP = "ollama-compat"
_POLL_INTERVAL_S = 0.01
"""Time between two attempts to get the lock (seconds)."""

Version: TypeAlias = tuple[int, ...] | None
"""Identifies the contents of a store: two equal versions have equal contents."""


class ProfileStore(Protocol):
    """A store of created profiles."""

    @property
    def version(self) -> Version:
        """Version of the contents."""
        ...

    def all(self) -> Mapping[str, Profile]:
        """Return all profiles by name."""
        ...

    def put(self, name: str, profile: Profile | None) -> None:
        """Write a profile, or delete it (None)."""
        ...


class ProfileFile:
    """A store in `profiles.json` of a folder."""

    def __init__(self, folder: Path) -> None:
        """Do not touch the file system: `put` creates the folder."""
        self.path = folder / "profiles.json"
        self._writes = 0
        # One attribute, so that a thread never combines a version with the profiles of another one.
        self._read: tuple[Version, Mapping[str, Profile]] = (None, {})

    @property
    def version(self) -> Version:
        """Version of the file: own writes, modification time (ns), inode; None without a readable file. One `stat`.

        Own writes count, because two writes within one tick of the file system's clock can leave the same time and
        inode.
        """
        try:
            state = os.stat(self.path)
        except OSError:
            return None
        return self._writes, state.st_mtime_ns, state.st_ino

    def all(self) -> Mapping[str, Profile]:
        """Return all profiles by name; no profiles if the file is missing or not readable.

        Costs one `stat` while the file does not change. Raises `ResponseError` 500 if the file has other contents.
        """
        version = self.version
        if version is None:
            return {}
        seen, profiles = self._read
        if version != seen:
            with contextlib.suppress(OSError):
                profiles = self._load()
            self._read = version, profiles
        return profiles

    def put(self, name: str, profile: Profile | None) -> None:
        """Write a profile under `name`, or delete it (None). Raises `ResponseError` 500 if the file is not writable."""
        try:
            self._write(name, profile)
        except OSError as problem:
            raise response_error(f"{self.path} cannot be written: {problem.strerror}", 500) from None

    def _write(self, name: str, profile: Profile | None) -> None:
        from filelock import FileLock  # needed only to write

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock"), poll_interval=_POLL_INTERVAL_S):
            profiles = {key: value for key, value in self._load().items() if not same(key, name)}
            if profile is not None:
                profiles[name] = profile
            document = {key: value.model_dump(by_alias=True, exclude_defaults=True) for key, value in profiles.items()}
            draft = self.path.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")
            draft.replace(self.path)
            self._writes += 1

    def _load(self) -> dict[str, Profile]:
        try:
            document = json.loads(self.path.read_text("utf-8"))
            return {name: _profile(value) for name, value in document.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, ValidationError) as problem:
            reason = str(problem).splitlines()[0]
            raise response_error(
                f"{self.path} is not a file of model profiles ({reason}). Correct or delete it.", 500
            ) from None


def _profile(value: Mapping[str, object]) -> Profile:
    """Return a profile as it was written, without the keys that only a later version of this package knows."""
    known = {field.alias or name for name, field in Profile.model_fields.items()}
    return Profile.model_validate({key: item for key, item in value.items() if key in known})


def data_folder() -> Path:
    """Return the folder for this package's data of the user: in XDG_DATA_HOME, else where the system keeps such data.

    Linux: `~/.local/share/ollama-compat`. For a user without a home folder, as in some containers, `~` is `/`.
    """
    if home := os.environ.get("XDG_DATA_HOME"):
        return Path(home, _APP)
    from platformdirs import user_data_path

    with contextlib.suppress(RuntimeError):  # no home folder
        folder = user_data_path(_APP, appauthor=False)
        if folder.is_absolute():
            return folder
    return Path(os.sep, ".local", "share", _APP)
