"""Tests of `testbed.image`, which makes the image of the tests in this folder."""

from docker import DockerClient
from docker.types import Mount

from testbed.image import REPOSITORY, Image

from .helpers import name_of


def test_image_runs_the_python_of_this_machine_without_a_registry(engine: DockerClient, plain_image: Image) -> None:
    mounts = [Mount(target=path, source=path, type="bind", read_only=True) for path in plain_image.volumes]
    script = ["python3", "-c", "import ctypes, sqlite3, ssl, getpass; print('ran as', getpass.getuser())"]
    output = engine.containers.run(plain_image.tag, script, name=name_of("python"), mounts=mounts, remove=True)
    assert output == b"ran as root\n"


def test_image_mounts_everything_read_only_at_the_same_path(plain_image: Image) -> None:
    assert plain_image.tag.startswith(f"{REPOSITORY}:")
    assert all(inside == f"{outside}:ro" for outside, inside in plain_image.volumes.items())
