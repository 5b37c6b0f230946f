"""A registry of one image on this machine: the part of the OCI distribution specification that a pull needs.

with Registry(layers=3) as registry:
    client.images.pull(registry.image)
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves one image, `tiny:v1`, with the given number of layers."""

    def __init__(self, layers: int = 3, broken: bool = False) -> None:
        """`broken`: the bytes of the last layer do not match their digest."""
        self._answers: dict[str, tuple[str, bytes]] = {"/v2/": ("application/json", b"{}")}
        self._publish(layers, broken)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answers))

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}/tiny:v1"

    @property
    def missing_image(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}/nothing:v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _publish(self, layers: int, broken: bool) -> None:
        plain = [_layer(f"file-{number}") for number in range(layers)]
        packed = [gzip.compress(layer) for layer in plain]
        rootfs = {"type": "layers", "diff_ids": [_digest(layer) for layer in plain]}
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, layer) for layer in packed],
        }
        content = json.dumps(manifest).encode()
        for name in ("v1", _digest(content)):
            self._answers[f"/v2/tiny/manifests/{name}"] = (_MANIFEST, content)
        for blob in (config, *packed):
            self._answers[f"/v2/tiny/blobs/{_digest(blob)}"] = ("application/octet-stream", blob)
        if broken:
            self._answers[f"/v2/tiny/blobs/{_digest(packed[-1])}"] = ("application/octet-stream", b"torn")


def _layer(name: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 10
        tar.addfile(member, io.BytesIO(b"0123456789"))
    return archive.getvalue()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


def _handler(answers: dict[str, tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    unknown = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = answers.get(self.path, ("application/json", unknown))
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if kind == _MANIFEST:
                self.send_header("Docker-Content-Digest", _digest(content))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    return Handler
