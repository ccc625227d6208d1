"""The kinds of options that many commands have; what one is for stands in the command's own docstring."""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

Flag: TypeAlias = Annotated[bool, Parameter(negative="", show_default=False)]
"""Given or not, without a "--no-" form."""

Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]

Set: TypeAlias = Annotated[list[str], Parameter(name="--set", negative="", show_default=False)]
"""Changes of a config, each as "field=value"."""

Yes: TypeAlias = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", show_default=False)]


def within(gte: int, lte: int | None = None) -> Callable[[Any, Any], None]:
    """Return what checks that a number is not smaller, and not larger where a largest one is given."""

    def check(kind: Any, value: Any) -> None:
        from cyclopts import validators  # here: none is needed by an option that is not given

        validators.Number(gte=gte, lte=lte)(kind, value)

    return check
