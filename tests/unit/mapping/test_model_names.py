"""Parsing and comparison of model names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.mapping import model_names
from ollama_compat.mapping.model_names import canonical, is_cloud, qualified, same, with_tag

PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,5}", fullmatch=True)
NAME = st.builds(
    lambda folders, model, tag: "/".join([*folders, model]) + (f":{tag}" if tag else ""),
    st.lists(PART, max_size=2),
    PART,
    st.none() | PART,
)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("smol", "registry.ollama.ai/library/smol:latest"),
        ("SMOL:Latest", "registry.ollama.ai/library/smol:latest"),
        ("smol:135m", "registry.ollama.ai/library/smol:135m"),
        ("ns/smol", "registry.ollama.ai/ns/smol:latest"),
        ("host.example:5000/ns/smol:1", "host.example:5000/ns/smol:1"),
        ("https://host.example/ns/smol", "host.example/ns/smol:latest"),
        ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", "registry.ollama.ai/lgai-exaone/exaone-4.0-32b-awq:latest"),
        ("smol:local", "registry.ollama.ai/library/smol:latest"),
        ("smol:135m:local", "registry.ollama.ai/library/smol:135m"),
        (" smol ", "registry.ollama.ai/library/smol:latest"),
        ("_smol", "registry.ollama.ai/library/_smol:latest"),
    ],
)
def test_canonical_adds_missing_parts_in_lower_case(name: str, full: str) -> None:
    assert canonical(name) == full


@pytest.mark.parametrize(
    "name", ["", " ", "a b//c", "a//b", "/a", "a/", "smol:", ":1", "-smol", ".smol", "모델", "a/b/c/d", "x" * 81]
)
def test_canonical_returns_none_for_an_invalid_name(name: str) -> None:
    assert canonical(name) is None


@given(NAME)
def test_canonical_is_idempotent(name: str) -> None:
    full = canonical(name)
    assert full is not None
    assert canonical(full) == full


@given(NAME)
def test_same_ignores_letter_case(name: str) -> None:
    assert same(name.upper(), name.lower())


@pytest.mark.parametrize(
    ("name", "other", "expected"),
    [
        ("smol", "smol:latest", True),
        ("smol", "library/SMOL", True),
        ("smol", "registry.ollama.ai/library/smol:latest", True),
        ("smol", "smol:135m", False),
        ("smol", "ns/smol", False),
        ("smol", "other.example/library/smol", False),
        ("a b//c", "a b//c", True),
        ("a b//c", "A B//C", False),
        ("a b//c", "smol", False),
    ],
)
def test_same_compares_all_parts(name: str, other: str, expected: bool) -> None:
    assert same(name, other) is expected
    assert same(other, name) is expected


@pytest.mark.parametrize(
    "name", ["gpt-oss:120b-cloud", "smol:cloud", "SMOL:CLOUD", "qwen3-coder:480b-Cloud", " smol:cloud "]
)
def test_is_cloud_is_true_for_cloud_names(name: str) -> None:
    assert is_cloud(name)


@pytest.mark.parametrize("name", ["", "smol", "cloud", "smol:cloudy", "cloud/smol", "my-cloud:latest", "smolcloud"])
def test_is_cloud_is_false_for_other_names(name: str) -> None:
    assert not is_cloud(name)


@pytest.mark.parametrize(
    ("name", "tagged"),
    [("smol", "smol:latest"), ("smol:1", "smol:1"), ("h:1/n/m", "h:1/n/m:latest"), ("h:1/n/m:2", "h:1/n/m:2")],
)
def test_with_tag_adds_a_missing_tag(name: str, tagged: str) -> None:
    assert with_tag(name) == tagged


@pytest.mark.parametrize(
    ("name", "expected"), [("Smol", "registry.ollama.ai/library/Smol:latest"), ("a b//c", "a b//c")]
)
def test_qualified_keeps_letter_case_and_invalid_names(name: str, expected: str) -> None:
    assert qualified(name) == expected


@pytest.mark.parametrize("name", ["x" * 1000, f"{' ' * 1000}smol"])
def test_long_names_are_read_and_not_kept(name: str) -> None:
    kept = model_names._cached_canonical.cache_info().currsize
    assert canonical(name) == (None if name.startswith("x") else "registry.ollama.ai/library/smol:latest")
    assert model_names._cached_canonical.cache_info().currsize == kept
