"""Every kind of advice about a config: its code, what it means, and what to do.

``CX1xx`` is about values, ``CX2xx`` about what is trained, ``CX4xx`` about cost, time and size; ``CX3xx`` belongs to
data sets (``crynux_async.datasets.CODES``). A code keeps its meaning for ever.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from crynux_async.datasets.findings import Severity
from crynux_async.values import Value

_TRAINING: Final = "stable-diffusion-task finetune_lora.py"
_PARAMS: Final = "crynux-bridge api/v1/image/finetune_params.go"
_CHAIN: Final = "crynux-bridge tasks/process_sd_ft_tasks.go"
_SCHEDULERS: Final = "diffusers optimization.py"
_GUIDES: Final = "diffusers --noise_offset; crosslabs.org, Diffusion with Offset Noise"
_DOWNLOAD: Final = "stable-diffusion-task download_url_dataset.py"


@attrs.frozen(kw_only=True)
class AdviceCode(Value):
    """One kind of advice.

    Attributes:
        severity: ``error``: it cannot work. ``warning``: it works, but not as one would expect. ``note``: good to know.
        title: What it is, in a few words.
        action: What to do about it, in a sentence.
        source: Where the rule comes from.
    """

    severity: Severity
    title: str
    action: str
    source: str


def _error(title: str, action: str, source: str = _TRAINING) -> AdviceCode:
    return AdviceCode(severity="error", title=title, action=action, source=source)


def _warning(title: str, action: str, source: str = _TRAINING) -> AdviceCode:
    return AdviceCode(severity="warning", title=title, action=action, source=source)


def _note(title: str, action: str, source: str = _TRAINING) -> AdviceCode:
    return AdviceCode(severity="note", title=title, action=action, source=source)


_ONE_ROUND: Final = (
    "Leave num_train_steps and num_train_epochs out: then the job is one round. Give it the time it needs."
)

CODES: Final[Mapping[str, AdviceCode]] = MappingProxyType(
    {
        # The values.
        "CX101": _error("base model of a kind that cannot be trained", "Use a Stable Diffusion 1.x or 2.x model."),
        "CX102": _error(
            "target_modules select nothing",
            'Use ["to_k", "to_q", "to_v", "to_out.0"], or a regular expression for whole names such as '
            '".*attn2\\\\.to_k".',
            "peft tuners_utils.check_target_module_exists",
        ),
        "CX103": _error(
            "target_modules select what cannot get a LoRA",
            "Name linear and convolution layers only, such as to_out.0 and not to_out.",
            "peft tuners/lora/model.py",
        ),
        "CX104": _warning(
            "part of target_modules selects nothing",
            "Correct or remove it.",
            "peft tuners_utils.check_target_module_exists",
        ),
        "CX105": _warning(
            "part of the LoRA is not loaded",
            "Load the file that LoraArchive.export() writes, or train the attention layers only.",
            "diffusers loaders/peft.py (first_key)",
        ),
        "CX106": _error('init_lora_weights="loftq"', 'Use "gaussian" or true.', "peft tuners/lora/config.py"),
        "CX107": _warning(
            "training starts from noise",
            'Use "gaussian" or true: then it starts from the base model.',
            "peft LoraConfig",
        ),
        "CX108": _note(
            "value that the bridge cannot express", "Nothing needs to be done: the nearest value is sent.", _PARAMS
        ),
        "CX109": _note("value that is not used as given", "Leave it out, or change what overrides it."),
        "CX110": _warning("learning rate is multiplied", "Set scale_lr = false and give the learning rate itself."),
        "CX111": _warning("revision that nodes may not have", 'Use "main".'),
        "CX112": _note("variant that not every file has", "Leave model_variant out unless the repository is known."),
        "CX113": _warning("weights and optimizer in bfloat16", 'Use "fp16": there the LoRA itself is kept in float32.'),
        "CX114": _note("another precision than most jobs", 'Use "fp16", as the documentation does.'),
        "CX115": _note("resolution not a multiple of 8", "Use a multiple of 8, such as 512."),
        "CX116": _note("random crop", "Set center_crop = true, or crop the images to squares yourself."),
        "CX117": _note("validation images that nobody sees", "Ask for 1: the others only take time."),
        "CX118": _error(
            "data set in a file that nodes do not extract",
            "Use a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz; `dataset pack` makes one.",
            _DOWNLOAD,
        ),
        "CX119": _error("data set at a private address", "Use an address that other people's machines can reach."),
        "CX120": _note(
            "nodes keep what an address gave them",
            "Keep the file in place until the job has ended, and give new content a new address.",
            _DOWNLOAD,
        ),
        "CX121": _note(
            "data set from Hugging Face", "Use a public one without a loading script that has a train split."
        ),
        "CX122": _note("prediction_type is given", "Leave it out: then it is the base model's own."),
        "CX123": _error(
            "regular expression that takes too long",
            "Name the modules in a list, or leave out repetitions within repetitions.",
            "peft tuners_utils.check_target_module_exists",
        ),
        "CX124": _error(
            "name that no model can have",
            "Give owner/name of a repository on Hugging Face in the layout of diffusers; upload yours there, publicly.",
            "huggingface_hub utils/_validators.py; diffusers pipelines/pipeline_utils.py (from_pretrained)",
        ),
        "CX125": _error(
            "name that no data set can have",
            "Give owner/name of a public data set on Hugging Face, or the address of an archive as dataset_url.",
            "huggingface_hub utils/_validators.py; datasets load.py",
        ),
        "CX126": _warning(
            "secret in the address", "Use an address that needs none, and change what was in it.", _DOWNLOAD
        ),
        "CX127": _warning(
            "address that expires",
            "Use an address that never expires, or one that outlasts every try; check it with `dataset check-url`.",
            f"{_DOWNLOAD} (HEAD, then GET)",
        ),
        "CX128": _error(
            "page about a file", "Use the address of the file itself, and check it with `dataset check-url`.", _DOWNLOAD
        ),
        "CX129": _warning("prediction_type of another family", "Leave it out: then it is the base model's own."),
        "CX130": _note(
            "resolution far from the base model's",
            "Use the base model's own resolution, or one near it.",
            "model cards of stable-diffusion-v1-5 (512), 2-base (512), 2 and 2-1 (768)",
        ),
        "CX131": _warning(
            "noise_offset far beyond the usual",
            "Use 0, or 0.05 to 0.1 for darker and brighter pictures.",
            _GUIDES,
        ),
        # What is trained.
        "CX201": _warning("every round but the last is lost", _ONE_ROUND),
        "CX202": _warning("short last round", _ONE_ROUND),
        "CX203": _warning("rounds longer than asked for", "Allow for it in the timeout, or make the job one round."),
        "CX204": _warning("very few steps", "Set max_train_steps, or more epochs, or a smaller batch_size."),
        "CX205": _note(
            "length depends on the data set", "Check with the data set or its number of images, or set max_train_steps."
        ),
        "CX206": _warning(
            "learning rate never leaves its warm-up", "Make lr_warmup_steps a small part of the steps.", _SCHEDULERS
        ),
        "CX207": _error("polynomial learning rate too low", "Use more than 1e-7, or another scheduler.", _SCHEDULERS),
        "CX208": _error(
            "polynomial warm-up as long as the training",
            "Make lr_warmup_steps a small part of the steps.",
            _SCHEDULERS,
        ),
        "CX209": _error("nothing is trained", "Train more steps, or use the constant scheduler.", _SCHEDULERS),
        "CX210": _warning(
            "step larger than the data set",
            "Make batch_size * gradient_accumulation_steps at most the number of images.",
        ),
        "CX211": _warning(
            "learning rate far from what suits AdamW",
            "Use 1e-4, or from 5e-5 to 1e-3: a rate of 1.0 is for Prodigy and D-Adaptation, which nodes do not have.",
            f"{_TRAINING} (torch.optim.AdamW); Kingma and Ba, Adam (2015), section 2.1: how long a step is",
        ),
        "CX212": _note(
            "cosine_with_restarts without restarts",
            "Use cosine, which is the same, or another scheduler.",
            f"{_TRAINING} (get_scheduler without num_cycles); {_SCHEDULERS} (num_cycles=1)",
        ),
        # Cost, time and size.
        "CX401": _note("cost", "Fewer rounds cost less.", _CHAIN),
        "CX402": _note(
            "time",
            "Choose the shortest timeout that is certainly enough: a mistake shows only when it is over.",
            _CHAIN,
        ),
        "CX403": _warning(
            "timeout may be too short",
            "Raise timeout, or train fewer steps.",
            "diffusers docs/source/en/training/lora.md: 15,000 steps of 4 images in 5 hours on an RTX 2080 Ti",
        ),
        "CX404": _warning("long timeout", "Choose the shortest timeout that is certainly enough.", _CHAIN),
        "CX405": _warning(
            "archive that may be too large to upload",
            "Use a lower rank or fewer target_modules.",
            "crynux-relay's configuration template (32 MiB)",
        ),
        "CX406": _note(
            "a round may hang for ever",
            "A session calls such a job stalled when its time is over: submit it again then.",
            _CHAIN,
        ),
    }
)
"""Every code that ``advice.check`` reports, besides those of data sets."""


@attrs.frozen(kw_only=True)
class Advice(Value):
    """One thing to know about a config before it is paid for.

    Attributes:
        code: The stable code, a key of ``CODES`` or of ``crynux_async.datasets.CODES``.
        severity: ``error``: it cannot work. ``warning``: it works, but not as one would expect. ``note``: good to know.
        field: The field that it is about, or None.
        title: What it is, in a few words.
        message: What will happen.
        action: What to do about it.
        source: Where the rule comes from.
    """

    code: str
    severity: Severity
    field: str | None
    title: str
    message: str
    action: str
    source: str

    def __str__(self) -> str:
        where = f" {self.field}:" if self.field else ""
        return f"{self.code} {self.severity}:{where} {self.message} {self.action}"


# Most configs are told the same, word for word.
@functools.lru_cache(maxsize=256)
def advise(code: str, field: str | None, message: str, *, severity: Severity | None = None) -> Advice:
    """Make an advice of a known kind.

    Args:
        code: A key of ``CODES``.
        field: The field that it is about.
        message: What will happen, in whole sentences.
        severity: In place of the code's own.
    """
    kind = CODES[code]
    return Advice(
        code=code,
        severity=severity or kind.severity,
        field=field,
        title=kind.title,
        message=message,
        action=kind.action,
        source=kind.source,
    )
