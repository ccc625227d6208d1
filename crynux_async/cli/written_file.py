"""The options by which a command is told what a file with a LoRA is to be like."""

from typing import Annotated

import attrs
from cyclopts import Parameter

from crynux_async.archive.naming import Program
from crynux_async.cli.options import Flag
from crynux_async.values import Value


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class WrittenFile(Value):
    """What a file with a LoRA is to be like.

    Attributes:
        program: What will load it.
        base_model: The model that it is for, as the file says it; or None for what is known.
        trigger: The words that bring out what was trained, as the file says them; or None for what is known.
        overwrite: Whether it may take the place of another file.
    """

    program: Annotated[
        Program,
        Parameter(
            name="--for",
            help="What will load it: all makes one file for diffusers, ComfyUI, AUTOMATIC1111 and kohya's sd-scripts.",
        ),
    ] = "all"
    base_model: Annotated[
        str | None, Parameter(help="The model that it was trained on, or that it needs; recorded in the file.")
    ] = None
    trigger: Annotated[
        str | None,
        Parameter(
            help="The words of the captions that bring out what was trained; web UIs offer them for the prompt. "
            "A merged file has those of its parts, one after another, if it is not given."
        ),
    ] = None
    overwrite: Annotated[Flag, Parameter(help="Replace a file of that name.")] = False


USUAL_FILE = WrittenFile()
