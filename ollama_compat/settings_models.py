"""Types of the TOML tables `[models.NAME]` and `[providers.NAME]`: `Profile`, `Thinking` and `Provider`.

Every value is checked when it is read, not when it is used. Modules that only some checks need are imported inside
these checks, so that `import ollama_compat` stays cheap. Import the types from `ollama_compat` or
`ollama_compat.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from ollama import ResponseError
from pydantic import BaseModel, ConfigDict, Field, field_validator


class Frozen(BaseModel):
    """Base of all settings types: immutable, rejects unknown keys, and keeps values out of pydantic's messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class Thinking(Frozen):
    """How the chat template switches thinking, and how the model marks it. The model family supplies unset values."""

    default: bool | None = None
    """Whether the model thinks if a request does not set `think`. Default: None (as in the model family)."""
    switch: str | None = None
    """Key in `chat_template_kwargs` that turns thinking on or off. Default: None (as in the model family)."""
    tags: tuple[str, str] | None = None
    """Opening and closing tag of the reasoning text, for servers without a reasoning parser.

    Default: None (as in the model family)."""


Capability: TypeAlias = Literal["completion", "tools", "thinking", "vision", "insert", "embedding"]


class Profile(Frozen):
    """A served model under another name with its own defaults, like a Modelfile of Ollama."""

    from_: str | None = Field(None, alias="from")
    """Name of the served model. Default: None (the name of the profile)."""
    system: str | None = None
    """System prompt of requests that contain none. Default: None."""
    parameters: Mapping[str, Any] = {}
    """Ollama options that a request may override, such as `{"temperature": 0.1}`. Default: empty."""
    template: str | None = None
    """Go template that renders the prompts, as in a Modelfile. Default: None (the chat template of the server)."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Messages that precede those of every request and follow the system prompt. Default: empty."""
    fim: str | None = None
    """Fill-in-the-middle prompt with `{prefix}` and `{suffix}`. Default: None (the prompt of the model family)."""
    license: str | None = None
    """License text that `show` returns. Default: None."""
    chat_template_kwargs: Mapping[str, Any] = {}
    """Arguments that every request passes to the chat template of the server. Default: empty."""
    thinking: Thinking = Thinking()
    """How thinking is switched and marked. Default: as in the model family."""
    capabilities: tuple[Capability, ...] | None = None
    """Capabilities of the model, in Ollama's terms.

    Default: None (unknown; no request is rejected). Otherwise a request that needs any other capability is rejected
    with Ollama's error."""

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        from .mapping.options import resolve

        try:
            return resolve(parameters, {})
        except ResponseError as problem:
            raise ValueError(problem.error) from None

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        if template:
            from .go_template.prompt import read

            read(template)
        return template or None

    def lacks(self, capability: Capability) -> bool:
        """Whether the profile lists capabilities and omits this one."""
        return self.capabilities is not None and capability not in self.capabilities


NO_PROFILE = Profile.model_validate({})
"""The profile of a name that has none."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Provider(Frozen):
    """An OpenAI-compatible service that can serve as a fallback."""

    base_url: str
    """URL of the service: scheme and host, and the path before `/chat/completions` if it is not `/v1`. Required."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key. The key itself never belongs in a file.

    Default: None (no key)."""
    models: Mapping[str, str] = {}
    """Model names in VLLM_FAILOVER -> model names of the service. Default: empty (the names are equal)."""
    dialect: str | None = None
    """Request format of the service: the name of a row of `DIALECTS`. Default: None (selected by the host)."""
    headers: Mapping[str, str] = {}
    """Additional HTTP headers. They are not treated as secrets. Default: empty."""

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str) -> str:
        url = url.strip()
        url = url if "://" in url else f"https://{url}"
        if urlsplit(url).username is not None:
            raise ValueError("the URL contains a user or a password; name the key's variable in api_key_env")
        normalized_url(url)
        return url

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not sendable(value):
                raise ValueError(f"{name!r} {UNSENDABLE}")
        return headers

    @field_validator("dialect")
    @classmethod
    def _check_dialect(cls, name: str | None) -> str | None:
        from .providers.dialects import DIALECTS

        known = [row.name for row in DIALECTS]
        if name is not None and name not in known:
            raise ValueError(f"unknown dialect {name!r}; allowed: {', '.join(known)}")
        return name

    @field_validator("api_key_env")
    @classmethod
    def _check_api_key_env(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE_NAME.fullmatch(name):
            raise ValueError("the value must be the NAME of an environment variable, not the key itself")
        return name


UNSENDABLE = "contains characters that an HTTP header cannot carry, such as a line break"
"""Reason in errors about keys and headers. The value itself is never part of the message."""

_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+(?:%[\w.-]+)?", re.IGNORECASE)
_PATH = re.compile(r"[^\s\\;]*")


def sendable(value: str) -> bool:
    """Whether an HTTP header can carry the value unchanged."""
    return value.isascii() and value.replace("\t", " ").isprintable()


def normalized_url(text: str) -> str:
    """Return the base URL of a server with a scheme, without `/v1` and without a trailing slash.

    Raises `ValueError` for anything else than an http or https URL, and for a URL with a user or a password.
    """
    url = text.strip()
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL contains a user or a password; set VLLM_API_KEY or pass auth= to the client")
    invalid = ValueError(f"{text.strip()!r} is not an http or https URL")
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise invalid
    if not _HOST.fullmatch(parts.hostname or "") or not _PATH.fullmatch(parts.path):
        raise invalid
    _ = parts.port  # raises ValueError for a port that is not a number or is out of range
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
