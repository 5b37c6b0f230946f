"""The catalog: `/api/tags`, `/api/show`, `/api/ps`, `/api/pull`, from what the servers return about their models.

vLLM returns a model's name, window and path (`/v1/models`); the paths of its API show whether it chats or embeds, and
what the chat template renders shows the capabilities. What is not known (size on disk, digest) stays empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from ollama import ResponseError

from ..call import Call
from ..generation.template_analysis import analyse_thinking, renders_images, renders_tools
from ..generation.thinking_plan import style_of
from ..go_template.prompt import read
from ..mapping.model_details import details
from ..mapping.model_families import UNKNOWN, infill_of
from ..mapping.model_names import canonical, same, with_tag
from ..mapping.vllm_schema import decode
from ..servers.server import Target
from ..settings import NO_PROFILE, Profile
from ..steps import JsonObject, Reply, Request, Send, Steps
from .catalog_context import CatalogContext

_NEVER = "2318-03-01T00:00:00Z"  # Ollama's `expires_at` of a model that stays loaded (keep_alive: -1)


def tags(context: CatalogContext) -> Steps[None]:
    """Every model that a call may request, under the names that services use."""
    listed = yield from _listed(context)
    yield {"models": [_row(name, target) | {"modified_at": _time(target.card.created)} for name, target in listed]}


def ps(context: CatalogContext) -> Steps[None]:
    """The same models: vLLM keeps a served model loaded."""
    listed = yield from _listed(context)
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
    """What is known about one model."""
    card, profile = call.target.card, call.profile
    capabilities = yield from _capabilities(call)
    model_details = details(card.id, card.root)
    parameters = [f"{name:<30} {_go(item)}" for name, item in sorted(_each(profile.parameters))]
    part: JsonObject = {
        "modelfile": _modelfile(call),
        "parameters": "\n".join(parameters),
        "template": profile.template or "",
        "details": model_details,
        "model_info": {"general.basename": card.id},
        "capabilities": capabilities,
        "modified_at": _time(card.created),
    }
    if card.max_model_len is not None:
        part["model_info"][f"{model_details['family'] or 'general'}.context_length"] = card.max_model_len
    if model_details["family"]:
        part["model_info"]["general.architecture"] = model_details["family"]
    if profile.system:
        part["system"] = profile.system
    if profile.license:
        part["license"] = profile.license
    yield part


def pull(_: Call) -> Steps[None]:
    """A served model needs no download."""
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
    """The parameters one by one; each stop string is one, as in a Modelfile."""
    for name, value in parameters.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            yield name, item


def _go(value: Any) -> str:
    """A value in Ollama's format: strings in quotes, numbers unchanged."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _capabilities(call: Call) -> Steps[list[str]]:
    """The capabilities: the profile's, otherwise what the server's paths and its chat template show."""
    if call.profile.capabilities is not None:
        return list(call.profile.capabilities)
    paths = yield from _paths(call)
    if "/v1/embeddings" in paths:
        return ["embedding"]
    if call.profile.template:
        return _of_template(call.profile)
    style = style_of(call, call.profile)
    template = yield from analyse_thinking(call, style or UNKNOWN)
    has_tools = yield from renders_tools(call)
    has_vision = yield from renders_images(call)
    found = [
        ("completion", True),
        ("vision", has_vision),
        ("tools", has_tools),
        ("insert", call.profile.fim or infill_of(call.served, call.target.card.root)),
        ("thinking", (style and (style.switch or style.default)) or template.reacts or template.opens),
    ]
    return [name for name, has in found if has]


def _of_template(profile: Profile) -> list[str]:
    """The capabilities that a Go template shows (Ollama 0.33, server/images.go, `goTemplateCapabilities`)."""
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
    """The paths of the server's API; none if it returns no OpenAPI document."""
    if (known := call.fact("paths", frozenset)) is not None:
        return known
    reply: Reply = yield Send(Request("GET", call.url, "/openapi.json", model=call.name))
    try:
        found = frozenset(decode(reply.body, _OpenAPI, call.url).paths) if reply.ok else frozenset()
    except ResponseError:
        found = frozenset()  # some other document
    if reply.status < 500:
        call.keep_fact("paths", found)
    return found


def _listed(context: CatalogContext) -> Steps[list[tuple[str, Target]]]:
    """Names and their models: profiles, then the names of the map, then models under their served name."""
    targets = yield from context.registry.catalog(context.timeout_s)
    listed: dict[str, tuple[str, Target]] = {}
    renamed = set()
    for name in context.resolver:
        served = context.resolver.served(name)
        target = next((target for target in targets if same(target.card.id, served)), None)
        if target is not None:
            if context.resolver.profile(name) is NO_PROFILE:
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
    except (OverflowError, ValueError, OSError):  # not a valid time
        moment = datetime.fromtimestamp(0, UTC)
    return moment.isoformat().replace("+00:00", "Z")
