"""What to train: ``FineTuneConfig``, flat, with the names of diffusers and of the bridge's API.

A config is checked as a whole when it is made, so one ``ConfigError`` lists everything that is wrong. What the bridge
cannot express (it takes a zero for "not given" and puts its own default there) is either refused or mapped to the
nearest value that it can express; ``effective()`` tells which. Every field is sent explicitly, so what is sent is what
runs.
"""

import difflib
import functools
import hashlib
import json
import math
import operator
import re
import secrets
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

import attrs

from crynux_async.errors import ConfigError, Problem
from crynux_async.training.effective import EffectiveConfig, Replacement, effective

if TYPE_CHECKING:
    import cattrs

__all__ = [
    "ATTENTION_MODULES",
    "MAX_INTEGER",
    "MAX_SEED",
    "EffectiveConfig",
    "FineTuneConfig",
    "Replacement",
    "config_converter",
]

ATTENTION_MODULES = ("to_k", "to_q", "to_v", "to_out.0")
MAX_SEED = 2**32 - 1
MAX_INTEGER = 2**53  # the bridge re-encodes numbers as float64 from the second round on
MAX_URL_CHARS = 2083  # stable-diffusion-task schema/stable-diffusion-finetune-lora-task.json
MAX_SHOWN = 100

_LENGTHS = ("num_train_epochs", "max_train_epochs", "num_train_steps", "max_train_steps")


_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

_Check = Callable[[Any], str | None]


def _exact(value: Any) -> Any:
    """Turn what is a whole number in disguise (8.0, numpy.int64(8)) into an int; leave the rest as it is."""
    if isinstance(value, bool | str | None):
        return value
    try:
        return operator.index(value)
    except TypeError:
        number = _real(value)
        return int(number) if isinstance(number, float) and number.is_integer() else value


def _real(value: Any) -> Any:
    """Turn any number into a float, -0.0 into 0.0 (they are equal, so they must be sent alike); leave the rest."""
    if isinstance(value, bool | str | None) or not hasattr(value, "__float__"):
        return value
    try:
        return (value if type(value) is float else float(value)) or 0.0
    except (TypeError, ValueError, OverflowError):
        return value


def _names(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    """Return the beginning of a value's repr; some values have none (an int of 5,000 digits)."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _check_integer(low: int, high: int, remark: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a whole number, not {_shown(value)}"
    if low <= value <= high:
        return None
    bounds = f"between {low} and {high}" if high < MAX_INTEGER or value > high else f"at least {low}"
    return f"must be {bounds}, not {_shown(value)}{remark}"


def _check_number(low: float, high: float, above: bool, remark: str, value: Any) -> str | None:
    if not isinstance(value, float):
        return f"must be a number, not {_shown(value)}"
    if math.isfinite(value) and value < high and (value > low or (value == low and not above)):
        return None
    bounds = "finite" if low == -math.inf else f"{'above' if above else 'at least'} {low:g}"
    bounds += f" and below {high:g}" if high < math.inf else ""
    return f"must be {bounds}, not {value:g}{remark}"


def _check_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {_shown(value)}"
    if any("\ud800" <= char <= "\udfff" for char in value):
        return f"must be whole characters, not halves of them: {_shown(value)}"
    return None if value.strip() else "must not be empty"


def _check_flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"


def _check_choice(choices: tuple[str, ...], value: Any) -> str | None:
    if isinstance(value, str) and value in choices:
        return None
    near = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"must be one of {', '.join(choices)}, not {_shown(value)}{hint}"


def _check_url(value: Any) -> str | None:
    problem = _check_text(value)
    if problem:
        return problem
    if not value.startswith(("http://", "https://")):
        return f"must be an http or https address, not {_shown(value)}: the nodes load nothing else"
    if len(value) > MAX_URL_CHARS:
        return f"must have at most {MAX_URL_CHARS} characters, not {len(value)}"
    return None if _has_host(value) else f"must be a complete address without spaces, not {_shown(value)}"


def _has_host(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return bool(host) and url.isprintable() and " " not in url and not _BROKEN_ESCAPE.search(url)


def _check_modules(value: Any) -> str | None:
    if isinstance(value, str):
        return _check_text(value)
    if not isinstance(value, tuple) or any(_check_text(name) for name in value):
        return f"must be a list of module names or one pattern, not {_shown(value)}"
    return None if value else "must not be empty: training cannot start without modules"


def _check_init(value: Any) -> str | None:
    if isinstance(value, bool) or value in ("gaussian", "loftq"):
        return None
    return f"must be true, false, 'gaussian' or 'loftq', not {_shown(value)}"


def _field(check: _Check, default: Any, convert: Callable[[Any], Any] | None, optional: bool) -> Any:
    def full(value: Any) -> str | None:
        return None if optional and value is None else check(value)

    return attrs.field(default=default, converter=convert, metadata={"check": full, "convert": convert})


def _integer(default: Any, *, low: int, high: int = MAX_INTEGER, remark: str = "", optional: bool = False) -> Any:
    return _field(functools.partial(_check_integer, low, high, remark), default, _exact, optional)


def _number(
    default: float | None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    remark: str = "",
    optional: bool = False,
) -> Any:
    return _field(functools.partial(_check_number, low, high, above, remark), default, _real, optional)


def _text(default: Any = None, *, optional: bool = False, check: _Check = _check_text) -> Any:
    return _field(check, default, None, optional)


def _choice(default: str | None, *choices: str, optional: bool = False) -> Any:
    return _field(functools.partial(_check_choice, choices), default, None, optional)


def _flag(default: bool) -> Any:
    return _field(_check_flag, default, None, False)


def _draw_seed() -> int:
    return 1 + secrets.randbelow(99_999_999)


@attrs.frozen(kw_only=True, weakref_slot=False)
class FineTuneConfig:
    """What to train, checked as a whole.

    The names are those of the bridge's API, so the dict of the public how-to works: ``FineTuneConfig.from_dict(data)``.
    Defaults are safe ones: the four attention modules, one round, no warm-up, fp16, a seed that is drawn here and kept.

    Attributes:
        model_name: The base model, such as "crynux-ai/stable-diffusion-v1-5". Only Stable Diffusion 1.x and 2.x train.
        model_variant: File variant of the base model ("fp16"), or None.
        model_revision: Git revision of the base model.
        dataset_url: Address of an archive of images and captions; or give ``dataset_name``.
        dataset_name: A public Hugging Face data set; it wins where both are given.
        dataset_config_name: Its configuration, or None.
        dataset_image_column: Column with the images.
        dataset_caption_column: Column with the captions.
        validation_prompt: Prompt of the validation images, or None for captions of the data set.
        validation_num_images: How many, 1 to 10. They are rendered, but the bridge never hands them out.
        center_crop: Crop at the centre; otherwise at random.
        random_flip: Flip images at random.
        rank: LoRA rank, >= 1.
        init_lora_weights: True, False, "gaussian" or "loftq".
        target_modules: Names of the modules that get a LoRA, or one regular expression.
        learning_rate: Peak learning rate, > 0.
        batch_size: Images per micro-batch, >= 1.
        gradient_accumulation_steps: Micro-batches per optimizer step, >= 1.
        prediction_type: "epsilon", "v_prediction" or None for the base model's own.
        max_grad_norm: Gradient clipping, > 0.
        num_train_epochs: Epochs of one round; used where ``num_train_steps`` is None. None means ``max_train_epochs``.
        num_train_steps: Optimizer steps of one round, >= 1. None means ``max_train_steps``: one round, because every
            later round starts from untrained weights.
        max_train_epochs: Epochs of the whole job; used where ``max_train_steps`` is None. None means
            ``num_train_epochs``, or 1.
        max_train_steps: Optimizer steps of the whole job, >= 1. None means ``num_train_steps``, unless
            ``max_train_epochs`` is given: then epochs are counted.
        scale_lr: Multiply the learning rate by batch size and accumulation.
        resolution: Side of the training images in pixels, >= 8.
        noise_offset: Noise offset; 0 is off.
        snr_gamma: Min-SNR weighting, > 0, or None for off.
        lr_scheduler: linear, cosine, cosine_with_restarts, polynomial, constant or constant_with_warmup.
        lr_warmup_steps: Warm-up in optimizer steps, >= 0; 0 is sent as 1, because the bridge makes 500 of it.
        adam_beta1: 0 <= beta < 1.
        adam_beta2: 0 <= beta < 1.
        adam_weight_decay: >= 0; 0 is sent as 1e-12, because the bridge makes 0.01 of it.
        adam_epsilon: > 0.
        mixed_precision: "fp16", "bf16" or "no".
        seed: 1 to 4294967295; drawn here and kept where it is not given, because the bridge never tells its own.
        timeout: Seconds, >= 1, that one round may take on a node, download and upload included.

    Raises:
        ConfigError: Something is missing or out of bounds; lists all of it.
    """

    model_name: str = _text(attrs.NOTHING)
    model_variant: str | None = _text(optional=True)
    model_revision: str = _text("main")
    dataset_url: str | None = _text(optional=True, check=_check_url)
    dataset_name: str | None = _text(optional=True)
    dataset_config_name: str | None = _text(optional=True)
    dataset_image_column: str = _text("image")
    dataset_caption_column: str = _text("text")
    validation_prompt: str | None = _text(optional=True)
    validation_num_images: int = _integer(4, low=1, high=10)
    center_crop: bool = _flag(False)
    random_flip: bool = _flag(False)
    rank: int = _integer(8, low=1)
    init_lora_weights: bool | Literal["gaussian", "loftq"] = _field(_check_init, "gaussian", None, False)
    target_modules: tuple[str, ...] | str = _field(_check_modules, ATTENTION_MODULES, _names, False)
    learning_rate: float = _number(1e-4, low=0, above=True)
    batch_size: int = _integer(1, low=1)
    gradient_accumulation_steps: int = _integer(1, low=1)
    prediction_type: str | None = _choice(None, "epsilon", "v_prediction", optional=True)
    max_grad_norm: float = _number(1.0, low=0, above=True)
    num_train_epochs: int | None = _integer(None, low=1, optional=True)
    num_train_steps: int | None = _integer(None, low=1, optional=True)
    max_train_epochs: int | None = _integer(None, low=1, optional=True)
    max_train_steps: int | None = _integer(None, low=1, optional=True)
    scale_lr: bool = _flag(False)
    resolution: int = _integer(512, low=8)
    noise_offset: float = _number(0.0)
    snr_gamma: float | None = _number(None, low=0, above=True, remark=": it makes the loss 0", optional=True)
    lr_scheduler: str = _choice(
        "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
    )
    lr_warmup_steps: int = _integer(0, low=0)
    adam_beta1: float = _number(0.9, low=0, high=1)
    adam_beta2: float = _number(0.999, low=0, high=1)
    adam_weight_decay: float = _number(0.01, low=0)
    adam_epsilon: float = _number(1e-8, low=0, above=True)
    mixed_precision: str = _choice("fp16", "no", "fp16", "bf16")
    seed: int = _integer(
        attrs.Factory(_draw_seed), low=1, high=MAX_SEED, remark=": the bridge would draw another one and not tell it"
    )
    timeout: int = _integer(3600, low=1)

    def __attrs_post_init__(self) -> None:
        problems = [*_field_problems(self), *_joint_problems(self.dataset_url, self.dataset_name)]
        if problems:
            raise ConfigError(problems)
        for name, value in _with_defaults({name: getattr(self, name) for name in _LENGTHS}).items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the config for a flat mapping of field names, such as the JSON body of the public how-to.

        Raises:
            ConfigError: Unknown or missing names, wrong types, values out of bounds; lists all of them.
        """
        import cattrs

        try:
            return config_converter().structure(dict(data), cls)
        except cattrs.ClassValidationError as error:
            joint = _joint_problems(data.get("dataset_url"), data.get("dataset_name"))
            raise ConfigError([*_structure_problems(error, data), *joint]) from None

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the config in a TOML or JSON file (told apart by the ending; anything but ``.json`` is TOML).

        Raises:
            ConfigError: The file cannot be read or parsed, or holds a wrong config.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            data: Any = json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem(field="(file)", message=f"{path} cannot be read: {error}")]) from error
        if not isinstance(data, dict):
            raise ConfigError(
                [Problem(field="(file)", message=f"{path} must hold a table of fields, not {data!r:.80}")]
            )
        return cls.from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain JSON values; ``from_dict`` gives the same config back."""
        data: dict[str, Any] = config_converter().unstructure(self)
        return data

    def to_json(self) -> str:
        """Return the config as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_toml(self) -> str:
        """Return the config as TOML; fields that are None are left out, since TOML has no null."""
        pairs = ((name, value) for name, value in self.to_dict().items() if value is not None)
        # JSON's texts and lists are TOML's, but for DEL; JSON's escapes for characters beyond U+FFFF are not.
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in pairs)
        return "".join(lines).replace("\x7f", "\\u007F")

    def evolve(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, as a sweep wants it.

        Lengths that follow from others follow again: a job of one round stays one when its length is changed.

        Raises:
            ConfigError: Unknown names or values out of bounds.
        """
        # The values themselves, not copies: the configs of a sweep share what they have in common.
        data = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        lengths = _with_defaults(data)
        for name in _LENGTHS:
            if _with_defaults({**data, name: None}) == lengths:
                data[name] = None
        return self.from_dict({**data, **changes})

    def effective(self, images: int | None = None) -> EffectiveConfig:
        """Return what the bridge and the nodes will make of this, field by field: asked for, sent, used.

        Args:
            images: Images of the data set, >= 1, or None when it is not known: what depends on it stays as it is then.
        """
        return effective(self, images)

    def digest(self) -> str:
        """Return 64 hexadecimal digits that are equal for configs that train the same, whatever is known of the data.

        Fields that are ignored do not count (epochs where steps are given, the warm-up of a constant learning rate), a
        scaled learning rate counts as what it becomes, and neither do ``timeout`` and the validation images count: they
        do not change the weights.
        """
        text = json.dumps(self.effective().training(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def config_converter() -> "cattrs.Converter":
    """Return the cattrs converter between ``FineTuneConfig`` and its flat JSON form."""
    import cattrs
    from cattrs.gen import make_dict_structure_fn, override

    converter = cattrs.Converter(forbid_extra_keys=True)
    hooks: dict[str, Any] = {
        field.name: override(struct_hook=functools.partial(_structure, field)) for field in attrs.fields(FineTuneConfig)
    }
    converter.register_structure_hook(FineTuneConfig, make_dict_structure_fn(FineTuneConfig, converter, **hooks))
    return converter


def _structure(field: "attrs.Attribute[Any]", value: Any, _: Any) -> Any:
    convert = field.metadata["convert"]
    converted = convert(value) if convert else value
    problem = field.metadata["check"](converted)
    if problem:
        raise ValueError(problem)
    return converted


def _structure_problems(error: "cattrs.ClassValidationError", data: Mapping[str, Any]) -> Iterator[Problem]:
    import cattrs

    noted, plain = error.group_exceptions()
    for cause, note in noted:
        message = "is missing" if isinstance(cause, KeyError) else str(cause)
        yield Problem(field=note.name, message=message)
    for cause in plain:
        if isinstance(cause, cattrs.ForbiddenExtraKeysError):
            yield from (_unknown_field(name) for name in data if name in cause.extra_fields)
        elif isinstance(cause, ConfigError):
            yield from cause.problems
        else:
            yield Problem(field="(config)", message=str(cause))


def _unknown_field(name: Any) -> Problem:
    known = [field.name for field in attrs.fields(FineTuneConfig)]
    near = difflib.get_close_matches(str(name).lower(), known, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Problem(field=str(name), message=f"is not a field{hint}")


def _field_problems(config: FineTuneConfig) -> Iterator[Problem]:
    for field in attrs.fields(FineTuneConfig):
        message = field.metadata["check"](getattr(config, field.name))
        if message:
            yield Problem(field=field.name, message=message)


def _joint_problems(dataset_url: Any, dataset_name: Any) -> Iterator[Problem]:
    if dataset_url is None and dataset_name is None:
        yield Problem(
            field="dataset_url",
            message="is missing, and so is dataset_name: the bridge would accept the job, and it would never start",
        )


def _with_defaults(lengths: Mapping[str, Any]) -> dict[str, int | None]:
    """Fill in the lengths that follow from others: one round, and never in place of a length that was asked for."""
    part_steps, whole_steps = lengths["num_train_steps"], lengths["max_train_steps"]
    part_epochs, whole_epochs = lengths["num_train_epochs"], lengths["max_train_epochs"]
    if whole_steps is None and whole_epochs is None:
        whole_steps = part_steps
    part_steps = part_steps or whole_steps
    # Epochs beside steps are ignored; the bridge makes 1 of those that are not given.
    if whole_epochs is None:
        whole_epochs = part_epochs or 1 if whole_steps is None else 1
    if part_epochs is None:
        part_epochs = whole_epochs if part_steps is None else 1
    return {
        "num_train_epochs": part_epochs,
        "num_train_steps": part_steps,
        "max_train_epochs": whole_epochs,
        "max_train_steps": whole_steps,
    }
