"""Hypothesis strategies over what a user may ask for."""

import string
from typing import Any

from hypothesis import strategies as st

from crynux_async.training.config import FineTuneConfig
from crynux_async.training.fields import MAX_SEED
from crynux_async.training.kinds import MAX_INTEGER

_SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
_PATH = string.ascii_letters + string.digits + "-._~/"


def texts() -> st.SearchStrategy[str]:
    """Text that is not blank, with every kind of character that JSON, TOML and Go see differently."""
    awkward = st.sampled_from(['"', "\\", "\n", "\r", "\t", "\x7f", "\x00", "<&>", "\u2028", "é", "😀", "\u0085"])
    return st.lists(st.text(min_size=1, max_size=8) | awkward, min_size=1, max_size=3).map("".join).filter(str.strip)


def urls() -> st.SearchStrategy[str]:
    """Addresses that nodes can load."""
    host = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
    tail = st.text(_PATH, max_size=20)
    return st.builds("{}{}.example/{}".format, st.sampled_from(["http://", "https://"]), host, tail)


def integers(low: int, high: int = MAX_INTEGER) -> st.SearchStrategy[int]:
    """Whole numbers, with those near the lower bound more often."""
    return st.integers(low, min(high, low + 3)) | st.integers(low, high)


def above_zero() -> st.SearchStrategy[float]:
    """Finite floats > 0, denormal ones included."""
    return st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)


def betas() -> st.SearchStrategy[float]:
    """Floats from 0 up to 1, 1 excluded."""
    return st.just(0.0) | st.floats(0, 1, exclude_max=True)


def modules() -> st.SearchStrategy[list[str] | str]:
    """Names of modules, or one pattern."""
    return st.lists(texts(), min_size=1, max_size=3) | st.just(r".*attn2\.to_k")


OPTIONAL_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model_variant": st.none() | texts(),
    "model_revision": texts(),
    "dataset_config_name": st.none() | texts(),
    "dataset_image_column": texts(),
    "dataset_caption_column": texts(),
    "validation_prompt": st.none() | texts(),
    "validation_num_images": integers(1, 10),
    "center_crop": st.booleans(),
    "random_flip": st.booleans(),
    "rank": integers(1),
    "init_lora_weights": st.sampled_from([True, False, "gaussian", "loftq"]),
    "target_modules": modules(),
    "learning_rate": above_zero(),
    "batch_size": integers(1),
    "gradient_accumulation_steps": integers(1),
    "prediction_type": st.sampled_from([None, "epsilon", "v_prediction"]),
    "max_grad_norm": above_zero(),
    "num_train_epochs": st.none() | integers(1),
    "num_train_steps": st.none() | integers(1),
    "max_train_epochs": st.none() | integers(1),
    "max_train_steps": st.none() | integers(1),
    "scale_lr": st.booleans(),
    "resolution": integers(8),
    "noise_offset": st.sampled_from([0.0, -0.0]) | st.floats(allow_nan=False, allow_infinity=False),
    "snr_gamma": st.none() | above_zero(),
    "lr_scheduler": st.sampled_from(_SCHEDULERS),
    "lr_warmup_steps": integers(0),
    "adam_beta1": betas(),
    "adam_beta2": betas(),
    "adam_weight_decay": st.just(0.0) | st.floats(0, allow_nan=False, allow_infinity=False),
    "adam_epsilon": above_zero(),
    "mixed_precision": st.sampled_from(["no", "fp16", "bf16"]),
    "seed": integers(1, MAX_SEED),
    "timeout": integers(1),
}
"""A strategy for every field that may be left out, by name; the three others are in ``config_fields``."""


def config_fields() -> st.SearchStrategy[dict[str, Any]]:
    """Keyword arguments of any valid ``FineTuneConfig``: any subset of the fields, at least a model and a data set."""
    datasets = st.one_of(
        st.fixed_dictionaries({"dataset_url": urls()}),
        st.fixed_dictionaries({"dataset_name": texts()}),
        st.fixed_dictionaries({"dataset_url": urls(), "dataset_name": texts()}),
    )
    rest = st.fixed_dictionaries({"model_name": texts()}, optional=OPTIONAL_FIELDS)
    return st.builds(lambda one, other: {**one, **other}, datasets, rest)


def configs() -> st.SearchStrategy[FineTuneConfig]:
    """Any valid config."""
    return config_fields().map(lambda fields: FineTuneConfig(**fields))
