"""What the loader makes of a later table's columns: the types of the first one, where values allow it.

Source: datasets 3.1.0 table.py (cast_table_to_schema, cast_array_to_feature, array_cast) and features/image.py
(Image.cast_storage).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from crynux_async.datasets.arrow import arrow


def uncastable(
    types: Mapping[str, Any], values: Mapping[str, Any], wanted: Mapping[str, Any], images: Iterable[str]
) -> tuple[str, ...]:
    """Return the columns that the loader cannot make into those of the first table.

    Columns that are missing are no fault: the loader fills them with nulls. A cast that depends on the values, such as
    text into numbers, is tried where they are at hand and not relied on elsewhere.

    Args:
        types: The Arrow type of each column of a later table.
        values: The values of the columns whose values are at hand.
        wanted: The types of the first table.
        images: The columns that the first table marks as images.
    """
    return tuple(
        name
        for name, kind in types.items()
        if name not in wanted
        or not (
            _holds_images(kind)
            if name in images
            else _becomes(kind, wanted[name]) or _is_cast(values.get(name), wanted[name])
        )
    )


def is_flat(kind: Any) -> bool:
    """Whether values of a type have a few bytes each, or are texts: neither binary nor nested."""
    types = arrow("types")
    is_large = types.is_binary(kind) or types.is_large_binary(kind) or types.is_nested(kind)
    return not (is_large or types.is_dictionary(kind))


def spelled(column: Any) -> Any:
    """Return a column as the loader makes text of it, in lists where it holds lists; itself where Arrow has no way."""
    pyarrow = arrow()
    text = pyarrow.list_(pyarrow.string()) if _is_list(column.type) else pyarrow.string()
    try:
        return column.cast(text)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return column


def _becomes(kind: Any, wanted: Any) -> bool:
    types = arrow("types")
    if types.is_dictionary(kind):
        return _becomes(kind.value_type, wanted)
    if types.is_dictionary(wanted):
        return _becomes(kind, wanted.value_type)
    if types.is_null(kind) or kind == wanted:
        return True
    if types.is_struct(kind):
        fields = {field.name: field.type for field in wanted} if types.is_struct(wanted) else {}
        return all(field.name in fields and _becomes(field.type, fields[field.name]) for field in kind)
    if _is_list(kind):
        # Lists of other lengths may not fit into those of one length.
        fits: bool = not types.is_fixed_size_list(wanted) or getattr(kind, "list_size", None) == wanted.list_size
        return _is_list(wanted) and fits and _becomes(kind.value_type, wanted.value_type)
    return not (types.is_struct(wanted) or _is_list(wanted)) and _is_always_cast(kind, wanted)


def _is_cast(values: Any, wanted: Any) -> bool:
    types = arrow("types")
    if types.is_dictionary(wanted):
        return _is_cast(values, wanted.value_type)
    if values is None or types.is_nested(wanted):
        return False
    try:
        values.cast(wanted)
    except (arrow().ArrowInvalid, arrow().ArrowNotImplementedError):
        return False
    return True


def _is_always_cast(kind: Any, wanted: Any) -> bool:
    pyarrow, types = arrow(), arrow("types")
    try:
        pyarrow.array([], kind).cast(wanted)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return False
    is_text = types.is_string(wanted) or types.is_large_string(wanted)
    if is_text or types.is_binary(wanted) or types.is_large_binary(wanted):
        # Bytes need not be UTF-8.
        return not (is_text and (types.is_binary(kind) or types.is_large_binary(kind)))
    if types.is_integer(kind) and types.is_integer(wanted):
        signed, unsigned = types.is_signed_integer, types.is_unsigned_integer
        is_alike = signed(kind) == signed(wanted) or (unsigned(kind) and kind.bit_width < wanted.bit_width)
        return bool(is_alike and kind.bit_width <= wanted.bit_width)
    return bool(types.is_floating(kind) and types.is_floating(wanted) and kind.bit_width <= wanted.bit_width)


def _holds_images(kind: Any) -> bool:
    types = arrow("types")
    if types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        is_data, is_path = (_becomes(fields[n], t) if n in fields else True for n, t in _image_fields())
        return is_data and is_path
    return bool(types.is_null(kind) or types.is_binary(kind) or types.is_string(kind))


def _image_fields() -> tuple[tuple[str, Any], tuple[str, Any]]:
    pyarrow = arrow()
    return ("bytes", pyarrow.binary()), ("path", pyarrow.string())


def _is_list(kind: Any) -> bool:
    types = arrow("types")
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
