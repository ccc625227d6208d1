"""The commands about a data set."""

from pathlib import Path

from cyclopts import App

from crynux_async.cli.exits import Exit, execute, guard
from crynux_async.cli.options import Flag, Json
from crynux_async.datasets.captions import CaptionSource


def dataset_app() -> App:
    """Return ``dataset`` with its commands."""
    app = App(
        name="dataset",
        help="Check a data set, or the address of one, the way the nodes read it, and pack one for them.",
    )
    for command in (check, pack, check_url):
        app.command(command)
    return app


def check(
    path: Path,
    /,
    *,
    image_column: str = "image",
    caption_column: str = "text",
    resolution: int = 512,
    center_crop: Flag = False,
    json: Json = False,
) -> int:
    """Show what a node would make of a folder or archive: images, captions, and what will not work.

    The exit code is 0 when it can be trained on, and 2 when it cannot.

    Args:
        path: A folder, or a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
        image_column: The config's dataset_image_column.
        caption_column: The config's dataset_caption_column.
        resolution: The training resolution in pixels.
        center_crop: Whether the config has center_crop.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.cli import dataset as dataset_command

    def work() -> Exit:
        return dataset_command.check(
            path,
            image_column=image_column,
            caption_column=caption_column,
            resolution=resolution,
            center_crop=center_crop,
            as_json=json,
        )

    return guard(work, as_json=json)


def pack(
    folder: Path,
    out: Path,
    /,
    *,
    captions: CaptionSource = "auto",
    caption_column: str = "text",
    encoding: str | None = None,
    regularization: Flag = False,
    overwrite: Flag = False,
    json: Json = False,
) -> int:
    """Make the archive that nodes load as intended, or say everything that is wrong.

    Args:
        folder: Images with captions in .txt or .caption files of the same name, or in a metadata.jsonl or .csv.
        out: The archive to write, ending in .zip, outside of the folder.
        captions: Where to take the captions from.
        caption_column: The table's column that holds them.
        encoding: The encoding of captions that are not UTF-8, such as cp1252; they are converted.
        regularization: Pack the images of folders such as reg/1_dog, too.
        overwrite: Replace a file of that name.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import dataset as dataset_command

    def work() -> Exit:
        return dataset_command.pack(
            folder,
            out,
            captions=captions,
            caption_column=caption_column,
            encoding=encoding,
            regularization=regularization,
            overwrite=overwrite,
            as_json=json,
        )

    return guard(work, as_json=json)


def check_url(url: str, /, *, timeout: float = 30.0, json: Json = False) -> int:
    """Send an address the requests of a node, and say whether a node could load a data set from there.

    The exit code is 0 when it could, and 2 when it could not.

    Args:
        url: The address of an archive.
        timeout: Seconds to wait for everything together.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import dataset as dataset_command

    return execute(dataset_command.check_url(url, timeout=timeout, as_json=json), as_json=json)


app = dataset_app()
