"""What becomes of a config on its way: asked for, sent, and used by the training code.

The bridge takes a zero for "not given" and puts its own default there, so some values are sent as the nearest one that
it can express. The training code then ignores some of what it was sent, and changes some more.

Source: crynux-bridge api/v1/image/finetune_params.go (SetDefaultValues); stable-diffusion-task finetune_lora.py.
"""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.training.lengths import lengths

if TYPE_CHECKING:
    from crynux_async.training.config import FineTuneConfig

TINY = 1e-12  # stands for a zero that the bridge would replace by its default

WITHOUT_EFFECT_ON_WEIGHTS = ("timeout", "validation_num_images", "validation_prompt")
"""Fields that do not change what is trained: validation images are rendered after the weights are saved."""

_ZERO_DEFAULTS = (("adam_weight_decay", 0.01), ("adam_beta1", 0.9), ("adam_beta2", 0.999))


@attrs.frozen(kw_only=True)
class Replacement:
    """One value that is not sent as it was asked for.

    Attributes:
        field: Name of the field.
        asked: The value in the config.
        sent: The value on the wire, or None when the field is left out.
        reason: Why, in one sentence.
    """

    field: str
    asked: Any
    sent: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.asked!r} is sent as {self.sent!r}: {self.reason}"


@attrs.frozen(kw_only=True)
class Use:
    """One value that the training code does not use as it was sent.

    Attributes:
        field: Name of the field.
        value: What is used instead, or None when the field is ignored.
        reason: Why, in one sentence.
    """

    field: str
    value: Any
    reason: str


@attrs.frozen(kw_only=True)
class EffectiveField:
    """One field of a config, at each station of its way.

    Attributes:
        field: Its name.
        asked: The value in the config.
        sent: The value on the wire, or None when the field is left out.
        used: The value that the training code uses, or None when it uses none.
        is_ignored: Whether a value is sent and the training code ignores it.
        reason: Why the three differ; "" when they do not.
    """

    field: str
    asked: Any
    sent: Any
    used: Any
    is_ignored: bool
    reason: str

    @property
    def is_changed(self) -> bool:
        """Whether something else than asked for is used."""
        return bool(self.reason)

    def __str__(self) -> str:
        used = "not used" if self.is_ignored else repr(self.used)
        return f"{self.field}: {self.asked!r} -> {self.sent!r} -> {used}" + (f": {self.reason}" if self.reason else "")


@attrs.frozen(kw_only=True)
class EffectiveConfig:
    """What the bridge and the nodes will make of a config.

    Attributes:
        asked: The config as it was asked for.
        config: The config whose values go over the wire as they are.
        replacements: Where ``config`` differs from ``asked``.
        uses: Where the training code makes something else of ``config``.
    """

    asked: "FineTuneConfig"
    config: "FineTuneConfig"
    replacements: tuple[Replacement, ...]
    uses: tuple[Use, ...]

    @property
    def fields(self) -> tuple[EffectiveField, ...]:
        """Every field of the config, in its order."""
        return tuple(self._field(field.name) for field in attrs.fields(type(self.asked)))

    @property
    def differences(self) -> tuple[EffectiveField, ...]:
        """The fields of which something else than asked for is used; those that nobody asked for are left out."""
        changed = {item.field for item in self.replacements} | {item.field for item in self.uses}
        changed -= _unasked(self.asked)
        return tuple(self._field(field.name) for field in attrs.fields(type(self.asked)) if field.name in changed)

    def training(self) -> dict[str, Any]:
        """Return what decides the trained weights, in one form for all configs that train the same.

        Left out are fields that are ignored and those that only change how the job runs (``timeout``, validation).
        """
        data = self.config.to_dict()
        # Only a data set tells how many steps an epoch has, and a digest must not depend on what is known of it.
        for use in _uses(self.config, None):
            data[use.field] = use.value
        data["scale_lr"] = None  # it is in the learning rate
        if isinstance(self.config.target_modules, tuple):
            data["target_modules"] = sorted(set(self.config.target_modules))
        return {name: value for name, value in data.items() if name not in WITHOUT_EFFECT_ON_WEIGHTS}

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


def effective(config: "FineTuneConfig", images: int | None = None) -> EffectiveConfig:
    """Return what the bridge and the nodes will make of a config.

    Args:
        config: What was asked for.
        images: Images of the data set, >= 1, or None when it is not known: then what depends on it is left as it is.
    """
    replacements = tuple(_replacements(config))
    sent = _replaced(config, replacements) if replacements else config
    return EffectiveConfig(asked=config, config=sent, replacements=replacements, uses=tuple(_uses(sent, images)))


def _replaced(config: "FineTuneConfig", replacements: tuple[Replacement, ...]) -> "FineTuneConfig":
    """Return a copy with the values that are sent; they are valid, and checking all fields again would be slow."""
    sent = copy.copy(config)
    for item in replacements:
        object.__setattr__(sent, item.field, item.sent)
    return sent


def used_learning_rate(config: "FineTuneConfig") -> float:
    """Return the peak learning rate that the optimizer gets."""
    if not config.scale_lr:
        return config.learning_rate
    return config.learning_rate * config.gradient_accumulation_steps * config.batch_size


def _unasked(config: "FineTuneConfig") -> set[str]:
    """Return the fields that are ignored while they hold no more than their default."""
    fields = set()
    if config.lr_scheduler == "constant" and config.lr_warmup_steps == 0:
        fields.add("lr_warmup_steps")
    if config.num_train_steps is not None and config.num_train_epochs == 1:
        fields.add("num_train_epochs")
    if config.max_train_steps is not None and config.max_train_epochs == 1:
        fields.add("max_train_epochs")
    return fields


def _replacements(config: "FineTuneConfig") -> Iterator[Replacement]:
    if config.lr_warmup_steps == 0:
        reason = "the bridge would make 500 of a 0"
        yield Replacement(field="lr_warmup_steps", asked=0, sent=1, reason=reason)
    for name, default in _ZERO_DEFAULTS:
        if getattr(config, name) == 0:
            reason = f"the bridge would make {default} of a 0"
            yield Replacement(field=name, asked=0.0, sent=TINY, reason=reason)
    if config.dataset_url is not None and config.dataset_name is not None:
        reason = "the nodes use dataset_name where both are given"
        yield Replacement(field="dataset_url", asked=config.dataset_url, sent=None, reason=reason)


def _uses(config: "FineTuneConfig", images: int | None) -> Iterator[Use]:
    yield from _used_lengths(config, images)
    if config.lr_scheduler == "constant":
        yield Use(field="lr_warmup_steps", value=None, reason="the constant scheduler has no warm-up")
    factor = config.gradient_accumulation_steps * config.batch_size
    if config.scale_lr and factor != 1:
        reason = f"scale_lr multiplies it by batch size and accumulation: {factor}"
        yield Use(field="learning_rate", value=used_learning_rate(config), reason=reason)
    if images is not None and config.validation_prompt is None and images < config.validation_num_images:
        reason = "without a validation_prompt there is at most one for each image of the data set"
        yield Use(field="validation_num_images", value=images, reason=reason)


def _used_lengths(config: "FineTuneConfig", images: int | None) -> Iterator[Use]:
    part, whole = lengths(config, images)
    if config.num_train_steps is not None:
        yield Use(field="num_train_epochs", value=None, reason="num_train_steps decides how long a round is")
    elif (config.num_train_epochs or 1) > (config.max_train_epochs or 1) and config.max_train_steps is None:
        reason = "the whole job has no more epochs"
        yield Use(field="num_train_epochs", value=config.max_train_epochs, reason=reason)
    if config.max_train_steps is not None:
        yield Use(field="max_train_epochs", value=None, reason="max_train_steps decides how long the job is")
    elif whole is not None:
        reason = f"{config.max_train_epochs} epochs of {whole // (config.max_train_epochs or 1)} steps"
        yield Use(field="max_train_steps", value=whole, reason=reason)
    if part is not None and whole is not None and part > whole:
        yield Use(field="num_train_steps", value=whole, reason="the whole job has no more steps")
    elif part is not None and config.num_train_steps is None:
        reason = f"{config.num_train_epochs} epochs of {part // (config.num_train_epochs or 1)} steps"
        yield Use(field="num_train_steps", value=part, reason=reason)
