"""What becomes of the values of a config on their way: asked for, sent, and used by the training code.

Two steps. First a service's ``ValueMapping`` says what is sent in place of what was asked for (``service``). Then the
training code, which is every service's, ignores some of what it was sent and changes some more: that is here.
``config.EffectiveConfig`` puts both together.

Source: stable-diffusion-task finetune_lora.py.
"""

from collections.abc import Iterator

import attrs

from crynux_async.training.fields import ConfigFields
from crynux_async.training.lengths import lengths
from crynux_async.training.service import ValueMapping
from crynux_async.values import Value

WITHOUT_EFFECT_ON_WEIGHTS = ("timeout", "validation_num_images", "validation_prompt")
"""Fields that do not change what is trained: validation images are rendered after the weights are saved."""

_BY_STEPS = "num_train_steps decides how long a round is"


@attrs.frozen(kw_only=True)
class Replacement(Value):
    """One value that is not sent as it was asked for.

    Attributes:
        field: Name of the field.
        asked: The value in the config.
        sent: The value on the wire, or None when the field is left out.
        reason: Why, in one sentence.
    """

    field: str
    asked: object
    sent: object
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.asked!r} is sent as {self.sent!r}: {self.reason}"


@attrs.frozen(kw_only=True)
class Use(Value):
    """One value that the training code does not use as it was sent.

    Attributes:
        field: Name of the field.
        value: What is used instead, or None when the field is ignored.
        reason: Why, in one sentence.
    """

    field: str
    value: object
    reason: str


@attrs.frozen(kw_only=True)
class EffectiveField(Value):
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
    asked: object
    sent: object
    used: object
    is_ignored: bool
    reason: str

    @property
    def is_changed(self) -> bool:
        """Whether something else than asked for is used."""
        return bool(self.reason)

    def __str__(self) -> str:
        used = "not used" if self.is_ignored else repr(self.used)
        return f"{self.field}: {self.asked!r} -> {self.sent!r} -> {used}" + (f": {self.reason}" if self.reason else "")


def replacements(config: ConfigFields, mapping: ValueMapping) -> Iterator[Replacement]:
    """Yield what is sent in place of what was asked for.

    Args:
        config: What was asked for.
        mapping: What the service can be sent.
    """
    for rule in mapping.replaced:
        asked = getattr(config, rule.field)
        if asked == rule.value:
            yield Replacement(field=rule.field, asked=asked, sent=rule.sent, reason=rule.reason)
    for left_out in mapping.omitted:
        asked = getattr(config, left_out.field)
        if asked is not None and getattr(config, left_out.beside) is not None:
            yield Replacement(field=left_out.field, asked=asked, sent=None, reason=left_out.reason)


def uses(config: ConfigFields, images: int | None) -> Iterator[Use]:
    """Yield what the training code makes of what it was sent.

    Args:
        config: What was sent.
        images: Images of the data set, >= 1, or None when it is not known: then what depends on it is left as it is.
    """
    yield from _used_lengths(config, images)
    if config.dataset_url is not None and config.dataset_name is not None:
        yield Use(field="dataset_url", value=None, reason="dataset_name is used where both are given")
    if config.lr_scheduler == "constant":
        yield Use(field="lr_warmup_steps", value=None, reason="the constant scheduler has no warm-up")
    # Left out of the JSON the bridge reads scale_lr as false, the training code as true; it is always sent.
    factor = config.gradient_accumulation_steps * config.batch_size
    if config.scale_lr and factor != 1:
        reason = f"scale_lr multiplies it by batch size and accumulation: {factor}"
        yield Use(field="learning_rate", value=used_learning_rate(config), reason=reason)
    if images is not None and config.validation_prompt is None and images < config.validation_num_images:
        reason = "without a validation_prompt there is at most one for each image of the data set"
        yield Use(field="validation_num_images", value=images, reason=reason)


def used_learning_rate(config: ConfigFields) -> float:
    """Return the peak learning rate that the optimizer gets."""
    if not config.scale_lr:
        return config.learning_rate
    return config.learning_rate * config.gradient_accumulation_steps * config.batch_size


def fields_that_nobody_asked_for(config: ConfigFields) -> set[str]:
    """Return the fields that are ignored while they hold no more than their default."""
    fields = set()
    if config.lr_scheduler == "constant" and config.lr_warmup_steps == 0:
        fields.add("lr_warmup_steps")
    if config.num_train_steps is not None and config.num_train_epochs == 1:
        fields.add("num_train_epochs")
    if config.max_train_steps is not None and config.max_train_epochs == 1:
        fields.add("max_train_epochs")
    return fields


def _used_lengths(config: ConfigFields, images: int | None) -> Iterator[Use]:
    # Steps win over epochs where both are given; epochs that were not given are 1, on the bridge and on the node.
    part, whole = lengths(config, images)
    if config.num_train_steps is not None:
        # Only one of the two may have been given; which one, nobody knows any more.
        is_one_round = config.num_train_steps == config.max_train_steps
        reason = f"the job is one round of {config.num_train_steps} steps" if is_one_round else _BY_STEPS
        yield Use(field="num_train_epochs", value=None, reason=reason)
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
