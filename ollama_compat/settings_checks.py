"""Checks at the creation of a client that involve several settings: fallbacks exist, and their keys can be sent.

No message contains a key. The messages name the variable or the header that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from .mapping.model_names import is_cloud, same
from .providers.dialects import DIALECTS
from .settings import OLLAMA, UNSENDABLE, Settings, SettingsError, model_names, sendable

_SIMILARITY = 0.85
"""Minimum ratio of difflib for a misspelling: `deepsek` reaches it for `deepseek`; `deepseek-r1` does not."""
_TAG = re.compile(r"latest|v?\d.*", re.IGNORECASE)
"""Tags of Ollama models, such as `7b-instruct` and `v0.3`. Model names of providers differ from them."""


def check(settings: Settings, headers: Mapping[str, object], environ: Mapping[str, str]) -> None:
    """Raise `SettingsError` for a header that cannot be sent, an unknown provider, or a missing or unsendable key.

    `headers` are the `headers=` of the client. `environ` holds the keys of the providers.
    """
    for name, value in headers.items():
        if isinstance(value, str) and not sendable(value):
            raise SettingsError(f"the header {name!r} given to the client {UNSENDABLE}")
    for model, fallbacks in settings.vllm_failover.items():
        for fallback in fallbacks:
            start = f"VLLM_FAILOVER has the fallback {fallback!r} for {model!r}, but"
            _check_provider(settings, fallback, start)
            _check_key(settings, fallback, start, environ)


def _check_key(settings: Settings, fallback: str, start: str, environ: Mapping[str, str]) -> None:
    name = fallback.partition(":")[0]
    provider = settings.providers.get(name)
    if provider is None or provider.api_key_env is None:
        return
    key = environ.get(provider.api_key_env, "").strip()
    if not key:
        raise SettingsError(f"{start} the key of {name} is missing: set {provider.api_key_env}")
    if not sendable(key):
        raise SettingsError(f"{start} the key in {provider.api_key_env} {UNSENDABLE}")


def _check_provider(settings: Settings, fallback: str, start: str) -> None:
    """Raise `SettingsError` if the part before `:` looks like a provider that does not exist.

    That part is either a provider or the beginning of a model name.
    """
    word, colon, tag = fallback.partition(":")
    known = {OLLAMA, *settings.providers}
    if not colon or word in known or is_cloud(fallback) or _TAG.fullmatch(tag):
        return
    if any(same(name, fallback) for name in model_names(settings)):
        return
    otherwise = f"(If {fallback!r} is a model, add it to VLLM_MODEL_MAP.)"
    similar = get_close_matches(word.lower(), known, n=1, cutoff=_SIMILARITY)
    if similar:
        raise SettingsError(f"{start} there is no provider {word!r}. Did you mean {similar[0]!r}? {otherwise}")
    if word.lower() in {dialect.name for dialect in DIALECTS}:
        raise SettingsError(
            f"{start} there is no provider {word!r}. Add a table [providers.{word}] with base_url and api_key_env to "
            f"the TOML file that OLLAMA_COMPAT_CONFIG names. {otherwise}"
        )
