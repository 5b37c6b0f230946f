"""Settings: keywords of `Client(...)` over environment variables over a TOML file, validated into one frozen object.

A variable, its key in the TOML file and the keyword have one name in two letter cases: `VLLM_URLS`, `vllm_urls`.
`VARIABLES` lists them with what each may hold; errors are made from it, so that a wrong value is answered by the
variable's name, where it stood, what it held and what it may hold. Values are read when a client is made.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from ollama import ResponseError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

logger = logging.getLogger("ollama_compat")

DEFAULT_URLS = ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
DEFAULT_MODEL_MAP = {
    "exaone3.5:7.8b": "LGAI-EXAONE/EXAONE-4.0-32B-AWQ",
    "daynice/kure-v1": "nlpai-lab/KURE-v1",
}


class SettingsError(ValueError):
    """A setting is wrong: says which one, where it stood, what it held and what it may hold."""


class Frozen(BaseModel):
    """Frozen, and strict about names: an unknown key is a typing error of somebody's."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class Thinking(Frozen):
    """How a model's thinking is switched and marked. What is None is taken from the model family."""

    default: bool | None = None
    """What an unset `think` means; Ollama's own rule is that a model that can think does."""
    switch: str | None = None
    """The key in `chat_template_kwargs` that turns thinking on and off."""
    tags: tuple[str, str] | None = None
    """What opens and closes the thoughts in the text, where the server has no reasoning parser."""


Capability: TypeAlias = Literal["completion", "tools", "thinking", "vision", "insert", "embedding"]


class Profile(Frozen):
    """What a Modelfile is to Ollama: a served model under another name, with defaults of its own."""

    from_: str | None = Field(None, alias="from")
    """The served model; the profile's own name when it is None."""
    system: str | None = None
    """The system prompt of requests that bring none."""
    parameters: Mapping[str, Any] = {}
    """Default options."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """What every conversation begins with, after the system prompt."""
    fim: str | None = None
    """A fill-in-the-middle prompt with `{prefix}` and `{suffix}`; None: the model family's, if it has one."""
    license: str | None = None
    chat_template_kwargs: Mapping[str, Any] = {}
    """What the server's chat template is told beside the messages, with every request."""
    thinking: Thinking = Thinking()
    capabilities: tuple[Capability, ...] | None = None
    """What the model can do, in Ollama's words. None: not known, so nothing is refused for it; otherwise what is not
    named here is refused as Ollama refuses it."""

    @field_validator("parameters")
    @classmethod
    def _checked(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """A wrong type is found when the profile is read, not when it is used."""
        from .operations.options import resolve  # only where there is a profile

        try:
            return resolve(parameters, {})
        except ResponseError as problem:
            raise ValueError(problem.error) from None

    def lacks(self, capability: Capability) -> bool:
        """Whether the profile says that the model does not have the capability."""
        return self.capabilities is not None and capability not in self.capabilities


NO_PROFILE = Profile.model_validate({})


_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+(?:%[\w.-]+)?", re.IGNORECASE)
_PATH = re.compile(r"[^\s\\;]*")


def _url(text: str) -> str:
    url = text.strip()
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or a password in it: give the key in VLLM_API_KEY, or auth= to the client")
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ValueError(f"{text.strip()!r} is no http or https URL")
    if not _HOST.fullmatch(parts.hostname or "") or not _PATH.fullmatch(parts.path):
        raise ValueError(f"{text.strip()!r} is no http or https URL")
    _ = parts.port  # raises ValueError for a port that is no number
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _urls(value: object) -> object:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        return value
    return tuple(dict.fromkeys(_url(part) for part in value))


def _json_object(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _header_value(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, str) and not (value.isascii() and value.isprintable()):
        raise ValueError("it has characters that no HTTP header can carry (a line end?)")
    return value


class Settings(Frozen):
    """Everything a client needs to know, validated."""

    backend_mode: Literal["ollama", "vllm"] = "ollama"
    vllm_urls: Annotated[tuple[str, ...], BeforeValidator(_urls), Field(min_length=1)] = DEFAULT_URLS
    vllm_api_key: Annotated[SecretStr | None, BeforeValidator(_header_value)] = None
    vllm_model_map: Annotated[Mapping[str, str], BeforeValidator(_json_object)] = DEFAULT_MODEL_MAP
    models: Mapping[str, Profile] = {}


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: its environment variable, what it may hold, and what it is."""

    name: str
    may_hold: str
    meaning: str
    default: str
    secret: bool = False

    @property
    def key(self) -> str:
        """The keyword of `Client(...)` and the key in the TOML file."""
        return self.name.lower()


VARIABLES = (
    Variable("BACKEND_MODE", "'ollama' or 'vllm'", "who answers", "`ollama`"),
    Variable(
        "VLLM_URLS",
        "http or https URLs, separated by commas, with or without /v1",
        "base URLs of the vLLM servers",
        "`http://127.0.0.1:8001,http://127.0.0.1:8002`",
    ),
    Variable("VLLM_API_KEY", "a key of printable ASCII", "bearer key sent to vLLM", "none", secret=True),
    Variable(
        "VLLM_MODEL_MAP",
        'a JSON object of strings: {"ollama name": "served name"}',
        "Ollama name -> served name",
        "`exaone3.5:7.8b` -> `LGAI-EXAONE/EXAONE-4.0-32B-AWQ`, `daynice/kure-v1` -> `nlpai-lab/KURE-v1`",
    ),
)
CONFIG = Variable(
    "OLLAMA_COMPAT_CONFIG", "the path of a TOML file", "file with all of the above and the model profiles", "none"
)

# Named by the design, not there yet: whoever sets one is told that it does nothing.
NOT_YET = ("VLLM_FAILOVER", "VLLM_LIMITS", "VLLM_MAX_CONCURRENT")


def load(keywords: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings: `keywords` over `environ` (default: `os.environ`) over the TOML file.

    A variable that is empty or blank counts as unset, as Compose files write it. Raises `SettingsError`.
    """
    environ = os.environ if environ is None else environ
    given = {key: value for key, value in (keywords or {}).items() if value is not None}
    values: dict[str, object] = {}
    places: dict[str, str] = {}
    path = given.pop(CONFIG.key, None) or environ.get(CONFIG.name, "").strip()
    if path:
        values = _read_toml(Path(str(path)))
        places = dict.fromkeys(values, f"in {path}")
    for variable in VARIABLES:
        if environ.get(variable.name, "").strip():
            values[variable.key] = environ[variable.name].strip()
            places[variable.key] = "in the environment"
    values.update(given)
    places.update(dict.fromkeys(given, "given to the client"))
    for name in NOT_YET:
        if environ.get(name, "").strip():
            logger.warning("%s is set, but this version has nothing that reads it", name)
    try:
        return Settings.model_validate(values)
    except ValidationError as problem:
        raise SettingsError(_explain(problem, places)) from None


def _read_toml(path: Path) -> dict[str, object]:
    import tomllib  # only where a file is named

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{CONFIG.name} names {str(path)!r}, and there is no such file") from None
    except OSError as problem:
        raise SettingsError(f"{CONFIG.name} names {str(path)!r}, which can't be read: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{CONFIG.name} names {str(path)!r}, which is no valid TOML: {problem}") from None


def _explain(problem: ValidationError, places: Mapping[str, str]) -> str:
    variables = {variable.key: variable for variable in VARIABLES}
    lines = []
    for error in problem.errors(include_url=False):
        key = str(error["loc"][0])
        where = places.get(key, "")
        reason = error["msg"].removeprefix("Value error, ")
        variable = variables.get(key)
        if variable is None:
            spot = ".".join(str(part) for part in error["loc"])
            known = ", ".join(("models", *variables))
            hint = f"; the keys are {known}" if error["type"] == "extra_forbidden" and len(error["loc"]) == 1 else ""
            lines.append(f"{spot} ({where}): {reason}{hint}")
            continue
        with_password = variable.name == "VLLM_URLS" and "@" in str(error["input"])
        hidden = variable.secret or with_password
        held = "a value that is not shown" if hidden else repr(error["input"])
        why = "" if error["type"] == "literal_error" else f" ({reason})"
        lines.append(f"{variable.name} ({where}) holds {held}; it may hold {variable.may_hold}{why}")
    return "\n".join(lines)
