"""Whose key goes where. Keys are shown nowhere: not in a `repr`, and not where a server says one back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..settings import OLLAMA, Settings

_HIDDEN = b"[key]"
_SHORTEST = 6  # characters: a key shorter than that is a word that error messages may hold


@dataclass(frozen=True, slots=True)
class Credentials:
    """The authorization of each credential (see `exchange.Request`): a header's value, or None for no header."""

    authorization: Mapping[str, str | None] = field(repr=False)
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Further headers that a provider wants."""

    def headers(self, credential: str) -> dict[str, str]:
        """The headers that go with a request."""
        value = self.authorization.get(credential)
        return {**self.extra.get(credential, {}), **({"authorization": value} if value is not None else {})}

    def is_provider(self, credential: str) -> bool:
        """Whether the request goes to a service that is neither vLLM nor Ollama."""
        return credential not in ("vllm", OLLAMA)

    def hidden(self, body: bytes) -> bytes:
        """`body` without any of the keys: some servers quote the one that they refuse."""
        secrets = [(value or "").rpartition(" ")[2].encode() for value in self.authorization.values()]
        for secret in sorted(secrets, key=len, reverse=True):  # one key may begin as another does
            if len(secret) >= _SHORTEST:
                body = re.sub(_escaped(secret), _HIDDEN, body) if b"\\" in body else body.replace(secret, _HIDDEN)
        return body

    def redact_text(self, text: str) -> str:
        """The same of a text."""
        return self.hidden(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _escaped(secret: bytes) -> bytes:
    """A pattern of a key as JSON may write it: `/` as `\\/`, any character by its number."""
    written = []
    for char in secret.decode("latin-1"):
        plain = re.escape(char)
        by_number = rf"(?i:\\u{ord(char):04x})"
        # Its number first: a backslash alone is how the number of one begins.
        written.append(rf"(?:{by_number}|\\{plain}|{plain})" if char in '/"\\' else rf"(?:{by_number}|{plain})")
    return "".join(written).encode("latin-1")


def read_credentials(
    settings: Settings, headers: Mapping[str, str | None], ollama: str | None, environ: Mapping[str, str]
) -> Credentials:
    """The keys of a client: VLLM_API_KEY, else what the caller's own `headers` say; and each provider's variable.

    `ollama` is the authorization that the official client has for Ollama: OLLAMA_API_KEY is never sent to vLLM.
    """
    given = {str(key).lower(): value for key, value in headers.items()}
    vllm = given.get("authorization")
    if settings.vllm_api_key is not None:
        vllm = f"Bearer {settings.vllm_api_key.get_secret_value()}"
    found: dict[str, str | None] = {"vllm": vllm, OLLAMA: ollama}
    for name, provider in settings.providers.items():
        key = environ.get(provider.api_key_env, "").strip() if provider.api_key_env else ""
        found[name] = f"Bearer {key}" if key else None
    return Credentials(found, {name: provider.headers for name, provider in settings.providers.items()})
