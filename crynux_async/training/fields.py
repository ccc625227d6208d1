"""Every field of a config: its name, type, bounds and default. A new field begins here.

``ConfigFields`` is what ``FineTuneConfig`` is made of. It stands apart so that what is worked out from the fields
(``lengths``, ``effective``) can know them without knowing the config that offers it.
"""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict

import attrs

from crynux_async.errors import ConfigError, Problem
from crynux_async.secret import mask_address
from crynux_async.training import kinds
from crynux_async.training.kinds import Kind
from crynux_async.values import Value

InitLoraWeights = Literal["gaussian", "loftq"]
LrScheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]
MixedPrecision = Literal["no", "fp16", "bf16"]
PredictionType = Literal["epsilon", "v_prediction"]

ATTENTION_MODULES = ("to_k", "to_q", "to_v", "to_out.0")
MAX_SEED = 2**32 - 1  # numpy's; accelerate's set_seed stops the training at larger ones

LENGTHS = ("num_train_epochs", "max_train_epochs", "num_train_steps", "max_train_steps")
_LENGTHS = frozenset(LENGTHS)
_DRAWN_SEEDS = 99_999_999  # the bridge draws from as many: crynux-bridge api/v1/image/finetune_params.go


class ConfigChanges(TypedDict, total=False):
    """The fields of a config as keyword arguments of ``FineTuneConfig.evolve``.

    ``FineTuneConfig`` says what they mean.
    """

    model_name: str
    model_variant: str | None
    model_revision: str
    dataset_url: str | None
    dataset_name: str | None
    dataset_config_name: str | None
    dataset_image_column: str
    dataset_caption_column: str
    validation_prompt: str | None
    validation_num_images: int
    center_crop: bool
    random_flip: bool
    rank: int
    init_lora_weights: bool | InitLoraWeights
    target_modules: Sequence[str] | str
    learning_rate: float
    batch_size: int
    gradient_accumulation_steps: int
    prediction_type: PredictionType | None
    max_grad_norm: float
    num_train_epochs: int | None
    num_train_steps: int | None
    max_train_epochs: int | None
    max_train_steps: int | None
    scale_lr: bool
    resolution: int
    noise_offset: float
    snr_gamma: float | None
    lr_scheduler: LrScheduler
    lr_warmup_steps: int
    adam_beta1: float
    adam_beta2: float
    adam_weight_decay: float
    adam_epsilon: float
    mixed_precision: MixedPrecision
    seed: int
    timeout: int


def _draw_seed(config: "ConfigFields") -> int:
    """Draw the seed that nobody gave, and say so: only here is it known that nobody did."""
    object.__setattr__(config, "seed_was_drawn", True)
    import secrets  # here: few configs leave their seed to us

    return 1 + secrets.randbelow(_DRAWN_SEEDS)


def _shown(value: object) -> str:
    """Return how a field that may hold an address is represented: a presigned one is a credential."""
    return repr(mask_address(value))


@attrs.frozen(kw_only=True, weakref_slot=False)
class ConfigFields(Value):
    """The fields of a ``FineTuneConfig``, which says what each of them means; checked as a whole."""

    # Empty text is refused everywhere: the bridge passes it on, and the node's schema or loader stops at it.
    model_name: str = attrs.field(repr=_shown, metadata=kinds.text(example="crynux-ai/stable-diffusion-v1-5"))
    model_variant: str | None = attrs.field(default=None, metadata=kinds.text(optional=True, example="fp16"))
    model_revision: str = attrs.field(default="main", metadata=kinds.text())
    dataset_url: str | None = attrs.field(
        default=None, repr=_shown, metadata=kinds.url(example="https://example.com/my-pictures.zip")
    )
    dataset_name: str | None = attrs.field(
        default=None, repr=_shown, metadata=kinds.text(optional=True, example="lambdalabs/naruto-blip-captions")
    )
    dataset_config_name: str | None = attrs.field(default=None, metadata=kinds.text(optional=True, example="default"))
    dataset_image_column: str = attrs.field(default="image", metadata=kinds.text())
    dataset_caption_column: str = attrs.field(default="text", metadata=kinds.text())
    validation_prompt: str | None = attrs.field(
        default=None, metadata=kinds.text(optional=True, example="a cat in the snow")
    )
    # 1 to 10 in the node's schema; without a prompt each takes its caption from another image of the data set.
    validation_num_images: int = attrs.field(default=4, metadata=kinds.integer(low=1, high=10))
    center_crop: bool = attrs.field(default=False, metadata=kinds.flag())
    random_flip: bool = attrs.field(default=False, metadata=kinds.flag())
    rank: int = attrs.field(default=8, metadata=kinds.integer(low=1))
    init_lora_weights: bool | InitLoraWeights = attrs.field(
        default="gaussian", metadata=kinds.flag_or_choice(InitLoraWeights)
    )
    # The bridge's own default is none, with which PEFT fails: "model_type", before the first step.
    target_modules: Sequence[str] | str = attrs.field(default=ATTENTION_MODULES, metadata=kinds.names_or_pattern())
    learning_rate: float = attrs.field(default=1e-4, metadata=kinds.number(low=0, above=True))
    batch_size: int = attrs.field(default=1, metadata=kinds.integer(low=1))
    gradient_accumulation_steps: int = attrs.field(default=1, metadata=kinds.integer(low=1))
    prediction_type: PredictionType | None = attrs.field(
        default=None, metadata=kinds.choice(PredictionType, optional=True)
    )
    max_grad_norm: float = attrs.field(default=1.0, metadata=kinds.number(low=0, above=True))
    num_train_epochs: int | None = attrs.field(default=None, metadata=kinds.integer(low=1, optional=True, example=2))
    num_train_steps: int | None = attrs.field(default=None, metadata=kinds.integer(low=1, optional=True, example=200))
    max_train_epochs: int | None = attrs.field(default=None, metadata=kinds.integer(low=1, optional=True, example=2))
    max_train_steps: int | None = attrs.field(default=None, metadata=kinds.integer(low=1, optional=True, example=200))
    scale_lr: bool = attrs.field(default=False, metadata=kinds.flag())
    # The VAE makes one number of 8 pixels, so that fewer leave nothing.
    resolution: int = attrs.field(default=512, metadata=kinds.integer(low=8))
    noise_offset: float = attrs.field(default=0.0, metadata=kinds.number())
    snr_gamma: float | None = attrs.field(
        default=None,
        metadata=kinds.number(low=0, above=True, remark=": it makes the loss 0", optional=True, example=5.0),
    )
    lr_scheduler: LrScheduler = attrs.field(default="constant", metadata=kinds.choice(LrScheduler))
    lr_warmup_steps: int = attrs.field(default=0, metadata=kinds.integer(low=0))
    adam_beta1: float = attrs.field(default=0.9, metadata=kinds.number(low=0, high=1))
    adam_beta2: float = attrs.field(default=0.999, metadata=kinds.number(low=0, high=1))
    adam_weight_decay: float = attrs.field(default=0.01, metadata=kinds.number(low=0))
    adam_epsilon: float = attrs.field(default=1e-8, metadata=kinds.number(low=0, above=True))
    mixed_precision: MixedPrecision = attrs.field(default="fp16", metadata=kinds.choice(MixedPrecision))
    # Before the seed, whose default is what sets it; and no part of what makes two configs equal.
    seed_was_drawn: bool = attrs.field(init=False, default=False, eq=False, repr=False)
    seed: int = attrs.field(
        default=attrs.Factory(_draw_seed, takes_self=True),
        metadata=kinds.integer(
            low=1, high=MAX_SEED, remark=": the bridge would draw another one and not tell it", example=42
        ),
    )
    timeout: int = attrs.field(default=3600, metadata=kinds.integer(low=1))

    def __attrs_post_init__(self) -> None:
        complete(self, field_kinds())


def complete(config: ConfigFields, changed: Collection[str]) -> None:
    """Turn the values of a new config into what is kept.

    Args:
        config: The config.
        changed: The fields that were not checked before.

    Raises:
        ConfigError: It is wrong; lists everything.
    """
    problems = [*_read_fields(config, changed), *joint_problems(config.dataset_url, config.dataset_name)]
    if problems:
        raise ConfigError(problems)
    # Those that were complete before, and have not changed, are so still.
    if not _LENGTHS.isdisjoint(changed):
        for name, value in with_defaults(lengths_of(config)).items():
            object.__setattr__(config, name, value)


@functools.cache
def field_kinds() -> Mapping[str, Kind]:
    """Return the kind of every field of a config by its name, in order."""
    return {field.name: field.metadata["kind"] for field in attrs.fields(ConfigFields) if field.init}


@functools.cache
def _fields_to_read() -> Sequence[tuple[str, Kind, object]]:
    """Return the name, kind and default of every field: a value that is its default needs no check."""
    given = (
        (field, object() if field.default is attrs.NOTHING else field.default) for field in attrs.fields(ConfigFields)
    )
    return [(field.name, field.metadata["kind"], default) for field, default in given if field.init]


def field_names() -> tuple[str, ...]:
    """Return the names of all fields of a config, in order."""
    return tuple(field_kinds())


def joint_problems(dataset_url: object, dataset_name: object) -> Iterator[Problem]:
    """Yield what is wrong between fields."""
    if dataset_url is None and dataset_name is None:
        yield Problem(
            field="dataset_url",
            message="is missing, and so is dataset_name: the bridge would accept the job, and it would never start",
        )


def lengths_of(config: ConfigFields) -> dict[str, Any]:
    """Return the fields that say how long a job is."""
    return {name: getattr(config, name) for name in LENGTHS}


def with_defaults(lengths: Mapping[str, Any]) -> dict[str, int | None]:
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


def without_defaults(lengths: Mapping[str, Any]) -> dict[str, Any]:
    """Return lengths with None for each that ``with_defaults`` fills in just so."""
    kept, full = dict(lengths), with_defaults(lengths)
    for name in LENGTHS:
        if with_defaults({**kept, name: None}) == full:
            kept[name] = None
    return kept


def _read_fields(config: ConfigFields, names: Collection[str]) -> Iterator[Problem]:
    """Turn values of a new config into what is kept, and yield what is wrong with them."""
    for name, kind, default in _fields_to_read():
        if name not in names:
            continue
        given = getattr(config, name)
        if given is default:
            continue
        kept = given if kind.read is None else kind.read(given)
        if kept is not given:
            object.__setattr__(config, name, kept)
        message = kind.problem(kept)
        if message:
            yield Problem(field=name, message=message)
