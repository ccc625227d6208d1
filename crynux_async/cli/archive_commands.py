"""The commands about a downloaded archive."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crynux_async.archive.naming import Program
from crynux_async.cli.exits import Exit, guard
from crynux_async.cli.options import Flag, Json


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
    program: Annotated[Program, Parameter(name="--for")] = "all",
    base_model: str | None = None,
    trigger: str | None = None,
    config: Path | None = None,
    overwrite: Flag = False,
    json: Json = False,
) -> int:
    """Write the LoRA of a downloaded archive as one safetensors file that loads completely, and say how to use it.

    Args:
        archive: The archive that was downloaded.
        out: The file to write; its name ends in .safetensors.
        program: What will load it: all makes one file for diffusers, ComfyUI, AUTOMATIC1111 and kohya's sd-scripts.
        base_model: The model that the LoRA was trained on; recorded in the file.
        trigger: The words of the captions that bring out what was trained; web UIs offer them for the prompt.
        config: TOML or JSON file with what was trained; recorded in the file, the data set's address included.
        overwrite: Replace a file of that name.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    def work() -> Exit:
        return archive_command.export(
            archive,
            out,
            program,
            config,
            base_model=base_model,
            trigger=trigger,
            overwrite=overwrite,
            as_json=json,
        )

    return guard(work, as_json=json)


def merge(
    archives: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    out: Path,
    weight: Annotated[list[float], Parameter(negative="", show_default=False)] = [],  # noqa: B006  # only read
    program: Annotated[Program, Parameter(name="--for")] = "all",
    base_model: str | None = None,
    trigger: str | None = None,
    overwrite: Flag = False,
    json: Json = False,
) -> int:
    """Write several LoRAs of one base model as one file that does exactly what they do together.

    Args:
        archives: Archives that were downloaded, or .safetensors files.
        out: The file to write; its name ends in .safetensors.
        weight: How much an archive counts; given once for each, in their order. All count 1 if it is not given.
        program: What will load it: all makes one file for diffusers, ComfyUI, AUTOMATIC1111 and kohya's sd-scripts.
        base_model: The model that the LoRAs need; recorded in the file.
        trigger: The words that bring out what was trained; by default those of the files, one after another.
        overwrite: Replace a file of that name.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    def work() -> Exit:
        return archive_command.merge(
            archives,
            out,
            program,
            weights=weight,
            base_model=base_model,
            trigger=trigger,
            overwrite=overwrite,
            as_json=json,
        )

    return guard(work, as_json=json)
