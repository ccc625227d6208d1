"""Where validation images of a model are: beside its archive, under the archive's whole name with numbers behind it."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path


def images_beside(archive: Path) -> list[Path]:
    """Return the images beside an archive, in order; none where not all of them were stored."""
    paths = (_image_path(archive, number) for number in itertools.count())
    return list(itertools.takewhile(Path.exists, paths))


def put_images(archive: Path, images: Sequence[bytes]) -> list[Path]:
    """Store images beside an archive and return their files, in order. No file that is there already is replaced.

    Args:
        archive: The archive.
        images: PNG files.

    Raises:
        OSError: They cannot be written.
    """
    from crynux_async.files import new_file  # here: who only looks for images needs none of what writes files

    paths = [_image_path(archive, number) for number in range(len(images))]
    # The first one last: where it is there, all of them are, whatever has ended the process in between.
    for path, image in reversed(list(zip(paths, images, strict=True))):
        # What an earlier process has stored is the same, and a picture of the user's is not ours to replace.
        with contextlib.suppress(FileExistsError), new_file(path) as file:
            file.write(image)
    return paths


def _image_path(archive: Path, number: int) -> Path:
    # With its suffix: "cat-2.png" would be an image of cat.zip and the beginning of a name of cat-2.zip's.
    return archive.with_name(f"{archive.name}-{number}.png")
