"""Translates Ollama's base64 images into the data URLs of OpenAI's content parts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .ollama_errors import response_error

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionContentPartParam

# The first bytes of each format that vLLM's image loader reads -> its media type.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def content(text: str, images: Sequence[str]) -> str | list[ChatCompletionContentPartParam]:
    """The content of an OpenAI message: `text`, after the base64 `images` if there are any, as in Ollama's prompts.

    Raises `ResponseError` 400 if an image is not base64.
    """
    if not images:
        return text
    parts: list[ChatCompletionContentPartParam] = [
        {"type": "image_url", "image_url": {"url": data_url(image)}} for image in images
    ]
    return [*parts, {"type": "text", "text": text}]


def data_url(image: str) -> str:
    """A base64 image as a `data:` URL. Raises `ResponseError` 400 with Ollama's text if it is not base64."""
    try:
        head = base64.b64decode(image[:64], validate=True)
    except (binascii.Error, ValueError):
        raise response_error("illegal base64 data at input byte 0", 400) from None
    return f"data:{media_type(head)};base64,{image}"


def media_type(head: bytes) -> str:
    """The media type of an image that begins with `head`. An unknown format is returned as `image/png`."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((media for signature, media in _SIGNATURES if head.startswith(signature)), "image/png")
