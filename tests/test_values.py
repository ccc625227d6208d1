"""Frozen values do what attrs would generate for them, by methods that are written once."""

import gc
import pickle
import weakref
from typing import Any, Generic, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.values import Value, evolved


def _masked(text: str) -> str:
    return f"<{len(text)} characters>"


@attrs.frozen(kw_only=True)
class _Ours(Value):
    name: str
    shouted: str = attrs.field(default="", eq=str.casefold)
    note: str = attrs.field(default="", repr=_masked)
    hidden: int = attrs.field(default=0, repr=False)
    passing: int = attrs.field(default=0, eq=False)


@attrs.frozen(kw_only=True)
class _Theirs:
    name: str
    shouted: str = attrs.field(default="", eq=str.casefold)
    note: str = attrs.field(default="", repr=_masked)
    hidden: int = attrs.field(default=0, repr=False)
    passing: int = attrs.field(default=0, eq=False)


@attrs.frozen(kw_only=True)
class _Derived(_Ours):
    more: tuple[object, ...] = ()


@attrs.frozen(kw_only=True, slots=False)
class _Open(Value):
    name: str
    note: str = ""
    passing: int = attrs.field(default=0, eq=False)


@attrs.frozen
class _Single(Value):
    items: object


@attrs.frozen
class _Empty(Value):
    pass


@attrs.frozen
class _Special(Value):
    number: int

    def __repr__(self) -> str:
        return "special"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Special)

    def __hash__(self) -> int:
        return 7


_fields = st.fixed_dictionaries(
    {"name": st.sampled_from("ab"), "note": st.sampled_from("ab")},
    optional={"shouted": st.sampled_from("aAb"), "hidden": st.integers(0, 1), "passing": st.integers(0, 1)},
)


@given(first=_fields, second=_fields)
def test_equality_hash_and_text_are_those_that_attrs_generates(
    first: dict[str, object], second: dict[str, object]
) -> None:
    ours, theirs = _Ours(**first), _Theirs(**first)  # type: ignore[arg-type]
    other_ours, other_theirs = _Ours(**second), _Theirs(**second)  # type: ignore[arg-type]

    assert (ours == other_ours, ours != other_ours) == (theirs == other_theirs, theirs != other_theirs)
    assert len({ours, other_ours}) == len({theirs, other_theirs})
    assert repr(ours) == repr(theirs).replace("_Theirs", "_Ours")


def test_derived_value_compares_and_shows_what_it_adds() -> None:
    assert _Derived(name="a", more=(1,)) == _Derived(name="a", more=(1,))
    assert _Derived(name="a", more=(1,)) != _Derived(name="a", more=(2,))
    assert (
        repr(_Derived(name="a", more=(1,)))
        == "_Derived(name='a', shouted='', note=<0 characters>, passing=0, more=(1,))"
    )


def test_value_of_another_class_is_never_equal() -> None:
    assert _Derived(name="a") != _Ours(name="a")
    assert _Ours(name="a") != _Derived(name="a")
    assert _Empty() != _Single(())
    assert _Empty() == _Empty()
    assert hash(_Empty()) == hash(_Empty())


def test_value_that_holds_itself_is_shown_without_end_by_none() -> None:
    items: list[object] = []
    items.append(_Single(items))

    assert repr(items[0]) == "_Single(items=[...])"


def test_value_with_an_unhashable_field_is_unhashable() -> None:
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        hash(_Single([]))


def test_what_a_class_says_itself_stays() -> None:
    assert _Special(1) == _Special(2)
    assert hash(_Special(1)) == 7
    assert repr(_Special(1)) == "special"


def test_value_survives_pickling_and_is_matched_and_replaced() -> None:
    value = _Ours(name="a", note="n", hidden=1, passing=2)

    assert pickle.loads(pickle.dumps(value)) == value
    assert attrs.evolve(value, name="b") == _Ours(name="b", note="n", hidden=1)
    match _Single(3):
        case _Single(found):
            assert found == 3


def test_value_with_a_parameter_of_its_type_keeps_it() -> None:
    kind = TypeVar("kind")

    @attrs.frozen
    class Boxed(Value, Generic[kind]):
        content: kind

    assert Boxed[int](1) == Boxed(1)
    assert repr(Boxed("a")) == "Boxed(content='a')"


@given(st.text(), st.text(), st.integers())
def test_evolved_changes_what_attrs_changes(name: str, note: str, passing: int) -> None:
    value = _Open(name=name, note="before")
    changed = evolved(value, note=note, passing=passing)

    assert changed == attrs.evolve(value, note=note, passing=passing)
    assert changed.passing == passing
    assert hash(changed) == hash(_Open(name=name, note=note))
    assert pickle.loads(pickle.dumps(changed)) == changed
    assert value == _Open(name=name, note="before")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        changed.note = "after"  # type: ignore[misc]


def test_evolved_changes_nothing_that_is_no_field() -> None:
    value = _Open(name="a")
    with pytest.raises(TypeError, match="_Open has no field nope"):
        evolved(value, note="b", nope=1)
    assert value == _Open(name="a")


def test_classes_that_nobody_has_any_more_are_not_kept_for_ever() -> None:
    def made(number: int) -> "weakref.ref[Any]":
        cls = attrs.frozen(type(f"Made{number}", (Value,), {"__annotations__": {"name": str}}))
        one, same = cls("a"), cls("a")
        assert (one == same, hash(one) == hash(same), repr(one)) == (True, True, f"Made{number}(name='a')")
        return weakref.ref(cls)

    first, *_ = [made(number) for number in range(600)]
    gc.collect()
    assert first() is None
