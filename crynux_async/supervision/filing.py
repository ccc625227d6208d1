"""Under which names a user files a job, and when two asks are the same ask."""

import functools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

import attrs

from crynux_async.budgets import Budget
from crynux_async.errors import ConflictError, UsageError
from crynux_async.secret import mask_address, show_differences
from crynux_async.training.config import FineTuneConfig
from crynux_async.values import Value


class SharedFilingArguments(TypedDict, total=False):
    """What several jobs are filed under together; everything may be left out.

    Attributes:
        budget: What pays for them, in place of the session's.
        group: Which set of jobs they belong to, such as a sweep.
        tags: Free names and values to find them by.
        tenant: On whose behalf they run, where a program serves several; keys of different tenants never meet.
    """

    budget: Budget
    group: str
    tags: Mapping[str, str]
    tenant: str


class FilingArguments(SharedFilingArguments, total=False):
    """What a job is filed under; everything may be left out.

    Attributes:
        label: The caller's own name for the job.
        budget: What pays for it, in place of the session's.
        group: Which set of jobs it belongs to, such as a sweep.
        tags: Free names and values to find it by.
        tenant: On whose behalf it runs, where a program serves several; keys of different tenants never meet.
    """

    label: str


class SubmitArguments(FilingArguments, total=False):
    """What a job is filed under, and where its archive is wanted; everything may be left out.

    Attributes:
        folder: Where its archive is brought as soon as there is one, without anybody asking for it, by whichever
            session follows the job then.
        file_name: Its name there, as ``name`` of ``Job.download``.
    """

    folder: str | Path | None
    file_name: str | None


MAX_KEY_LENGTH = 512
"""Characters of an idempotency key: databases keep it in an index, whose entries are small."""


def aware(value: datetime | None, field: str) -> datetime | None:
    """Return a time as it is.

    Raises:
        UsageError: It has no time zone.
    """
    if value is not None and value.utcoffset() is None:
        raise UsageError(
            f"{field} must be a time with a time zone, such as datetime.now(UTC), not {value!r}", field=field
        )
    return value


def storable(text: object, field: str) -> str:
    """Return a text that every ledger can keep.

    Args:
        text: The text.
        field: What it is, for the message.

    Raises:
        UsageError: It is no text, or holds what no database keeps in one: a NUL, or half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise UsageError(f"{field} must be text, not {text!r:.80}", field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        if "\0" not in text:
            return text
    raise UsageError(f"{field} {text!r:.60} holds a character that cannot be kept", field=field)


def _is_storable(_: object, attribute: "attrs.Attribute[str]", value: object) -> None:
    storable(value, attribute.name)


def _are_tags(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if not isinstance(value, Mapping):
        raise UsageError(f"tags must be names and values, not {value!r:.80}", field="tags")
    for name, text in value.items():
        storable(name, "tags")
        storable(text, "tags")


def _frozen(tags: Any) -> Any:
    """Return tags that nobody can change; what is no table is refused later, by name."""
    return MappingProxyType(dict(tags)) if isinstance(tags, Mapping) else tags


@attrs.frozen(kw_only=True, weakref_slot=False)
class Filing(Value):
    """What a user files jobs under, besides what names one of them: its label and its idempotency key.

    Attributes:
        group: Which set of jobs they belong to, such as a sweep, or "".
        tags: Free names and values.
        tenant: On whose behalf they run, or "".
        budget: What pays for them, or None.

    Raises:
        UsageError: One of them cannot be kept.
    """

    group: str = attrs.field(default="", validator=_is_storable)
    tags: Mapping[str, str] = attrs.field(default=MappingProxyType({}), validator=_are_tags, converter=_frozen)
    tenant: str = attrs.field(default="", validator=_is_storable)
    budget: Budget | None = None


UNFILED = Filing()


def filed(
    *, group: str = "", tags: Mapping[str, str] | None = None, tenant: str = "", budget: Budget | None = None
) -> Filing:
    """Return a filing, one for all jobs that are filed alike: a hundred thousand of them must fit."""
    kept = UNFILED.tags if tags is None else tags
    try:
        return _filed(group, tuple(kept.items()), tenant, budget)
    except (AttributeError, TypeError):  # what is no table or cannot be hashed is no text, and is refused by name
        return Filing(group=group, tags=kept, tenant=tenant, budget=budget)


@functools.lru_cache(maxsize=64)
def _filed(group: str, tags: tuple[tuple[str, str], ...], tenant: str, budget: Budget | None) -> Filing:
    return Filing(group=group, tags=dict(tags), tenant=tenant, budget=budget)


def usable_key(key: str | None) -> str | None:
    """Return a user's name for one intention as it is, unique by backend and tenant; or None where there is none.

    Raises:
        UsageError: It cannot be kept.
    """
    if key is not None and not 0 < len(storable(key, "idempotency_key")) <= MAX_KEY_LENGTH:
        raise UsageError(f"an idempotency key has 1 to {MAX_KEY_LENGTH} characters", field="idempotency_key")
    return key


def conflict(
    key: str | None, before: FineTuneConfig | None, now: FineTuneConfig | None, *, asked_digest: str
) -> ConflictError | None:
    """Return why a key cannot stand for what is asked now, or None where it is what was asked before.

    A seed that nobody gave is no part of what was asked.

    Args:
        key: The idempotency key.
        before: What it stands for, as far as that has changed since it was asked: a later try may have more time.
        now: What is asked.
        asked_digest: The digest of what was asked first.
    """
    if before is None or now is None:
        return None  # one of them cannot be read, so nothing can be said against it
    if asked_digest == now.asked_digest():
        return None
    differences = differing(before, now)
    if not differences:
        return None
    said = show_differences(differences)
    return ConflictError(
        f"the idempotency key {key!r} stands for something else already: {said}; take another key for another job",
        differences={field: (mask_address(old), mask_address(new)) for field, (old, new) in differences.items()},
        field="idempotency_key",
    )


def differing(before: FineTuneConfig, now: FineTuneConfig) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two configs ask for different things, with what each of them asks."""
    if before.asked_digest() == now.asked_digest():
        return {}
    old, new = _asked(before), _asked(now)
    return {field: (old[field], new[field]) for field in old if old[field] != new[field]}


def _asked(config: FineTuneConfig) -> dict[str, Any]:
    return {**config.to_dict(), **({"seed": None} if config.seed_was_drawn else {})}
