"""Profiles that `create` and `copy` made: a JSON file in the user's data directory.

The file is read again whenever it has changed, so that what one process creates another can ask for. Writing takes a
lock beside the file and replaces it whole: two processes that write lose nothing of each other's, and a reader never
sees half a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from ..mapping.errors import response_error
from ..mapping.model_names import same
from ..settings import Profile


class Profiles(Protocol):
    """Where created profiles are kept."""

    def all(self) -> Mapping[str, Profile]:
        """Every profile by its name."""
        ...

    def put(self, name: str, profile: Profile | None) -> None:
        """Keep a profile, or remove it (None)."""
        ...


class ProfileFile:
    """Profiles in `profiles.json` of a folder."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first profile is written."""
        self.path = folder / "profiles.json"
        self._seen: tuple[int, int] | None = None
        self._profiles: Mapping[str, Profile] = {}

    def all(self) -> Mapping[str, Profile]:
        """Every profile by its name. Raises `ResponseError` 500 for a file that is none of this package's."""
        try:
            state = self.path.stat()
        except OSError:  # nothing there, or nothing that can be read: there are no profiles to go by
            return {}
        seen = (state.st_mtime_ns, state.st_ino)
        if seen != self._seen:
            with contextlib.suppress(OSError):
                self._profiles = self._read()
            self._seen = seen
        return self._profiles

    def put(self, name: str, profile: Profile | None) -> None:
        """Keep a profile under `name`, or remove it (None). Raises `ResponseError` 500 where nothing can be written."""
        try:
            self._write(name, profile)
        except OSError as problem:
            raise response_error(f"{self.path} can't be written: {problem.strerror}", 500) from None

    def _write(self, name: str, profile: Profile | None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            kept = {key: value for key, value in self._read().items() if not same(key, name)}
            if profile is not None:
                kept[name] = profile
            document = {key: value.model_dump(by_alias=True, exclude_defaults=True) for key, value in kept.items()}
            draft = self.path.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")
            draft.replace(self.path)
            self._seen = None

    def _read(self) -> dict[str, Profile]:
        try:
            document = json.loads(self.path.read_text("utf-8"))
            return {name: _profile(value) for name, value in document.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, ValidationError) as problem:
            reason = str(problem).splitlines()[0]
            raise response_error(f"{self.path} is no file of profiles ({reason}): mend it, or remove it", 500) from None


def _profile(value: Mapping[str, object]) -> Profile:
    """A profile as it was written; what only a later version of this package knows is left out."""
    known = {field.alias or name for name, field in Profile.model_fields.items()}
    return Profile.model_validate({key: item for key, item in value.items() if key in known})


def data_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where this package keeps a user's data: XDG_DATA_HOME, or the place that the system has for it."""
    environ = os.environ if environ is None else environ
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "ollama-compat"
    if sys.platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "ollama-compat"
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as in some containers
        home = Path(os.sep)
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "ollama-compat"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "ollama-compat"
    return home / ".local" / "share" / "ollama-compat"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)  # freed when the file is closed, also by a process that dies
        yield
