"""A container image for the test bed's vLLM, made without a registry and without a download.

The image contains only a few links and files. Folders of this machine are mounted read-only at the same paths: `/usr`
(the C library, a shell), Python, the environment with vLLM, and the models. So the container uses the same libraries.
The Docker engine must run on this machine.

    image = build(docker.from_env(), environment.prepare())
    Server(…, image=image.tag, volumes=image.volumes)         # `python3` is the Python that has vLLM
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.command import run
from testbed.paths import HERE, HOME, TestbedError

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "ollama-compat-testbed"
"""The name of the image. Its tag is a digest of the content, so an outdated image is not used."""

_SYSTEM = Path("/usr")
_AT_THE_ROOT = ("bin", "lib", "lib32", "lib64", "libx32")
# `sbin` is no link into the mounted /usr, because the engine puts its init program there.
_EMPTY = ("dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var")
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": b"root:x:0:\n",
}
# The loader needs it to find libraries outside its default folders, for example those of a Python in /usr/local.
_LOADER_CACHE = Path("/etc/ld.so.cache")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """An image and the volumes that its containers need."""

    tag: str
    """The name, as `repository:tag`."""
    volumes: Mapping[str, str]
    """Folder of this machine -> the same path, read-only, as in `Server.volumes`."""


def build(client: DockerClient, python: Path) -> Image:
    """The image for a Python. Makes it if the engine does not have it. Raises `TestbedError`."""
    rootfs = _rootfs()
    # Links are not resolved, because the Python of a virtual environment is a link.
    path = f"PATH={python.parent}:{_PATH}"
    tag = hashlib.sha256(rootfs + path.encode()).hexdigest()[:12]
    name = f"{REPOSITORY}:{tag}"
    if not client.images.list(name=name):
        client.api.import_image_from_data(rootfs, repository=REPOSITORY, tag=tag, changes=[f"ENV {path}"])
    return Image(name, {folder: f"{folder}:ro" for folder in _mounts(python)})


def _rootfs() -> bytes:
    """The files of the image as a tar archive, with the same bytes each time on this machine."""
    if not (_SYSTEM / "lib").is_dir():
        raise TestbedError(f"This machine's system can't be used as an image: it has no {_SYSTEM / 'lib'}.")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for member, content in _members():
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def _members() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for name in _EMPTY:
        yield _member(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755), b""
    for name in _AT_THE_ROOT:
        link = Path("/", name)
        if link.is_symlink():
            member = _member(name, tarfile.SYMTYPE, 0o777)
            member.linkname = os.readlink(link)
            yield member, b""
    cache = {str(_LOADER_CACHE.relative_to("/")): _LOADER_CACHE.read_bytes()} if _LOADER_CACHE.is_file() else {}
    for name, content in {**_FILES, **cache}.items():
        member = _member(name, tarfile.REGTYPE, 0o644)
        member.size = len(content)
        yield member, content


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _mounts(python: Path) -> list[str]:
    """The folders that a server in the container reads, without folders inside other ones."""
    prefixes = run([str(python), "-c", "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"]).splitlines()
    models = HOME / "models"
    models.mkdir(parents=True, exist_ok=True)
    at_the_root = [Path("/", name) for name in _AT_THE_ROOT]
    system = [_SYSTEM, *(folder for folder in at_the_root if folder.is_dir() and not folder.is_symlink())]
    return _outermost([*system, *map(Path, prefixes), models, HERE])


def _outermost(folders: Iterable[Path]) -> list[str]:
    there = sorted({folder.resolve() for folder in folders})
    return [str(folder) for folder in there if not any(parent in there for parent in folder.parents)]
