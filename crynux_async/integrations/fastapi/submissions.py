"""What a POST of a config says beside it: under which key and which names its job is filed.

Read by one model, and not as four parameters of FastAPI, which take it as long as all the rest of its work.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from crynux_async.supervision.filing import MAX_KEY_LENGTH

MAX_NAME = 200
"""Characters of a label, a group or a tag."""

MAX_TAGS = 32

Tag = Annotated[str, Field(pattern="^[^:]+:", max_length=MAX_NAME)]
"""A name, a colon and a text."""

_KEY = "idempotency-key"  # as the alias below


class Submission(BaseModel):
    """What a job is filed under."""

    key: str | None = Field(
        default=None,
        alias="idempotency-key",
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        description="Asked again, it is the same job.",
    )
    label: str = Field(default="", max_length=MAX_NAME)
    group: str = Field(default="", max_length=MAX_NAME)
    tag: list[Tag] = Field(default=[], max_length=MAX_TAGS)

    @classmethod
    def of(cls, request: Request) -> Self:
        """Return what a request says.

        Raises:
            RequestValidationError: It is nothing that a job can be filed under.
        """
        key = request.headers.get(_KEY)
        given: dict[str, Any] = {} if key is None else {_KEY: key}
        if request.scope["query_string"]:
            query = request.query_params
            given |= {name: query[name] for name in ("label", "group") if name in query}
            given["tag"] = query.getlist("tag")
        try:
            return cls(**given)
        except ValidationError as error:
            raise RequestValidationError([_placed(entry) for entry in error.errors()]) from error

    @property
    def tags(self) -> dict[str, str]:
        """The tags by their names."""
        return tags_of(self.tag)


def tags_of(given: list[str]) -> dict[str, str]:
    """Return tags by their names."""
    pairs = (each.partition(":") for each in given)
    return {name: text for name, _, text in pairs}


def submission_parameters() -> list[dict[str, Any]]:
    """Return what the schema of a route says of it."""
    return [
        {"name": name, "in": _place(name), "required": False, "schema": schema}
        for name, schema in Submission.model_json_schema()["properties"].items()
    ]


def _place(name: object) -> str:
    return "header" if name == _KEY else "query"


def _placed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error with the part of the request that it is about, as FastAPI tells of its own."""
    return {**entry, "loc": (_place(entry["loc"][0]), *entry["loc"])}
