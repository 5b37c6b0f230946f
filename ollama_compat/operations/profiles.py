"""`/api/create`, `/api/copy`, `/api/delete`: models that are made from served models.

What a Modelfile adds to a model (template, system prompt, parameters, messages) is a profile here. It is kept in the
user's data directory and works like a profile of the settings. A call cannot change a profile of the settings. Text
and status of the refusals: Ollama 0.33, server/create.go and server/routes.go.
"""

from __future__ import annotations

from typing import Any

from ollama import ResponseError
from pydantic import ValidationError

from ..generation.request import unavailable
from ..mapping.model_names import canonical
from ..mapping.ollama_errors import model_not_found, response_error
from ..servers.backends import not_served
from ..settings import Profile
from ..steps import JsonObject, Steps
from .catalog_context import CatalogContext

_NEEDS_FILES = {
    "files": "vLLM loads a model from a folder or a hub when it starts",
    "adapters": "start the vLLM server with --enable-lora --lora-modules NAME=PATH and use that name",
    "quantize": "serve a quantised model, or start the vLLM server with --quantization",
}


def create(context: CatalogContext) -> Steps[None]:
    """Make a profile from a served model or from another profile."""
    body = context.body
    name = str(body.get("model", ""))
    if canonical(name) is None:
        raise response_error("invalid model name", 400)
    for field, cause in _NEEDS_FILES.items():
        if body.get(field):
            raise unavailable(field, cause)
    base = str(body.get("from") or "")
    if not base:
        raise response_error("neither 'from' or 'files' was specified", 400)
    _refuse_configured(context, name)
    yield from _served(context, base)
    profile = _derived(context, base)
    statuses: list[JsonObject] = [{"status": f"using existing model {context.resolver.served(base)}"}]
    context.resolver.store.put(name, profile)
    statuses += [{"status": "writing manifest"}, {"status": "success"}]
    yield from statuses if body.get("stream") else statuses[-1:]


def copy(context: CatalogContext) -> Steps[None]:
    """Give a model another name."""
    source, destination = str(context.body.get("source", "")), str(context.body.get("destination", ""))
    for role, name in (("source", source), ("destination", destination)):
        if canonical(name) is None:
            raise response_error(f'{role} "{name}" is invalid', 400)
    _refuse_configured(context, destination)
    yield from _served(context, source)
    context.resolver.store.put(destination, _based_on(context, source))
    yield {}


def delete(context: CatalogContext) -> Steps[None]:
    """Delete a created profile."""
    name = str(context.body.get("model", ""))
    if canonical(name) is None:
        raise response_error(f'name "{name}" is invalid', 400)
    if context.resolver.created_profile(name) is not None:
        context.resolver.store.put(name, None)
        yield {}
        return
    _refuse_configured(context, name)
    target = yield from context.registry.find(context.resolver.served(name), left_s=context.timeout_s)
    if target is None:
        raise model_not_found(context.path, name)
    raise response_error(f"{name!r} is served by {target.url}: to remove it, stop that vLLM server", 501)


def _refuse_configured(context: CatalogContext, name: str) -> None:
    if context.resolver.configured_profile(name) is not None:
        raise response_error(f"{name!r} is a profile in the file that OLLAMA_COMPAT_CONFIG names: change it there", 501)


def _served(context: CatalogContext, name: str) -> Steps[None]:
    target = yield from context.registry.find(context.resolver.served(name), left_s=context.timeout_s)
    if target is None:
        raise not_served(context.path, name, context.registry.urls)


def _based_on(context: CatalogContext, base: str) -> Profile:
    """A profile of the same model as `base`, also after a change of the model map."""
    profile = context.resolver.profile(base)
    return profile if profile.from_ else profile.model_copy(update={"from_": base})


def _derived(context: CatalogContext, base: str) -> Profile:
    body, profile = context.body, _based_on(context, base)
    changes: dict[str, Any] = {
        "system": body.get("system") or profile.system,
        "template": body.get("template") or profile.template,
        "parameters": {**profile.parameters, **(body.get("parameters") or {})},
        "messages": tuple(body.get("messages") or profile.messages),
        "license": _license(body.get("license")) or profile.license,
    }
    try:
        return Profile.model_validate(profile.model_dump() | changes)
    except ValidationError as error:
        raise _invalid(error) from None


def _license(value: Any) -> str | None:
    return "\n".join(value) if isinstance(value, list) else value


def _invalid(error: ValidationError) -> ResponseError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return response_error(f"{place}: {first['msg'].removeprefix('Value error, ')}", 400)
