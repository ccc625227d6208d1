"""The kinds of options that many commands have; what one is for stands in the command's own docstring."""

from typing import Annotated, TypeAlias

from cyclopts import Parameter

Flag: TypeAlias = Annotated[bool, Parameter(negative="")]
"""Given or not, without a "--no-" form."""

Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative="")]

Set: TypeAlias = Annotated[list[str], Parameter(name="--set", negative="", show_default=False)]
"""Changes of a config, each as "field=value"."""

Yes: TypeAlias = Annotated[bool, Parameter(name=["--yes", "-y"], negative="")]
