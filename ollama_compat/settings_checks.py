"""What is checked when a client is made, beside each setting by itself: what stands in exists, and keys can be sent.

Nothing here quotes a key: errors name the variable or the header that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from .mapping.model_names import is_cloud, same
from .providers.dialects import DIALECTS
from .settings import OLLAMA, Settings, SettingsError, named, sendable

_ALIKE = 0.85  # of difflib: `deepsek` is that close to `deepseek`, `deepseek-r1` and `qwen3-coder` are other words
_TAG = re.compile(r"latest|v?\d.*", re.IGNORECASE)  # Ollama's tags: `7b-instruct`, `v0.3`; no provider's models


def check(settings: Settings, headers: Mapping[str, object], environ: Mapping[str, str]) -> None:
    """Say now, and not when it is needed, what is wrong with what stands in, or with a key. Raises `SettingsError`.

    `headers` are those that the client was given.
    """
    for name, value in headers.items():
        if isinstance(value, str) and not sendable(value):
            raise SettingsError(
                f"the header {name!r} given to the client has characters that no HTTP header can carry (a line end?)"
            )
    for model, chain in settings.vllm_failover.items():
        for other in chain:
            where = f"VLLM_FAILOVER has {other!r} stand in for {model!r}"
            _check_provider(settings, other, where)
            _check_key(settings, other, where, environ)


def _check_key(settings: Settings, other: str, where: str, environ: Mapping[str, str]) -> None:
    name = other.partition(":")[0]
    provider = settings.providers.get(name)
    if provider is None or provider.api_key_env is None:
        return
    key = environ.get(provider.api_key_env, "").strip()
    if not key:
        raise SettingsError(f"{where}, and the key of {name} is missing: set {provider.api_key_env}")
    if not sendable(key):
        raise SettingsError(
            f"{where}, and {provider.api_key_env} holds a key with characters that no HTTP header can carry (a line "
            "end in it?)"
        )


def _check_provider(settings: Settings, other: str, where: str) -> None:
    """A word before `:` is a provider's, or else begins a model's name: one that looks like the former is told."""
    word, colon, tag = other.partition(":")
    known = {OLLAMA, *settings.providers}
    if not colon or word in known or is_cloud(other) or _TAG.fullmatch(tag):
        return
    if any(same(name, other) for name in named(settings)):
        return
    meant = get_close_matches(word.lower(), known, n=1, cutoff=_ALIKE)
    if meant:
        raise SettingsError(
            f"{where}, and there is no provider {word!r}: did you mean {meant[0]!r}? "
            "(If it is a model's name, give it a row in VLLM_MODEL_MAP.)"
        )
    if word.lower() in {dialect.name for dialect in DIALECTS}:
        raise SettingsError(
            f"{where}, and there is no provider {word!r}: give it a table [providers.{word}] with its base_url and "
            "api_key_env in the TOML file that OLLAMA_COMPAT_CONFIG names. (If it is a model's name, give it a row in "
            "VLLM_MODEL_MAP.)"
        )
