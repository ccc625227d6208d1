"""What frozen values have in common: they compare, hash and show themselves by their fields.

``attrs`` writes these methods as text for each class and compiles them when its module is loaded. Of what a first
request took beyond ``import aiohttp`` that was three tenths (171 of 550 million instructions), for methods of which a
program calls next to none. These are written once, and look at the fields when they are first called.
"""

import functools
import operator
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs

_V = TypeVar("_V", bound="Value")

# So many classes are remembered: several times as many as there are, and a program that makes others as it goes gets
# rid of them.
_MOST_CLASSES = 512


class Value:
    """Base of an ``attrs.frozen`` class: what attrs would generate for it.

    Two values are equal if they are of one class and their fields are, as ``eq=`` of each says, where a field that is
    one object in both is equal to itself, as in tuples; they hash by the same fields. Their text names the class and
    the fields, as ``repr=`` of each says.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # attrs generates what it does not find in the class itself; what is only inherited does not count.
        for method in (Value.__eq__, Value.__hash__, Value.__repr__):
            if method.__name__ not in cls.__dict__:
                setattr(cls, method.__name__, method)

    def __eq__(self, other: object) -> bool:
        """Whether it is of the same class, and all that is compared is equal."""
        if other.__class__ is not self.__class__:
            return NotImplemented
        cls: Any = self.__class__
        compared = _compared(cls)
        return compared(self) == compared(other)

    def __hash__(self) -> int:
        """The same for values that are equal."""
        cls: Any = self.__class__
        return hash((cls, _compared(cls)(self)))

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        """Return the class's name and the fields, such as ``Fence(owner='a', number=2)``."""
        cls: Any = self.__class__
        shown = ", ".join(f"{name}={show(getattr(self, name))}" for name, show in _shown(cls))
        return f"{cls.__qualname__.rpartition('>.')[2]}({shown})"


def evolved(value: _V, **changes: Any) -> _V:
    """Return a value with some fields changed, as ``attrs.evolve`` does, for a fifth of the time.

    Only for classes with ``slots=False``, whose fields can be copied as a whole; they are neither converted nor
    validated again. No type checker looks at the changes, so it is for what is changed at every create.

    Raises:
        TypeError: A change is of no field.
    """
    fields: dict[str, Any] = vars(value)
    changed = {**fields, **changes}
    if len(changed) > len(fields):
        raise TypeError(f"{type(value).__name__} has no field {', '.join(sorted(changes.keys() - fields.keys()))}")
    copied = object.__new__(type(value))
    object.__setattr__(copied, "__dict__", changed)
    return copied


@functools.lru_cache(maxsize=_MOST_CLASSES)
def _compared(cls: type[Any]) -> Callable[[object], object]:
    """Return what reads the fields of a value that are compared, or its class if there are none."""
    fields = [field for field in attrs.fields(cls) if field.eq]
    if any(field.eq_key for field in fields):
        return lambda value: tuple((field.eq_key or _itself)(getattr(value, field.name)) for field in fields)
    return operator.attrgetter(*(field.name for field in fields)) if fields else type


def _itself(value: object) -> object:
    return value


@functools.lru_cache(maxsize=_MOST_CLASSES)
def _shown(cls: type[Any]) -> Sequence[tuple[str, Callable[[object], str]]]:
    """Return the fields of a value's text, and how each is shown."""
    return [(field.name, field.repr if callable(field.repr) else repr) for field in attrs.fields(cls) if field.repr]
