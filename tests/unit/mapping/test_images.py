"""Translation of images into OpenAI's content parts."""

from __future__ import annotations

import base64

import pytest

from ollama_compat import ResponseError
from ollama_compat.mapping.images import content, data_url

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 100).decode()


def test_content_without_images_is_text() -> None:
    assert content("Hi", []) == "Hi"


def test_content_has_images_before_text() -> None:
    assert content("What is it?", [PNG, PNG]) == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "text", "text": "What is it?"},
    ]


@pytest.mark.parametrize(
    ("head", "media"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"GIF87a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", "image/png"),
        (b"BM\x00\x00", "image/bmp"),
        (b"II*\x00", "image/tiff"),
        (b"MM\x00*", "image/tiff"),
        (b"unknown", "image/png"),
        (b"", "image/png"),
    ],
)
def test_data_url_has_the_media_type_of_the_first_bytes(head: bytes, media: str) -> None:
    assert data_url(base64.b64encode(head).decode()).startswith(f"data:{media};base64,")


@pytest.mark.parametrize("wrong", ["not base64!", "A", "cat.png", "데이터"])
def test_data_url_raises_ollamas_error_if_the_image_is_not_base64(wrong: str) -> None:
    with pytest.raises(ResponseError) as caught:
        data_url(wrong)
    assert (caught.value.error, caught.value.status_code) == ("illegal base64 data at input byte 0", 400)
