"""What keeps a node from training, as far as the arguments of a job tell it.

Arguments that the node's own model of them refuses are reported at once. Whatever else goes wrong, the node keeps to
itself: it stays silent until the time of the round is over.

Source: stable-diffusion-task finetune_lora.py, download_url_dataset.py, task_args.py; crynux-worker inference.py ("Task
args invalid"); crynux-node task/reconciler.py ("Stay silent"); torch optim/adamw.py (betas); diffusers optimization.py
(polynomial).
"""

from collections.abc import Callable
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from crynux_async.emulator.nodes.addresses import is_nearby, is_page, refuses_head
from crynux_async.emulator.nodes.hub_names import can_exist, is_other_kind
from crynux_async.emulator.nodes.task_args import TaskArgs

Failure = Literal["refused", "silent"]

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
_POLYNOMIAL_END = 1e-7
_SEEDS = 2**32
_SMALLEST_IMAGE = 8


def failure(args: TaskArgs, model_name: str) -> Failure | None:
    """Return how a node fails before the first step is done, or None when it trains.

    Args:
        args: The arguments of the job.
        model_name: The base model.
    """
    if args.dataset_url is not None and _web_address(args.dataset_url) is None:
        return "refused"
    is_silent = not can_exist(model_name) or is_other_kind(model_name) or any(fails(args) for fails in _SILENT)
    return "silent" if is_silent else None


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
        return not can_exist(args.dataset_name)
    parts = _web_address(args.dataset_url or "")
    if parts is None:
        return True
    name = unquote(parts.path.rpartition("/")[2])
    # Without a dot the node goes by the contents.
    is_no_archive = "." in name and not name.lower().endswith(_ARCHIVES)
    return is_no_archive or is_nearby(parts.hostname or "") or is_page(parts) or refuses_head(parts)


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
