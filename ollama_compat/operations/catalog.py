"""The catalogue: `/api/tags`, `/api/show`, `/api/ps`, `/api/pull`, from what the servers say of themselves.

vLLM tells a model's name, window and path (`/v1/models`), by its paths whether it chats or embeds, and by its
renderings what its chat template knows. What can't be known (size on disk, digest) is left empty, never made up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from ollama import ResponseError

from ..call import Call
from ..generation.template_analysis import rendering, takes_images, takes_tools
from ..go_template.prompt import read
from ..mapping.errors import model_not_found, response_error
from ..mapping.infill import family_of
from ..mapping.model_details import details
from ..mapping.model_families import UNKNOWN, thinking_style
from ..mapping.model_names import canonical, same, with_tag
from ..mapping.vllm_schema import decode
from ..servers.registry import Target
from ..settings import NO_PROFILE, Profile
from ..steps import JsonObject, Steps, ask
from .catalog_context import CatalogContext

_NEVER = "2318-03-01T00:00:00Z"  # what Ollama says of a model that stays loaded (keep_alive: -1)


def tags(site: CatalogContext) -> Steps[None]:
    """Every model that can be asked for, under the names that services use."""
    listed = yield from _listed(site)
    yield {"models": [_row(name, target) | {"modified_at": _time(target.card.created)} for name, target in listed]}


def ps(site: CatalogContext) -> Steps[None]:
    """The same models: vLLM keeps what it serves loaded."""
    listed = yield from _listed(site)
    loaded = {"expires_at": _NEVER, "size_vram": 0}
    yield {
        "models": [
            _row(name, target) | loaded | {"context_length": target.card.max_model_len} for name, target in listed
        ]
    }


def _row(name: str, target: Target) -> JsonObject:
    card = target.card
    return {"name": name, "model": name, "size": 0, "digest": "", "details": details(card.id, card.root)}


def show(call: Call) -> Steps[None]:
    """What is known of one model."""
    card, profile = call.target.card, call.profile
    capabilities = yield from _capabilities(call)
    facts = details(card.id, card.root)
    parameters = [f"{name:<30} {_go(item)}" for name, item in sorted(_each(profile.parameters))]
    part: JsonObject = {
        "modelfile": _modelfile(call),
        "parameters": "\n".join(parameters),
        "template": profile.template or "",
        "details": facts,
        "model_info": {"general.basename": card.id},
        "capabilities": capabilities,
        "modified_at": _time(card.created),
    }
    if card.max_model_len is not None:
        part["model_info"][f"{facts['family'] or 'general'}.context_length"] = card.max_model_len
    if facts["family"]:
        part["model_info"]["general.architecture"] = facts["family"]
    if profile.system:
        part["system"] = profile.system
    if profile.license:
        part["license"] = profile.license
    yield part


def pull(_: Call) -> Steps[None]:
    """A model that is served is there already."""
    yield {"status": "success"}


def _modelfile(call: Call) -> str:
    lines = [f"# Served by vLLM at {call.url}", f"FROM {call.served}"]
    if call.profile.template:
        lines.append(f'TEMPLATE """{call.profile.template}"""')
    if call.profile.system:
        lines.append(f'SYSTEM """{call.profile.system}"""')
    lines += [f"PARAMETER {name} {item}" for name, item in _each(call.profile.parameters)]
    return "\n".join(lines) + "\n"


def _each(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Parameters one by one; each stop string is one, as in a Modelfile."""
    for name, value in parameters.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            yield name, item


def _go(value: Any) -> str:
    """A value as Ollama shows it: strings in quotes, numbers as they are."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _capabilities(call: Call) -> Steps[list[str]]:
    """What the model can do: the profile's word, else what the server's paths and its chat template show."""
    if call.profile.capabilities is not None:
        return list(call.profile.capabilities)
    paths = yield from _paths(call)
    if "/v1/embeddings" in paths:
        return ["embedding"]
    if call.profile.template:
        return _of_template(call.profile)
    style = thinking_style(call.served, call.target.card.root, call.profile.thinking)
    seen = yield from rendering(call, style or UNKNOWN)
    shown = yield from takes_tools(call)
    sees = yield from takes_images(call)
    found = [
        ("completion", True),
        ("vision", sees),
        ("tools", shown),
        ("insert", call.profile.fim or family_of(call.served, call.target.card.root)),
        ("thinking", (style and (style.switch or style.default)) or seen.reacts or seen.opens),
    ]
    return [name for name, has in found if has]


def _of_template(profile: Profile) -> list[str]:
    """What a Go template shows (Ollama 0.33, server/images.go, `goTemplateCapabilities`)."""
    template = read(profile.template or "")
    found = [
        ("completion", True),
        ("tools", "tools" in template.variables),
        ("insert", profile.fim or "suffix" in template.variables),
        ("thinking", profile.thinking.tags or template.thinking_tags),
    ]
    return [name for name, has in found if has]


class _OpenAPI(msgspec.Struct):
    paths: dict[str, msgspec.Raw] = {}


def _paths(call: Call) -> Steps[frozenset[str]]:
    """The paths that the server has, where it shows its OpenAPI document; otherwise none."""
    if (known := call.recall("paths", frozenset)) is not None:
        return known
    reply = yield from ask("GET", call.url, "/openapi.json", model=call.name)
    try:
        found = frozenset(decode(reply.body, _OpenAPI, call.url).paths) if reply.ok else frozenset()
    except ResponseError:
        found = frozenset()  # some other document
    if reply.status < 500:
        call.remember("paths", found)
    return found


def _listed(site: CatalogContext) -> Steps[list[tuple[str, Target]]]:
    """Names and the models behind them: profiles, then the map's names, then what is served under its own name."""
    targets = yield from site.fleet.catalog(site.timeout_s)
    listed: dict[str, tuple[str, Target]] = {}
    renamed = set()
    for name in site.names:
        served = site.names.served(name)
        target = next((target for target in targets if same(target.card.id, served)), None)
        if target is not None:
            if site.names.profile(name) is NO_PROFILE:
                renamed.add(target.card.id)
            listed.setdefault(canonical(name) or name, (with_tag(name), target))
    for target in targets:
        name = target.card.id
        if name not in renamed:
            listed.setdefault(canonical(name) or name, (with_tag(name), target))
    return list(listed.values())


def _time(seconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # no time that a clock could have shown
        moment = datetime.fromtimestamp(0, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def not_served(path: str, name: str, urls: tuple[str, ...]) -> Exception:
    """A model that no server has: Ollama's 404; for a pull, how to have it served."""
    if path != "/api/pull":
        return model_not_found(path, name)
    return response_error(
        f"pull model manifest: {name!r} is served by none of {', '.join(urls)}. vLLM loads a model when it starts: "
        f"start a server for it, put its URL into VLLM_URLS and its name into VLLM_MODEL_MAP",
        404,
    )
