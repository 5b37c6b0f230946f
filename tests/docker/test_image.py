"""The image that the tests of this folder run."""

from docker import DockerClient
from docker.types import Mount

from testbed.image import REPOSITORY, Image

from .conftest import name_of


def test_an_image_is_made_without_a_registry_and_runs_this_machines_python(
    engine: DockerClient, plain_image: Image
) -> None:
    mounts = [Mount(target=path, source=path, type="bind", read_only=True) for path in plain_image.volumes]
    script = ["python3", "-c", "import ctypes, sqlite3, ssl, getpass; print('ran as', getpass.getuser())"]
    output = engine.containers.run(plain_image.tag, script, name=name_of("python"), mounts=mounts, remove=True)
    assert output == b"ran as root\n"


def test_it_asks_for_everything_to_be_mounted_read_only_at_its_own_path(plain_image: Image) -> None:
    assert plain_image.tag.startswith(f"{REPOSITORY}:")
    assert all(inside == f"{outside}:ro" for outside, inside in plain_image.volumes.items())
