"""What the bridge's JSON schema says about a request that binds.

Only what can still be wrong after binding and defaults is checked. The text names the place in the instance, the place
in the schema and the rule, as santhosh-tekuri/jsonschema v5 words it.

Source: stable-diffusion-task schema/stable-diffusion-finetune-lora-task.json; santhosh-tekuri/jsonschema v5 schema.go,
errors.go (the first cause of the first cause is shown), format.go (isURI).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crynux_async.emulator.go_text import quote, shortest

SCHEMA_URL = (
    "https://raw.githubusercontent.com/crynux-ai/stable-diffusion-task/main/schema/"
    "stable-diffusion-finetune-lora-task.json"
)

_SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
_PRECISIONS = ("no", "fp16", "bf16")
_PREDICTIONS = ("epsilon", "v_prediction")
_LONGEST_URL = 2083
_MOST_IMAGES = 10
_ESCAPED = re.compile("%(?![0-9a-fA-F]{2})")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.%a-zA-Z_~-]*\]|[^\s\"<>\\^`{|}\[\]:]*)(?::[0-9]*)?")

_Finding = tuple[str, str, str]


def violation(values: Mapping[str, Any]) -> str | None:
    """Return the bridge's text about the first thing that the schema forbids, or None.

    Args:
        values: A bound request after defaults.
    """
    finding = next(_findings(values), None)
    if finding is None:
        return None
    instance, keyword, message = finding
    return f"invalid task_args: jsonschema: '{instance}' does not validate with {SCHEMA_URL}#{keyword}: {message}"


def _findings(values: Mapping[str, Any]) -> Iterator[_Finding]:
    for check in _CHECKS:
        yield from check(values)


def _dataset(values: Mapping[str, Any]) -> Iterator[_Finding]:
    keyword = "/properties/dataset/$ref/properties/{}/anyOf/0/{}".format
    url, name = values["dataset_url"], values["dataset_name"]
    if url is not None and not is_uri(url):
        yield "/dataset/url", keyword("url", "format"), f"{_quoted(url)} is not valid 'uri'"
    if url is not None and len(url) > _LONGEST_URL:
        yield "/dataset/url", keyword("url", "maxLength"), f"length must be <= {_LONGEST_URL}, but got {len(url)}"
    if name == "":
        yield "/dataset/name", keyword("name", "minLength"), "length must be >= 1, but got 0"


def _validation(values: Mapping[str, Any]) -> Iterator[_Finding]:
    images = values["validation_num_images"]
    if images > _MOST_IMAGES:
        keyword = "/properties/validation/$ref/properties/num_images/maximum"
        yield "/validation/num_images", keyword, f"must be <= {_MOST_IMAGES} but found {shortest(images)}"


def _train_args(values: Mapping[str, Any]) -> Iterator[_Finding]:
    place = "/properties/train_args/$ref/properties/"
    for name in ("num_train_steps", "max_train_steps"):
        steps = values[name]
        if steps is not None and steps < 1:
            yield f"/train_args/{name}", f"{place}{name}/anyOf/0/minimum", f"must be >= 1 but found {shortest(steps)}"
    if values["prediction_type"] not in (None, *_PREDICTIONS):
        yield "/train_args/prediction_type", f"{place}prediction_type/anyOf/0/enum", _one_of(_PREDICTIONS)
    if values["lr_scheduler"] not in _SCHEDULERS:
        keyword = f"{place}lr_scheduler/allOf/0/$ref/properties/lr_scheduler/enum"
        yield "/train_args/lr_scheduler/lr_scheduler", keyword, _one_of(_SCHEDULERS)


def _lora(values: Mapping[str, Any]) -> Iterator[_Finding]:
    place = "/properties/lora/allOf/0/$ref/properties/"
    init, modules = values["init_lora_weights"], values["target_modules"]
    if not isinstance(init, bool) and init not in ("gaussian", "loftq"):
        message = f"expected boolean, but got {_type(init)}"
        yield "/lora/init_lora_weights", f"{place}init_lora_weights/anyOf/0/type", message
    if isinstance(modules, list):
        for index, item in enumerate(modules):
            if not isinstance(item, str):
                keyword = f"{place}target_modules/anyOf/0/items/type"
                yield f"/lora/target_modules/{index}", keyword, f"expected string, but got {_type(item)}"
    elif modules is not None and not isinstance(modules, str):
        keyword = f"{place}target_modules/anyOf/0/type"
        yield "/lora/target_modules", keyword, f"expected array, but got {_type(modules)}"


def _precision(values: Mapping[str, Any]) -> Iterator[_Finding]:
    if values["mixed_precision"] not in _PRECISIONS:
        yield "/mixed_precision", "/properties/mixed_precision/enum", _one_of(_PRECISIONS)


_CHECKS: tuple[Callable[[Mapping[str, Any]], Iterator[_Finding]], ...] = (
    _dataset,
    _validation,
    _train_args,
    _lora,
    _precision,
)


def _one_of(words: tuple[str, ...]) -> str:
    return "value must be one of " + ", ".join(map(quote, words))


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _quoted(text: str) -> str:
    inner = quote(text)[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"'{inner}'"


def is_uri(text: str) -> bool:
    """Return whether Go's net/url parses ``text`` and finds a scheme."""
    match = _SCHEME.fullmatch(text)
    if match is None or _CONTROL.search(text):
        return False
    rest, _, fragment = match[2].partition("#")
    path = rest.partition("?")[0]
    # Parse unescapes host, path and fragment, and leaves the query as it is.
    if _ESCAPED.search(fragment):
        return False
    # Opaque to Go, which looks at nothing in it.
    if not path.startswith("/"):
        return True
    if not path.startswith("//"):
        return not _ESCAPED.search(path)
    authority, _, path = path[2:].partition("/")
    return bool(_HOST.fullmatch(authority.rpartition("@")[2])) and not _ESCAPED.search(authority + path)
