"""What the relay's JSON schema says about the arguments of a task.

The text names the place in the instance, the place in the schema and the rule, as santhosh-tekuri/jsonschema v5 words
it; of several faults the first is shown.

Source: stable-diffusion-task schema/stable-diffusion-finetune-lora-task.json; santhosh-tekuri/jsonschema v5 schema.go
(order of the rules), errors.go (the first cause of the first cause is shown).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import attrs

from crynux_async.emulator.bridge.schema import is_uri
from crynux_async.emulator.go_text import quote, shortest

# Where the relay that was recorded had its schemas; production's addresses are not known.
_FOLDER = "http://127.0.0.1:5941/"
_LONGEST_URL = 2083
_MOST_IMAGES = 10

Finding = tuple[str, str, str]


class Rule(Protocol):
    """A part of a schema."""

    def findings(self, value: Any, place: str, keyword: str) -> Iterator[Finding]:
        """Yield what is wrong with a value: its place, the place of the rule, and the message.

        Args:
            value: The value as Python's JSON parser gives it.
            place: Where it is in the instance, "/train_args/seed".
            keyword: Where the rule is in the schema.
        """
        ...


@attrs.frozen
class _Scalar:
    """A value of one type, and its bounds."""

    kind: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    words: tuple[str, ...] = ()
    min_length: int = 0
    max_length: int | None = None
    is_address: bool = False

    def findings(self, value: Any, place: str, keyword: str) -> Iterator[Finding]:
        if not _is(value, self.kind):
            yield place, f"{keyword}/type", f"expected {self.kind}, but got {_kind(value)}"
            return
        if self.words and value not in self.words:
            yield place, f"{keyword}/enum", "value must be one of " + ", ".join(map(quote, self.words))
        if isinstance(value, str):
            yield from self._text_findings(value, place, keyword)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield from self._number_findings(value, place, keyword)

    def _text_findings(self, value: str, place: str, keyword: str) -> Iterator[Finding]:
        if self.is_address and not is_uri(value):
            yield place, f"{keyword}/format", f"'{value}' is not valid 'uri'"
        if len(value) < self.min_length:
            yield place, f"{keyword}/minLength", f"length must be >= {self.min_length}, but got {len(value)}"
        if self.max_length is not None and len(value) > self.max_length:
            yield place, f"{keyword}/maxLength", f"length must be <= {self.max_length}, but got {len(value)}"

    def _number_findings(self, value: float, place: str, keyword: str) -> Iterator[Finding]:
        if self.minimum is not None and value < self.minimum:
            yield place, f"{keyword}/minimum", f"must be >= {shortest(self.minimum)} but found {shortest(value)}"
        if self.above is not None and value <= self.above:
            yield place, f"{keyword}/exclusiveMinimum", f"must be > {shortest(self.above)} but found {shortest(value)}"
        if self.maximum is not None and value > self.maximum:
            yield place, f"{keyword}/maximum", f"must be <= {shortest(self.maximum)} but found {shortest(value)}"


@attrs.frozen
class _List:
    """A list of values that all follow one rule."""

    item: Rule

    def findings(self, value: Any, place: str, keyword: str) -> Iterator[Finding]:
        if not isinstance(value, list):
            yield place, f"{keyword}/type", f"expected array, but got {_kind(value)}"
            return
        for index, item in enumerate(value):
            yield from self.item.findings(item, f"{place}/{index}", f"{keyword}/items")


class _AnyOf:
    """A value that follows one of several rules; the first one's complaint is shown."""

    def __init__(self, *rules: Rule) -> None:
        self._rules = rules

    def findings(self, value: Any, place: str, keyword: str) -> Iterator[Finding]:
        complaints = [
            next(rule.findings(value, place, f"{keyword}/anyOf/{index}"), None)
            for index, rule in enumerate(self._rules)
        ]
        if complaints[0] is not None and None not in complaints:
            yield complaints[0]


class _Object:
    """An object with named members; others are allowed.

    Args:
        reference: How the schema leads to it.
        required: Members that must be there.
        members: Rules of members.
    """

    def __init__(self, reference: str, required: tuple[str, ...] = (), **members: Rule) -> None:
        self._reference = reference
        self._required = required
        self._members = members

    def findings(self, value: Any, place: str, keyword: str) -> Iterator[Finding]:
        keyword += self._reference
        if not isinstance(value, Mapping):
            yield place, f"{keyword}/type", f"expected object, but got {_kind(value)}"
            return
        missing = [name for name in self._required if name not in value]
        if missing:
            yield place, f"{keyword}/required", "missing properties: " + ", ".join(f"'{name}'" for name in missing)
        for name, rule in self._members.items():
            if name in value:
                yield from rule.findings(value[name], f"{place}/{name}", f"{keyword}/properties/{name}")


def _optional(rule: Rule) -> Rule:
    return _AnyOf(rule, _Scalar("null"))


_TEXT = _Scalar("string")
_NUMBER = _Scalar("number")
_INTEGER = _Scalar("integer")
_COUNT = _Scalar("integer", minimum=1)
_BOOLEAN = _Scalar("boolean")
_NAME = _Scalar("string", min_length=1)
_REF = "/$ref"
_ALL_OF_REF = "/allOf/0/$ref"

_MODEL = _Object(_REF, ("name",), name=_NAME, variant=_optional(_TEXT), revision=_TEXT)
_DATASET = _Object(
    _REF,
    url=_optional(_Scalar("string", is_address=True, min_length=1, max_length=_LONGEST_URL)),
    name=_optional(_NAME),
    config_name=_optional(_TEXT),
    image_column=_TEXT,
    caption_column=_TEXT,
)
_VALIDATION = _Object(_REF, prompt=_optional(_TEXT), num_images=_Scalar("integer", minimum=1, maximum=_MOST_IMAGES))
_SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
_TRAIN_ARGS = _Object(
    _REF,
    learning_rate=_Scalar("number", above=0),
    batch_size=_COUNT,
    gradient_accumulation_steps=_COUNT,
    prediction_type=_optional(_Scalar("string", words=("epsilon", "v_prediction"))),
    max_grad_norm=_NUMBER,
    num_train_epochs=_COUNT,
    num_train_steps=_optional(_COUNT),
    max_train_epochs=_COUNT,
    max_train_steps=_optional(_COUNT),
    scale_lr=_BOOLEAN,
    resolution=_COUNT,
    noise_offset=_NUMBER,
    snr_gamma=_optional(_NUMBER),
    lr_scheduler=_Object(_ALL_OF_REF, lr_scheduler=_Scalar("string", words=_SCHEDULERS), lr_warmup_steps=_INTEGER),
    adam_args=_Object(_ALL_OF_REF, beta1=_NUMBER, beta2=_NUMBER, weight_decay=_NUMBER, epsilon=_NUMBER),
)
_LORA = _Object(
    _ALL_OF_REF,
    rank=_INTEGER,
    init_lora_weights=_AnyOf(_BOOLEAN, _Scalar("string", words=("gaussian", "loftq"))),
    target_modules=_AnyOf(_List(_TEXT), _TEXT, _Scalar("null")),
)
_FINE_TUNING = _Object(
    "",
    ("model", "dataset", "validation", "train_args"),
    model=_MODEL,
    dataset=_DATASET,
    validation=_VALIDATION,
    train_args=_TRAIN_ARGS,
    lora=_LORA,
    transforms=_Object(_ALL_OF_REF, center_crop=_BOOLEAN, random_flip=_BOOLEAN),
    dataloader_num_workers=_INTEGER,
    mixed_precision=_Scalar("string", words=("no", "fp16", "bf16")),
    seed=_INTEGER,
    checkpoint=_optional(_NAME),
)
_IMAGES = _Object("", ("base_model", "prompt", "task_config"))
_LANGUAGE = _Object("", ("model", "messages"))
_FILES: tuple[tuple[str, Rule], ...] = (("sd.json", _IMAGES), ("gpt.json", _LANGUAGE), ("ft.json", _FINE_TUNING))


def violation(document: Any, task_type: int) -> str | None:
    """Return the relay's text about the first thing that the schema forbids, or None.

    Args:
        document: The task's arguments.
        task_type: Which schema: 0 for images, 1 for language models, anything else for fine-tuning.
    """
    file, rule = _FILES[min(task_type, len(_FILES) - 1)]
    finding = next(rule.findings(document, "", ""), None)
    if finding is None:
        return None
    place, keyword, message = finding
    return f"jsonschema: '{place}' does not validate with {_FOLDER}{file}#{keyword}: {message}"


def _is(value: Any, kind: str) -> bool:
    found = _kind(value)
    if kind == "integer":
        return found == "number" and float(value).is_integer()
    return found == kind


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
