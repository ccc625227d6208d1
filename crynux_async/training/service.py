"""What the service that runs a training adds to it: what it cannot be sent, what a round costs, how long it may take.

A service's backend passes its own ``ServiceFacts``; the bridge's are the default wherever none are given.

Here a warm-up of 0 becomes 1: the bridge takes a zero for "not given" and puts its own default there, so what it cannot
express is sent as the nearest value that it can. ``judge_differences`` in ``advice/value_rules`` tells the user.

Source: crynux-bridge api/v1/image/finetune_params.go (SetDefaultValues), tasks/process_sd_ft_tasks.go (the chain of
rounds), config/config.example.yml; crynux-relay's task deadlines.
"""

import attrs

from crynux_async.values import Value

TINY = 1e-12  # stands for a zero that the bridge would replace by its default


@attrs.frozen(kw_only=True)
class ReplacedValue(Value):
    """One value that a service cannot be sent, and what is sent in its place.

    Attributes:
        field: Name of the field.
        value: The value that cannot be sent.
        sent: What is sent.
        reason: Why, in one sentence.
    """

    field: str
    value: object
    sent: object
    reason: str


@attrs.frozen(kw_only=True)
class OmittedField(Value):
    """One field that is not sent beside another.

    Attributes:
        field: Name of the field.
        beside: The field that takes its place where both are given.
        reason: Why, in one sentence.
    """

    field: str
    beside: str
    reason: str


def _names(rules: "tuple[ReplacedValue | OmittedField, ...]") -> str:
    return f"({', '.join(rule.field for rule in rules)})"


@attrs.frozen(kw_only=True)
class ValueMapping(Value):
    """How what was asked for becomes what a service is sent. Without any rule everything is sent as it is.

    What is sent must be a valid config again, and mapping it again must change nothing.

    Attributes:
        replaced: Values that cannot be sent.
        omitted: Fields that are left out beside others.
    """

    # Shown by their names alone: a mapping is a default, and help() shows the whole of a default.
    replaced: tuple[ReplacedValue, ...] = attrs.field(default=(), repr=_names)
    omitted: tuple[OmittedField, ...] = attrs.field(default=(), repr=_names)


@attrs.frozen(kw_only=True)
class ServiceFacts(Value):
    """What decides, besides the config, what is sent, what it costs and how long it can take.

    Attributes:
        mapping: How what was asked for becomes what is sent.
        fee_cnx: Fee of a round in CNX, >= 0, unless the operator has configured another one.
        account: Whose account pays it, in words.
        queue_seconds: Seconds, besides its timeout, that a round may wait for a node.
        failed_rounds: Failed rounds, >= 1, after which the job fails.
        endless_share: Share of all rounds, 0 to 1, that never end however well they are trained.
        has_validation_images: Whether it hands the validation images out.
        retention: Seconds that a result is kept after the job has ended, or None for ever.
        takes_rounds: Whether a job may be a chain of rounds.
        option: What a command must be given whose jobs are there, or "" where it goes there by itself.
    """

    mapping: ValueMapping = attrs.field(factory=ValueMapping)
    fee_cnx: float
    account: str
    queue_seconds: float
    failed_rounds: int
    endless_share: float
    has_validation_images: bool
    retention: float | None
    takes_rounds: bool = True
    option: str = ""

    def longest_round(self, timeout: float) -> float:
        """Return the seconds in the queue and on a node after which the service gives up on a round.

        It may wait for as long as it may run, and a while longer.

        Args:
            timeout: Seconds that the round may take on a node.
        """
        return self.queue_seconds + 2 * timeout

    def longest_job(self, rounds: int, timeout: float) -> float:
        """Return the seconds after which any job has ended: all of its rounds, and those that failed and were repeated.

        Args:
            rounds: How many it has, >= 1.
            timeout: Seconds that each may take on a node.
        """
        return (rounds + self.failed_rounds - 1) * self.longest_round(timeout)

    def longest_failure(self, timeout: float) -> float:
        """Return the seconds after which a job that cannot work has failed.

        Args:
            timeout: Seconds that each of its rounds may take on a node.
        """
        return self.failed_rounds * self.longest_round(timeout)


def _zero(field: str, sent: float, default: float) -> ReplacedValue:
    return ReplacedValue(field=field, value=0, sent=sent, reason=f"the bridge would turn a 0 into {default}")


BRIDGE_MAPPING = ValueMapping(
    replaced=(
        _zero("lr_warmup_steps", 1, 500),
        _zero("adam_weight_decay", TINY, 0.01),
        _zero("adam_beta1", TINY, 0.9),
        _zero("adam_beta2", TINY, 0.999),
    ),
    omitted=(
        OmittedField(
            field="dataset_url", beside="dataset_name", reason="the nodes use dataset_name where both are given"
        ),
    ),
)
"""The bridge's mapping. The other fields that it knows no zero for cannot be zero in a config either."""

BRIDGE_FACTS = ServiceFacts(
    mapping=BRIDGE_MAPPING,
    fee_cnx=15.0,
    account="the bridge's account",
    queue_seconds=180.0,
    # The job fails when its ``failed_count`` is above three.
    failed_rounds=4,
    # One round in a hundred is checked in a group of three, and the relay hands out no checkpoint of those: the bridge
    # asks for it until retention deletes the job. Source: crynux-relay's get_result.go, its VRF rule.
    endless_share=0.01,
    has_validation_images=False,
    # ``inference_tasks_retention_days``.
    retention=7 * 86_400.0,
)
"""The bridge's facts, as in its example configuration."""
