"""The credentials of each destination (vLLM, Ollama, providers), and their redaction.

No key appears in a `repr`, and `redact` removes keys from replies, because some servers quote the key that they reject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..settings import OLLAMA, Settings

_REDACTED = b"[key]"
_MIN_LENGTH = 6
"""Length of the shortest key that is redacted (characters). A shorter one could be a word of an error message."""
_NO_HEADERS: Mapping[str, str] = {}


class Credentials:
    """The HTTP headers of each destination. `Request.credential` names the destination."""

    __slots__ = ("_secrets", "authorization", "by_destination")

    def __init__(
        self, authorization: Mapping[str, str | None], extra: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Combine destination -> `authorization` header (None: no header), and destination -> additional headers."""
        self.authorization = authorization
        self.by_destination = {name: dict(headers) for name, headers in (extra or {}).items()}
        for name, value in authorization.items():
            if value is not None:
                self.by_destination.setdefault(name, {})["authorization"] = value
        secrets = {(value or "").rpartition(" ")[2].encode() for value in authorization.values()}
        # The longest first: one key can be the beginning of another one.
        self._secrets = sorted((each for each in secrets if len(each) >= _MIN_LENGTH), key=len, reverse=True)

    def headers(self, credential: str) -> Mapping[str, str]:
        """Return the headers of a destination. Do not change them."""
        return self.by_destination.get(credential, _NO_HEADERS)

    def redact(self, body: bytes) -> bytes:
        """Return `body` with `[key]` in place of each key."""
        for secret in self._secrets:
            body = re.sub(_escaped(secret), _REDACTED, body) if b"\\" in body else body.replace(secret, _REDACTED)
        return body

    def redact_text(self, text: str) -> str:
        """Return `text` with `[key]` in place of each key."""
        return self.redact(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _escaped(secret: bytes) -> bytes:
    r"""Return a pattern for all JSON forms of a key: `/` may be `\/`, and any character may be `\uXXXX`."""
    forms = []
    for char in secret.decode("latin-1"):
        plain = re.escape(char)
        by_number = rf"(?i:\\u{ord(char):04x})"
        # The number first: a lone backslash is also the beginning of a number.
        forms.append(rf"(?:{by_number}|\\{plain}|{plain})" if char in '/"\\' else rf"(?:{by_number}|{plain})")
    return "".join(forms).encode("latin-1")


def read_credentials(
    settings: Settings, headers: Mapping[str, str | None], ollama: str | None, environ: Mapping[str, str]
) -> Credentials:
    """Read the credentials of a client.

    vLLM receives VLLM_API_KEY, or the `authorization` of the client's own `headers`. Ollama receives `ollama`, the
    `authorization` header of the official client; OLLAMA_API_KEY is therefore never sent to vLLM. A provider receives
    the key in its variable in `environ`.
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
