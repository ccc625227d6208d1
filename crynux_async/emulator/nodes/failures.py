"""What keeps a node from training, as far as the arguments of a job tell it.

Arguments that the node's own model of them refuses are reported at once. Whatever else goes wrong, the node keeps to
itself: it stays silent until the time of the round is over.

Source: stable-diffusion-task finetune_lora.py, download_url_dataset.py, task_args.py; crynux-worker inference.py ("Task
args invalid"); crynux-node task/reconciler.py ("Stay silent"); torch optim/adamw.py (betas); diffusers optimization.py
(polynomial).
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from crynux_async.emulator.nodes.task_args import TaskArgs

Failure = Literal["refused", "silent"]

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
_NEARBY = ("localhost", "local", "internal", "lan", "home.arpa")
_POLYNOMIAL_END = 1e-7
_SEEDS = 2**32
_SMALLEST_IMAGE = 8

# A word ends where letters become digits or small letters capital ones: RealVisXL_V4 is real, vis, xl, v, 4.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_OTHER_WORDS = frozenset({"xl", "flux"})
_OTHER_PHRASES = ("sd 3", "stable diffusion 3", "stablediffusion 3", "ssd 1 b ")
_OTHER_NAMES = (
    *("sdxl", "pixart", "kandinsky", "wuerstchen", "deepfloyd", "hunyuan", "auraflow"),
    *("inpaint", "pix2pix"),
)
_OTHER_NAMES_OF_TWO_WORDS = ("playgroundv2", "stablecascade", "stablevideo")


def failure(args: TaskArgs, model_name: str) -> Failure | None:
    """Return how a node fails before the first step is done, or None when it trains.

    Args:
        args: The arguments of the job.
        model_name: The base model.
    """
    if args.dataset_url is not None and _web_address(args.dataset_url) is None:
        return "refused"
    is_silent = is_other_kind(model_name) or any(fails(args) for fails in _SILENT)
    return "silent" if is_silent else None


def is_other_kind(model_name: str) -> bool:
    """Whether a base model has another network than the code can train, by its name.

    The code has one text encoder and hands the UNet four channels and nothing else.
    """
    name = model_name.partition("/")[2] or model_name
    words = [word.lower() for word in _WORD.findall(name)]
    phrase = f" {' '.join(words)} "
    return (
        not _OTHER_WORDS.isdisjoint(words)
        or any(f" {other}" in phrase for other in _OTHER_PHRASES)
        or any(other in name.lower() for other in _OTHER_NAMES)
        or any(other in "".join(words) for other in _OTHER_NAMES_OF_TWO_WORDS)
    )


def _web_address(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return None
    return parts if is_complete else None


def _has_no_data(args: TaskArgs) -> bool:
    """Whether there is no data set, or one that nodes cannot load from there; where both are given the name wins."""
    if args.dataset_name:
        return False
    parts = _web_address(args.dataset_url or "")
    if parts is None:
        return True
    name = unquote(parts.path.rpartition("/")[2])
    # Without a dot the node goes by the contents.
    return _is_nearby(parts.hostname or "") or ("." in name and not name.lower().endswith(_ARCHIVES))


def _is_nearby(host: str) -> bool:
    """Whether a host is this machine or one of a private network."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".")
        # A name of one word is known to the network at hand alone.
        return "." not in name or any(name.endswith(f".{near}") for near in _NEARBY)


def _has_bad_optimizer(args: TaskArgs) -> bool:
    return max(args.adam_beta1, args.adam_beta2) >= 1


def _has_bad_schedule(args: TaskArgs) -> bool:
    """Whether the polynomial scheduler would have to rise to its end."""
    factor = args.gradient_accumulation_steps * args.batch_size if args.scale_lr else 1
    return args.lr_scheduler == "polynomial" and args.learning_rate * factor <= _POLYNOMIAL_END


_SILENT: tuple[Callable[[TaskArgs], bool], ...] = (
    _has_no_data,
    _has_bad_optimizer,
    _has_bad_schedule,
    lambda args: args.init_lora_weights == "loftq",
    lambda args: args.model_variant == "",
    lambda args: args.seed >= _SEEDS,
    lambda args: args.resolution < _SMALLEST_IMAGE,
)
