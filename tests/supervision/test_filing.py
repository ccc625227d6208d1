"""What jobs are filed under is checked, cannot be changed, and is kept once where it is the same."""

from typing import Any, cast

import pytest

from crynux_async import UsageError
from crynux_async.supervision.filing import filed


def test_jobs_with_the_same_tags_share_them() -> None:
    first, second = filed(tags={"sweep": "cats"}), filed(tags={"sweep": "cats"})
    assert first.tags is second.tags
    assert filed(tags={"sweep": "dogs"}).tags is not first.tags


def test_tags_that_the_caller_changes_later_stay_what_they_were() -> None:
    given = {"sweep": "cats"}
    filing = filed(tags=given)
    given["sweep"] = "dogs"
    assert dict(filing.tags) == {"sweep": "cats"}
    with pytest.raises(TypeError):
        cast(Any, filing.tags)["sweep"] = "dogs"


@pytest.mark.parametrize("tags", [{"sweep": ["cats"]}, {"sweep": 1}, {"a\0b": "c"}, ["sweep"]])
def test_tags_that_are_no_texts_are_refused_by_name(tags: Any) -> None:
    with pytest.raises(UsageError) as error:
        filed(tags=tags)
    assert error.value.field == "tags"
