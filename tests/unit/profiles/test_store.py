"""The file of created profiles, and the folder that contains it."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ollama_compat import Client, Profile, ResponseError, Thinking
from ollama_compat.profiles.store import ProfileFile, data_folder

FULL = Profile.model_validate(
    {
        "from": "smol",
        "system": "Arr",
        "parameters": {"temperature": 0.1, "stop": ["a"]},
        "messages": [{"role": "user", "content": "안녕"}],
        "fim": "{prefix}",
        "license": "MIT",
        "thinking": Thinking(default=True, tags=("<a>", "</a>")),
        "capabilities": ["completion"],
    }
)


@pytest.fixture
def store(tmp_path: Path) -> ProfileFile:
    return ProfileFile(tmp_path / "data" / "ollama-compat")


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder, as in some containers."""
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_store_is_empty_and_creates_nothing_without_file(store: ProfileFile) -> None:
    assert store.all() == {}
    assert not store.path.parent.exists()


@pytest.mark.parametrize("profile", [FULL, Profile()], ids=["full", "empty"])
def test_all_returns_profile_that_was_put(store: ProfileFile, profile: Profile) -> None:
    store.put("mine", profile)
    assert store.all() == {"mine": profile}


def test_all_returns_profile_that_another_store_put(store: ProfileFile) -> None:
    other = ProfileFile(store.path.parent)
    store.put("mine", FULL)
    assert other.all() == {"mine": FULL}
    store.put("mine", Profile())
    assert other.all() == {"mine": Profile()}


def test_put_replaces_profile_when_name_has_another_form(store: ProfileFile) -> None:
    store.put("mine", FULL)
    store.put("MINE:latest", Profile())
    assert store.all() == {"MINE:latest": Profile()}


def test_put_deletes_profile_when_it_is_none(store: ProfileFile) -> None:
    store.put("mine", FULL)
    store.put("other", FULL)
    store.put("mine", None)
    assert list(store.all()) == ["other"]


def test_put_leaves_only_profiles_and_lock_in_folder(store: ProfileFile) -> None:
    store.put("mine", FULL)
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["profiles.json", "profiles.lock"]


def test_put_of_concurrent_threads_loses_nothing(store: ProfileFile) -> None:
    stores = [ProfileFile(store.path.parent) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda each=each, i=i: [each.put(f"m{i}-{n}", Profile()) for n in range(5)])
        for i, each in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.all()) == 20


@pytest.mark.parametrize("content", ["{", "[]", '{"mine": {"system": 1}}', '{"mine": 1}'])
def test_error_names_file_when_its_content_is_foreign(store: ProfileFile, content: str) -> None:
    store.put("mine", FULL)
    store.path.write_text(content)
    with pytest.raises(ResponseError, match=f"{store.path} is not a file of model profiles") as caught:
        store.all()
    assert caught.value.status_code == 500


def test_error_names_folder_when_it_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResponseError, match=str(tmp_path)):
        ProfileFile(tmp_path / "file" / "data").put("mine", FULL)


def test_error_names_file_when_lock_cannot_be_opened(store: ProfileFile) -> None:
    store.path.with_suffix(".lock").mkdir(parents=True)
    with pytest.raises(ResponseError, match=str(store.path)) as caught:
        store.put("mine", FULL)
    assert caught.value.status_code == 500


def test_store_is_empty_when_folder_cannot_exist(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert ProfileFile(tmp_path / "file" / "data").all() == {}


def test_store_is_empty_when_file_is_not_readable(tmp_path: Path) -> None:
    (tmp_path / "profiles.json").mkdir()
    assert ProfileFile(tmp_path).all() == {}


def test_all_ignores_keys_of_later_versions(tmp_path: Path) -> None:
    (tmp_path / "profiles.json").write_text('{"mine": {"system": "Arr", "mood": "good"}}')
    assert ProfileFile(tmp_path).all()["mine"].system == "Arr"


# Version


def test_version_changes_with_every_write(store: ProfileFile) -> None:
    other = ProfileFile(store.path.parent)
    versions = [store.version]
    for writer in (store, store, other, store):
        writer.put("mine", FULL)
        versions.append(store.version)
    assert versions[0] is None
    assert len(set(versions)) == len(versions)
    assert store.version == versions[-1]


def test_all_costs_one_stat_while_file_is_unchanged(store: ProfileFile, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("mine", FULL)
    store.all()
    stats: list[object] = []
    stat = os.stat

    def counted(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        stats.append(path)
        return stat(path, *args, **kwargs)

    def fails(*_: object) -> None:
        raise AssertionError("the file must not be read")

    monkeypatch.setattr(os, "stat", counted)
    monkeypatch.setattr(Path, "read_text", fails)
    assert store.all() == {"mine": FULL}
    assert stats == [store.path]


# Data folder


@pytest.mark.parametrize(
    ("platform", "xdg", "folder"),
    [
        ("linux", "/data", "/data/ollama-compat"),
        ("linux", "", "/home/me/.local/share/ollama-compat"),
        ("darwin", "/data", "/data/ollama-compat"),
        ("darwin", "", "/home/me/Library/Application Support/ollama-compat"),
    ],
)
def test_data_folder_is_that_of_the_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str, xdg: str, folder: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "platformdirs"]:
        monkeypatch.delitem(sys.modules, name)  # it selects the platform when it is imported
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("XDG_DATA_HOME", xdg)
    monkeypatch.setenv("HOME", "/home/me")
    assert data_folder() == Path(folder)


def test_data_folder_is_below_root_without_home(no_home: None) -> None:
    assert data_folder() == Path("/.local/share/ollama-compat")


def test_client_is_created_without_home(no_home: None) -> None:
    Client(backend_mode="vllm").close()
