"""Profiles that last."""

from __future__ import annotations

from pathlib import Path

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
def kept(tmp_path: Path) -> ProfileFile:
    return ProfileFile(tmp_path / "data" / "ollama-compat")


def test_without_a_file_there_are_none_and_none_is_made(kept: ProfileFile) -> None:
    assert kept.all() == {}
    assert not kept.path.parent.exists()


@pytest.mark.parametrize("profile", [FULL, Profile()], ids=["full", "empty"])
def test_what_is_kept_comes_back(kept: ProfileFile, profile: Profile) -> None:
    kept.put("mine", profile)
    assert kept.all() == {"mine": profile}


def test_what_one_keeps_another_finds(kept: ProfileFile) -> None:
    other = ProfileFile(kept.path.parent)
    kept.put("mine", FULL)
    assert other.all() == {"mine": FULL}
    kept.put("mine", Profile())
    assert other.all() == {"mine": Profile()}


def test_a_name_in_another_form_is_the_same_profile(kept: ProfileFile) -> None:
    kept.put("mine", FULL)
    kept.put("MINE:latest", Profile())
    assert kept.all() == {"MINE:latest": Profile()}


def test_what_is_removed_is_gone(kept: ProfileFile) -> None:
    kept.put("mine", FULL)
    kept.put("other", FULL)
    kept.put("mine", None)
    assert list(kept.all()) == ["other"]


def test_nothing_else_is_left_in_the_folder(kept: ProfileFile) -> None:
    kept.put("mine", FULL)
    assert sorted(path.name for path in kept.path.parent.iterdir()) == ["profiles.json", "profiles.lock"]


@pytest.mark.parametrize("content", ["{", "[]", '{"mine": {"system": 1}}', '{"mine": 1}'])
def test_a_file_that_is_none_of_ours_is_an_error_that_names_it(kept: ProfileFile, content: str) -> None:
    kept.put("mine", FULL)
    kept.path.write_text(content)
    with pytest.raises(ResponseError, match=f"{kept.path} is no file of profiles") as caught:
        kept.all()
    assert caught.value.status_code == 500


def test_a_folder_that_cant_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResponseError, match=str(tmp_path)):
        ProfileFile(tmp_path / "file" / "data").put("mine", FULL)


def test_a_folder_that_cant_be_is_no_hindrance_to_a_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert ProfileFile(tmp_path / "file" / "data").all() == {}


def test_a_system_that_has_no_home_is_no_hindrance_to_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    Client(backend_mode="vllm").close()


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/ollama-compat"),
        ("linux", {}, "/home/me/.local/share/ollama-compat"),
        ("darwin", {}, "/home/me/Library/Application Support/ollama-compat"),
    ],
)
def test_where_a_users_data_is_kept(
    monkeypatch: pytest.MonkeyPatch, platform: str, environ: dict[str, str], folder: str
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert data_folder(environ) == Path(folder)


def test_what_only_a_later_version_knows_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "profiles.json").write_text('{"mine": {"system": "Arr", "mood": "good"}}')
    assert ProfileFile(tmp_path).all()["mine"].system == "Arr"


def test_a_file_that_cant_be_read_is_no_hindrance_to_a_call(tmp_path: Path) -> None:
    (tmp_path / "profiles.json").mkdir()
    assert ProfileFile(tmp_path).all() == {}
