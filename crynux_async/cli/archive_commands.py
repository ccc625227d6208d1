"""The commands about a downloaded archive."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crynux_async.cli.exits import guard
from crynux_async.cli.options import Json
from crynux_async.cli.written_file import USUAL_FILE, WrittenFile


def inspect(archive: Path, /, *, config: Path | None = None, json: Json = False) -> int:
    """Check every byte and weight of a downloaded archive, and show what was trained.

    The exit code is 0 for a healthy model, 1 when something is wrong with it, 5 when it cannot be read.

    Args:
        archive: The archive that was downloaded.
        config: TOML or JSON file with what was asked for, to be compared with what is there.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    return guard(lambda: archive_command.inspect(archive, config, as_json=json), as_json=json)


def export(
    archive: Path,
    out: Path,
    /,
    *,
    file: WrittenFile = USUAL_FILE,
    config: Path | None = None,
    json: Json = False,
) -> int:
    """Write the LoRA of a downloaded archive as one safetensors file that loads completely, and say how to use it.

    Args:
        archive: The archive that was downloaded.
        out: The file to write; its name ends in .safetensors.
        file: What it is to be like.
        config: TOML or JSON file with what was trained; recorded in the file, the data set's address included.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    return guard(lambda: archive_command.export(archive, out, file, config, as_json=json), as_json=json)


def merge(
    archives: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    out: Path,
    weight: Annotated[list[float], Parameter(negative="", show_default=False)] = [],  # noqa: B006  # only read
    file: WrittenFile = USUAL_FILE,
    json: Json = False,
) -> int:
    """Write several LoRAs of one base model as one file that does exactly what they do together.

    Args:
        archives: Archives that were downloaded, or .safetensors files.
        out: The file to write; its name ends in .safetensors.
        weight: How much an archive counts; given once for each, in their order. All count 1 if it is not given.
        file: What it is to be like.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    return guard(lambda: archive_command.merge(archives, out, file, weight, as_json=json), as_json=json)
