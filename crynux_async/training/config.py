"""What to train: ``FineTuneConfig``, flat, with the names of diffusers and of the bridge's API.

A config is checked as a whole when it is made, so one ``ConfigError`` lists everything that is wrong. What a service
cannot express (the bridge takes a zero for "not given" and puts its own default there) is either refused or mapped to
the nearest value that it can express; ``effective()`` tells which. Every field is sent explicitly, so what is sent is
what runs.

The fields, their types, bounds and defaults are in ``fields``.
"""

import functools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter, call
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import attrs

from crynux_async.errors import ConfigError, Problem
from crynux_async.training.effective import (
    WITHOUT_EFFECT_ON_WEIGHTS,
    EffectiveField,
    Replacement,
    Use,
    fields_that_nobody_asked_for,
    replacements,
    uses,
)
from crynux_async.training.fields import (
    LENGTHS,
    ConfigChanges,
    ConfigFields,
    complete,
    field_kinds,
    field_names,
    joint_problems,
    lengths_of,
    without_defaults,
)
from crynux_async.training.kinds import Kind
from crynux_async.training.lengths import require_images
from crynux_async.training.service import BRIDGE_MAPPING, ValueMapping
from crynux_async.values import Value
from crynux_async.wording import unread

if TYPE_CHECKING:
    import cattrs

_ASKED_DIGEST_VERSION = 1
_Config = TypeVar("_Config", bound="FineTuneConfig")


class FineTuneConfig(ConfigFields):
    """What to train, checked as a whole.

    The names are those of the bridge's API, so the dict of the public how-to works: ``FineTuneConfig.from_dict(data)``.
    Defaults are safe ones: the four attention modules, one round, no warm-up, fp16, a seed that is drawn here and kept.
    A subclass may have other defaults and methods; jobs keep the values alone, and one with more fields is refused.

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
        target_modules: Names of the modules that get a LoRA, kept as a tuple, or one regular expression.
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
        lr_scheduler: "linear", "cosine", "cosine_with_restarts", "polynomial", "constant" or "constant_with_warmup".
        lr_warmup_steps: Warm-up in optimizer steps, >= 0; 0 is sent as 1, because the bridge makes 500 of it.
        adam_beta1: 0 <= beta < 1.
        adam_beta2: 0 <= beta < 1.
        adam_weight_decay: >= 0; 0 is sent as 1e-12, because the bridge makes 0.01 of it.
        adam_epsilon: > 0.
        mixed_precision: "fp16", "bf16" or "no".
        seed: 1 to 4294967295; drawn here and kept where it is not given, because the bridge never tells its own.
        seed_was_drawn: Whether nobody gave the seed. It is no argument, and no part of what makes two configs equal.
        timeout: Seconds, >= 1, that one round may take on a node, download and upload included.

    Raises:
        ConfigError: Something is missing or out of bounds; lists all of it.
    """

    # All that attrs makes for the fields is inherited: to make it for 35 fields twice would take a tenth of the import.
    # The slot is for ``keeping``; it is no field, so that a copy with other values has it empty.
    __slots__ = ("_kept",)

    @classmethod
    def from_dict(cls, data: Mapping[str, object], *, seed_was_drawn: bool = False) -> Self:
        """Return the config for a flat mapping of field names, such as the JSON body of the public how-to.

        Args:
            data: Values by the names of the fields.
            seed_was_drawn: Whether the seed among them is one that nobody gave, as of a config that was stored.

        Raises:
            ConfigError: Unknown or missing names, wrong types, values out of bounds; lists all of them.
        """
        import cattrs

        try:
            config: Self = config_converter().structure(dict(data), cls)
        except cattrs.ClassValidationError as error:
            # Where a field is wrong no config was made, and what is wrong between fields has not been asked for yet.
            joint = joint_problems(data.get("dataset_url"), data.get("dataset_name"))
            raise ConfigError(list(dict.fromkeys([*_structure_problems(error, data), *joint]))) from None
        if seed_was_drawn:
            object.__setattr__(config, "seed_was_drawn", True)
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the config in a TOML or JSON file (told apart by the ending; anything but ``.json`` is TOML).

        Raises:
            ConfigError: The file cannot be read or parsed, or holds a wrong config.
        """
        import tomllib

        try:
            text = Path(path).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
            data: Any = json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem(field="(file)", message=unread(path, error))]) from error
        if not isinstance(data, dict):
            raise ConfigError(
                [Problem(field="(file)", message=f"{path} must hold a table of fields, not {data!r:.80}")]
            )
        return cls.from_dict(data)

    def to_dict(self) -> dict[str, object]:
        """Return every field as plain JSON values; ``from_dict`` gives an equal config back.

        A seed that was drawn stands there like any other, so that the same is trained again. Only ``seed_was_drawn``
        is not kept: pass it to ``from_dict`` where it matters, or the seed counts as given. The same is true of
        ``to_json`` and ``to_toml``.
        """
        values = dict(zip(field_names(), _fields_of()(self), strict=True))
        # The values are plain ones but for a tuple of modules.
        if isinstance(self.target_modules, tuple):
            values["target_modules"] = list(self.target_modules)
        return values

    def to_json(self) -> str:
        """Return the config as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_toml(self) -> str:
        """Return the config as TOML; fields that are None are left out, since TOML has no null."""
        pairs = ((name, value) for name, value in self.to_dict().items() if value is not None)
        # JSON's texts and lists are TOML's, but for DEL; JSON's escapes for characters beyond U+FFFF are not.
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in pairs)
        return "".join(lines).replace("\x7f", "\\u007F")

    def evolve(self, **changes: Unpack[ConfigChanges]) -> Self:
        """Return a copy with some fields changed, as a sweep wants it.

        Lengths that follow from others follow again: a job of one round stays one when its length is changed. A seed
        that was drawn stays a drawn one, unless another is given here.

        Raises:
            ConfigError: Unknown names or values out of bounds.
        """
        # Lengths that stay follow from the same ones as before.
        lengths = {} if changes.keys().isdisjoint(LENGTHS) else without_defaults(lengths_of(self))
        if not changes.keys() <= field_kinds().keys():
            return self.from_dict({**self.to_dict(), **lengths, **changes})  # which says what is wrong, and all of it
        # What is not changed was checked before, and is shared: the configs of a sweep have nearly all of it in common.
        evolved = _copied(self)
        for name, value in {**lengths, **changes}.items():
            object.__setattr__(evolved, name, value)
        if "seed" in changes:
            object.__setattr__(evolved, "seed_was_drawn", False)
        complete(evolved, changes)
        return evolved

    def effective(self, images: int | None = None, mapping: ValueMapping = BRIDGE_MAPPING) -> "EffectiveConfig":
        """Return what a service and its nodes will make of this, field by field: asked for, sent, used.

        Args:
            images: Images of the data set, >= 1, or None when it is not known: what depends on it stays as it is then.
            mapping: What the service cannot be sent, and what it is sent instead.

        Raises:
            UsageError: The number of images is below 1.
        """
        require_images(images)
        replaced = tuple(replacements(self, mapping))
        sent = self._replaced(replaced)
        return EffectiveConfig(asked=self, config=sent, replacements=replaced, uses=tuple(uses(sent, images)))

    def sent(self, mapping: ValueMapping = BRIDGE_MAPPING) -> Self:
        """Return what a service is sent of this, value by value: ``effective().config``, for a third of the time.

        Args:
            mapping: What the service cannot be sent, and what it is sent instead.
        """
        return self._replaced(replacements(self, mapping))

    def sent_dict(self, mapping: ValueMapping = BRIDGE_MAPPING) -> dict[str, object]:
        """Return ``sent().to_dict()`` without a config in between: every create needs it.

        Args:
            mapping: What the service cannot be sent, and what it is sent instead.
        """
        return {**self.to_dict(), **{item.field: item.sent for item in replacements(self, mapping)}}

    def digest(self) -> str:
        """Return 64 hexadecimal digits that are equal for configs that train the same, whatever is known of the data.

        Fields that are ignored do not count (epochs where steps are given, the warm-up of a constant learning rate),
        and neither do ``timeout`` and the validation images: they do not change the weights. A scaled learning rate
        counts as what it becomes, a list of modules as the modules that it selects, and a warm-up that is longer than
        the training as what is seen of it. What the bridge cannot be sent counts as what it is sent, whoever trains:
        digests are stored, and a stored one stays what it is.
        """
        return _digest(self)

    def asked_digest(self) -> str:
        """Return a digest of what was asked for: equal for configs of the same values, whatever becomes of them.

        Every field counts, lengths that follow from others included, but not a seed that nobody gave: two configs that
        are made of the same arguments without a seed are equal here, while ``digest()`` tells their seeds apart.

        Returns:
            A version, a colon and 64 hexadecimal digits. Digests of a version never change; those of different versions
            cannot be compared.
        """
        # A field that comes later must be left out here while it holds its default, or a new version begins.
        asked = self.to_dict()
        if self.seed_was_drawn:
            del asked["seed"]
        return f"{_ASKED_DIGEST_VERSION}:{_sha256(asked)}"

    def _replaced(self, replaced: Iterable[Replacement]) -> Self:
        """Return this with the values that are sent; they are valid, and checking all fields again would be slow."""
        sent = self
        for item in replaced:
            sent = _copied(self) if sent is self else sent
            object.__setattr__(sent, item.field, item.sent)
        return sent


@attrs.frozen(kw_only=True)
class EffectiveConfig(Value):
    """What a service and its nodes will make of a config.

    Attributes:
        asked: The config as it was asked for.
        config: The config whose values go over the wire as they are.
        replacements: Where ``config`` differs from ``asked``.
        uses: Where the training code makes something else of ``config``.
    """

    asked: FineTuneConfig
    config: FineTuneConfig
    replacements: tuple[Replacement, ...]
    uses: tuple[Use, ...]

    @property
    def fields(self) -> tuple[EffectiveField, ...]:
        """Every field of the config, in its order."""
        return tuple(map(self._field, field_names()))

    @property
    def differences(self) -> tuple[EffectiveField, ...]:
        """The fields of which something else than asked for is used; those that nobody asked for are left out."""
        changed = {item.field for item in self.replacements} | {item.field for item in self.uses}
        changed -= fields_that_nobody_asked_for(self.asked)
        return tuple(self._field(name) for name in field_names() if name in changed)

    def training(self) -> dict[str, object]:
        """Return what decides the trained weights, in one form for all configs that train the same.

        Left out are fields that are ignored and those that only change how the job runs (``timeout``, validation).
        """
        return training_of(self.config)

    def _field(self, name: str) -> EffectiveField:
        asked, sent = getattr(self.asked, name), getattr(self.config, name)
        use = next((item for item in self.uses if item.field == name), None)
        reasons = [item.reason for item in self.replacements if item.field == name]
        return EffectiveField(
            field=name,
            asked=asked,
            sent=sent,
            used=use.value if use else sent,
            is_ignored=use is not None and use.value is None and sent is not None,
            reason="; ".join([*reasons, use.reason] if use else reasons),
        )


def training_of(sent: FineTuneConfig) -> dict[str, object]:
    """Return what decides the trained weights of a config that is sent as it is, as ``EffectiveConfig.training``."""
    from crynux_async.training.identity import in_one_form  # here: a list of jobs needs no UNet's modules

    data = sent.to_dict()
    # Only a data set tells how many steps an epoch has, and a digest must not depend on what is known of it.
    for use in uses(sent, None):
        data[use.field] = use.value
    data |= in_one_form(sent)
    return {name: value for name, value in data.items() if name not in WITHOUT_EFFECT_ON_WEIGHTS}


@functools.cache
def config_converter() -> "cattrs.Converter":
    """Return the cattrs converter that makes a ``FineTuneConfig`` of its flat JSON form."""
    import cattrs
    from cattrs.gen import make_dict_structure_fn, override

    converter = cattrs.Converter(forbid_extra_keys=True)
    hooks: dict[str, Any] = {
        name: override(struct_hook=functools.partial(_structure, kind)) for name, kind in field_kinds().items()
    }
    converter.register_structure_hook(FineTuneConfig, make_dict_structure_fn(FineTuneConfig, converter, **hooks))
    return converter


@functools.cache
def _fields_of() -> Callable[[object], tuple[object, ...]]:
    return attrgetter(*field_names())


def _structure(kind: Kind, value: Any, _: Any) -> Any:
    kept = kind.read(value) if kind.read is not None else value
    problem = kind.problem(kept)
    if problem:
        raise ValueError(problem)
    return kept


def _structure_problems(error: "cattrs.ClassValidationError", data: Mapping[str, object]) -> Iterator[Problem]:
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


def unchecked(cls: type[_Config], values: Iterable[object]) -> _Config:
    """Return a config with these values, one for each of its fields, in their order; they are not checked again."""
    config = object.__new__(cls)
    # A loop in C: ``copy.copy`` goes by way of a dict, and takes far longer.
    deque(map(call, _setters(), repeat(config), values), maxlen=0)
    return config


@functools.cache
def slot_names() -> Sequence[str]:
    """Return the names of all fields, and of what is known beside them."""
    return [attribute.name for attribute in attrs.fields(FineTuneConfig)]


@functools.cache
def slot_values() -> Callable[[FineTuneConfig], tuple[Any, ...]]:
    """Return what reads a config's values in the order of ``slot_names``."""
    return attrgetter(*slot_names())


@functools.cache
def _setters() -> Sequence[Callable[[object, object], None]]:
    """Return what sets each slot of a config, frozen or not."""
    return [getattr(FineTuneConfig, name).__set__ for name in slot_names()]


def _copied(config: _Config) -> _Config:
    return unchecked(type(config), slot_values()(config))


# A job that is submitted over the web is asked for it when it is stored and when it is shown.
@functools.lru_cache(maxsize=256)
def _digest(config: FineTuneConfig) -> str:
    return _sha256(training_of(config.sent()))


def _sha256(values: Mapping[str, object]) -> str:
    import hashlib  # here: lists of jobs are there sooner without OpenSSL

    return hashlib.sha256(_encoder().encode(values).encode()).hexdigest()


@functools.cache
def _encoder() -> json.JSONEncoder:
    return json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _unknown_field(name: object) -> Problem:
    import difflib

    near = difflib.get_close_matches(str(name).lower(), field_names(), 1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Problem(field=str(name), message=f"is not a field{hint}")
