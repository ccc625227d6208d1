"""What a bridge's own ``config.yml`` says, as far as it decides whether the bridge starts and who can reach it. Pure.

Source: crynux-bridge config/app_config.go (the names), config/config.go (what is checked, and in which order).
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from crynux_async.errors import Problem, SettingsError, UsageError
from crynux_async.secret import Secret
from crynux_async.signing.key_files import parse_key

CONFIG_FILE = "config/config.yml"
TASKS_FILE = "config/heartbeat_tasks.json"
KEY_FILE = "config/priv_key.txt"
COMPOSE_FILE = "docker-compose.yml"
KEYS_FILE = "keys.json"
LOG_FILE = "data/logs/crynux_bridge.log"
OUTPUT_FILE = "data/logs/output.log"
PID_FILE = "data/bridge.pid"

LEAST_CNX = 500
"""A bridge whose account at the relay holds this much or less does not start."""

CONFIG_NAMES = frozenset(
    [
        "environment",
        "db.driver",
        "db.connection",
        "db.log.level",
        "db.log.output",
        "db.log.max_file_size",
        "db.log.max_days",
        "db.log.max_file_num",
        "log.level",
        "log.output",
        "log.max_file_size",
        "log.max_days",
        "log.max_file_num",
        "log.features.llm_api_request_log_enabled",
        "log.features.llm_api_request_log_toolcall_enabled",
        "admin.auth_token",
        "admin.task_trace_max_tasks",
        "http.host",
        "http.port",
        "http.max_body_bytes",
        "data_dir.inference_tasks",
        "data_dir.inference_tasks_retention_days",
        "data_dir.model_images",
        "blockchain.account.address",
        "blockchain.account.private_key_file",
        "relay.base_url",
        "task.default_sd_task_fee_cnx",
        "task.default_sd_xl_task_fee_cnx",
        "task.default_llm_task_fee_cnx",
        "task.default_llm_max_completion_tokens",
        "task.default_sd_finetune_task_fee_cnx",
        "task.repeat_num",
        "task.sd_finetune_timeout",
        "task.default_task_version",
        "task.heartbeat_tasks.batch_size",
        "task.heartbeat_tasks.max_tasks_per_hour",
        "task.heartbeat_tasks.tasks_file",
        "openrouter.models_file",
        "task_schema.stable_diffusion_inference",
        "task_schema.gpt_inference",
        "task_schema.stable_diffusion_finetune_lora",
    ]
)
"""Every name that the bridge reads; it ignores others without a word."""


@attrs.frozen(kw_only=True)
class BridgeConfig:
    """The parts of a ``config.yml`` that matter here.

    Attributes:
        address: The bridge's wallet, which must be in its EIP-55 letter case.
        key_file: Where the bridge looks for the secret key; it deletes the file once it has started.
        relay_url: Address of the relay.
        host: The address that the bridge listens on.
        port: Its port.
        admin_token: What opens the traces, or None.
        fee_cnx: What a round of fine-tuning costs, in CNX.
        db_driver: "sqlite", "mysql" or "postgres".
        db_connection: Where the database is; may hold a password, so it is not shown.
        tasks_file: The heartbeat tasks, relative to the config's folder.
        log_file: Where the bridge logs to, "" or "stdout" or "stderr" for nowhere else.
        unknown: Names that the bridge ignores.
    """

    address: str
    key_file: str
    relay_url: str
    host: str
    port: int
    admin_token: Secret | None
    fee_cnx: float
    db_driver: str
    db_connection: str = attrs.field(repr=False)
    tasks_file: str
    log_file: str
    unknown: tuple[str, ...] = ()

    @property
    def base_url(self) -> str:
        """The bridge's address on this machine."""
        return f"http://127.0.0.1:{self.port}"

    def rounds(self, wei: int) -> int | None:
        """Return how many rounds an account pays for, or None where they cost nothing."""
        fee = round(self.fee_cnx * 10**9) * 10**9  # the bridge rounds to whole gwei
        return wei // fee if fee > 0 else None


def read_config(text: str) -> BridgeConfig:
    """Return what a ``config.yml`` says.

    Raises:
        SettingsError: It is no YAML, or values are missing; lists all of it.
        UsageError: The extra ``bridge`` is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise UsageError("config.yml is YAML: pip install 'crynux-async[bridge]'") from error
    try:
        values = dict(_flat(yaml.safe_load(text)))
    except RecursionError as error:
        # An alias of YAML may stand inside of what it names.
        raise _unusable([Problem(field=CONFIG_FILE, message="holds itself")]) from error
    except yaml.YAMLError as error:
        # The line and not the message, which quotes the text: there are secrets in it.
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 1}" if place else ""
        raise _unusable([Problem(field=CONFIG_FILE, message=f"is no YAML{where}")]) from error
    problems = list(_problems(values))
    if problems:
        raise _unusable(problems)
    token = str(values.get("admin.auth_token") or "")
    return BridgeConfig(
        address=str(values["blockchain.account.address"]),
        key_file=str(values["blockchain.account.private_key_file"]),
        relay_url=str(values["relay.base_url"]).rstrip("/"),
        host=str(values["http.host"]),
        port=int(values["http.port"]),
        admin_token=Secret(token) if token else None,
        fee_cnx=float(values["task.default_sd_finetune_task_fee_cnx"]),
        db_driver=str(values["db.driver"]),
        db_connection=str(values["db.connection"]),
        tasks_file=str(values.get("task.heartbeat_tasks.tasks_file") or "heartbeat_tasks.json"),
        log_file=str(values.get("log.output") or ""),
        unknown=tuple(name for name in values if name not in CONFIG_NAMES),
    )


def with_host(text: str, host: str) -> str:
    """Return a ``config.yml`` whose ``http.host`` is another one; every other character stays as it is.

    Raises:
        SettingsError: There is no such line.
    """
    # By lines: a YAML writer would lose comments and order.
    lines = text.splitlines(keepends=True)
    is_http = False
    for index, line in enumerate(lines):
        # What begins in the first column begins another section.
        if line[:1] not in (" ", "#", "\n", "\r"):
            is_http = line.startswith("http:")
        if is_http and line.lstrip().startswith("host:"):
            indent = line[: len(line) - len(line.lstrip())]
            lines[index] = f'{indent}host: "{host}"\n'
            return "".join(lines)
    raise _unusable([Problem(field="http.host", message="is missing")])


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their dotted names."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))


_PORT = re.compile("[0-9]{1,5}", re.ASCII)

_NEEDED = (
    "blockchain.account.address",
    "blockchain.account.private_key_file",
    "relay.base_url",
    "http.host",
    "http.port",
    "http.max_body_bytes",
    "db.driver",
    "db.connection",
    "task.default_sd_finetune_task_fee_cnx",
)


def _problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    for name in _NEEDED:
        if values.get(name) in (None, ""):
            yield Problem(field=name, message="is missing")
    for name in ("blockchain.account.address", "blockchain.account.private_key_file"):
        # Neither is ever shown: people put the key itself here.
        if isinstance(values.get(name), int):
            yield Problem(field=name, message="must stand in quotes, or YAML takes it for a number")
        elif parse_key(str(values.get(name)).strip()) is not None:
            yield Problem(field=name, message="holds a secret key, which belongs in no config; take it out")
    port = str(values.get("http.port") or "1")
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        yield Problem(field="http.port", message=f"must be a port, not {port!r}")
    fee = values.get("task.default_sd_finetune_task_fee_cnx")
    if fee is not None and (isinstance(fee, bool) or not isinstance(fee, int | float) or not 0 <= fee < math.inf):
        yield Problem(field="task.default_sd_finetune_task_fee_cnx", message="must be a number >= 0, in CNX")


def _unusable(problems: list[Problem]) -> SettingsError:
    return SettingsError(problems, what=f"{CONFIG_FILE} of the bridge cannot be used")
