"""Configs as bodies: their schema is made from the fields of ``FineTuneConfig`` itself."""

from typing import Annotated, Any

from fastapi import Depends
from pydantic import ConfigDict, RootModel

from crynux_async.training.config import FineTuneConfig
from crynux_async.training.json_schema import config_schema


def _describe(schema: dict[str, Any]) -> None:
    """Put what the fields say in the place of what pydantic knows of a free table."""
    schema.clear()
    schema.update(config_schema())


class FineTuneConfigBody(RootModel[dict[str, Any]]):
    """What to train, as the flat JSON of ``FineTuneConfig``; what is wrong with it says ``FineTuneConfig`` itself."""

    model_config = ConfigDict(json_schema_extra=_describe)


async def config_from(body: FineTuneConfigBody) -> FineTuneConfig:
    """Return the config in a request's body.

    Raises:
        ConfigError: It is none; lists all that is wrong.
    """
    return FineTuneConfig.from_dict(body.root)


ConfigDep = Annotated[FineTuneConfig, Depends(config_from)]
"""The config in the request's body."""
