"""`/api/create`, `/api/copy`, `/api/delete`: models made from served ones.

What a Modelfile adds to a model (template, system prompt, parameters, messages) is a profile here: it is kept in the
user's data directory and works like a profile of the settings. A profile of the settings itself is not changed by a
call. Words and status of the refusals: Ollama 0.33, server/create.go and server/routes.go.
"""

from __future__ import annotations

from typing import Any

from ollama import ResponseError
from pydantic import ValidationError

from ..generation.request import refuse_field
from ..mapping.errors import model_not_found, response_error
from ..mapping.model_names import canonical
from ..settings import Profile
from ..steps import JsonObject, Steps
from .catalog import not_served
from .catalog_context import CatalogContext

_NEEDS_FILES = {
    "files": "vLLM loads a model from a folder or a hub when it starts",
    "adapters": "start the vLLM server with --enable-lora --lora-modules NAME=PATH and use that name",
    "quantize": "serve a quantised model, or start the vLLM server with --quantization",
}


def create(site: CatalogContext) -> Steps[None]:
    """Make a profile from a served model or from another profile."""
    body = site.body
    name = str(body.get("model", ""))
    if canonical(name) is None:
        raise response_error("invalid model name", 400)
    for field, why in _NEEDS_FILES.items():
        if body.get(field):
            raise refuse_field(field, why)
    base = str(body.get("from") or "")
    if not base:
        raise response_error("neither 'from' or 'files' was specified", 400)
    _refuse_configured(site, name)
    yield from _served(site, base)
    profile = _derived(site, base)
    statuses: list[JsonObject] = [{"status": f"using existing model {site.names.served(base)}"}]
    site.names.created.put(name, profile)
    statuses += [{"status": "writing manifest"}, {"status": "success"}]
    yield from statuses if body.get("stream") else statuses[-1:]


def copy(site: CatalogContext) -> Steps[None]:
    """Give a model a further name."""
    source, destination = str(site.body.get("source", "")), str(site.body.get("destination", ""))
    for role, name in (("source", source), ("destination", destination)):
        if canonical(name) is None:
            raise response_error(f'{role} "{name}" is invalid', 400)
    _refuse_configured(site, destination)
    yield from _served(site, source)
    site.names.created.put(destination, _based_on(site, source))
    yield {}


def delete(site: CatalogContext) -> Steps[None]:
    """Forget a profile that was created."""
    name = str(site.body.get("model", ""))
    if canonical(name) is None:
        raise response_error(f'name "{name}" is invalid', 400)
    if site.names.made(name) is not None:
        site.names.created.put(name, None)
        yield {}
        return
    _refuse_configured(site, name)
    target = yield from site.fleet.find(site.names.served(name), left_s=site.timeout_s)
    if target is None:
        raise model_not_found(site.path, name)
    raise response_error(f"{name!r} is served by {target.url}: to take it away, stop that vLLM server", 501)


def _refuse_configured(site: CatalogContext, name: str) -> None:
    if site.names.configured(name) is not None:
        raise response_error(f"{name!r} is a profile of the file that OLLAMA_COMPAT_CONFIG names: change it there", 501)


def _served(site: CatalogContext, name: str) -> Steps[None]:
    target = yield from site.fleet.find(site.names.served(name), left_s=site.timeout_s)
    if target is None:
        raise not_served(site.path, name, site.urls)


def _based_on(site: CatalogContext, base: str) -> Profile:
    """A profile that is the same model as `base`, now and when the model map changes."""
    profile = site.names.profile(base)
    return profile if profile.from_ else profile.model_copy(update={"from_": base})


def _derived(site: CatalogContext, base: str) -> Profile:
    body, profile = site.body, _based_on(site, base)
    changes: dict[str, Any] = {
        "system": body.get("system") or profile.system,
        "template": body.get("template") or profile.template,
        "parameters": {**profile.parameters, **(body.get("parameters") or {})},
        "messages": tuple(body.get("messages") or profile.messages),
        "license": _license(body.get("license")) or profile.license,
    }
    try:
        return Profile.model_validate(profile.model_dump() | changes)
    except ValidationError as problem:
        raise _invalid(problem) from None


def _license(value: Any) -> str | None:
    return "\n".join(value) if isinstance(value, list) else value


def _invalid(problem: ValidationError) -> ResponseError:
    first = problem.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return response_error(f"{place}: {first['msg'].removeprefix('Value error, ')}", 400)
