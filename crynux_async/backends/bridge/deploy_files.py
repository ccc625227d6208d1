"""The files that a bridge of one's own needs, written as its program reads them. Pure: contents, not disks.

Paths in ``config.yml`` are relative to the folder that the program is started in: ``/app`` in the container, the
bridge's own folder outside, so that one file serves both.

Source: crynux-bridge config/config.example.yml, build/docker-compose.yml, and starts of the real program.
"""

import json
import secrets
from urllib.parse import urlsplit

import attrs

from crynux_async.backends.bridge.deploy_config import COMPOSE_FILE, CONFIG_FILE, KEY_FILE, LOG_FILE, TASKS_FILE
from crynux_async.backends.bridge.deploy_defaults import DEFAULT_IMAGE, DEFAULT_PORT, Database
from crynux_async.errors import UsageError
from crynux_async.secret import Secret, mask_credentials, mask_query
from crynux_async.settings import RELAYS

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104  # inside a container, whose port is published on 127.0.0.1 alone

_PRIVATE, _PUBLIC = 0o600, 0o644
# The bridge's workers write at once. They wait for each other, and lock when they begin: SQLite does not let a reader
# wait who wants to write.
_SQLITE = "data/crynux_bridge.db?_busy_timeout=60000&_txlock=immediate"
_SCHEMAS = "https://raw.githubusercontent.com/crynux-network/{}/refs/tags/v3.1.0/schema/{}.json"


@attrs.frozen(kw_only=True)
class Network:
    """A network of nodes.

    Attributes:
        name: What it is called.
        relay_url: Address of its relay.
        note: What a person should know of it.
    """

    name: str
    relay_url: str
    note: str


NETWORKS = {
    "mainnet": Network(
        name="mainnet", relay_url=RELAYS["mainnet"], note="CNX is real money on mainnet (chain 18896214)."
    ),
    "staging": Network(
        name="staging",
        relay_url=RELAYS["staging"],
        note="staging is for trying (Base Sepolia, chain 188962142); its CNX is not worth anything.",
    ),
}


@attrs.frozen(kw_only=True)
class BridgePlan:
    """What a bridge is to be like.

    Attributes:
        address: Its wallet, in the EIP-55 letter case.
        relay_url: Address of the relay.
        image: The container image.
        port: The port on this machine.
        database: "sqlite" is a file in the bridge's folder; "mysql" a container beside it.
        admin_token: Opens the traces; drawn when not given.
        db_password: Of the MySQL container; drawn when not given.
        project: By what docker compose tells its containers from another folder's; drawn when not given.
    """

    address: str
    relay_url: str
    image: str = DEFAULT_IMAGE
    port: int = DEFAULT_PORT
    database: Database = "sqlite"
    admin_token: Secret = attrs.field(factory=lambda: Secret(secrets.token_urlsafe(24)))
    db_password: Secret = attrs.field(factory=lambda: Secret(secrets.token_hex(16)))
    project: str = attrs.field(factory=lambda: f"crynux_bridge_{secrets.token_hex(3)}")


@attrs.frozen(kw_only=True)
class PlannedFile:
    """A file to be written.

    Attributes:
        path: Relative to the bridge's folder.
        content: What is in it; may hold passwords, so it is not shown.
        mode: Its permissions.
    """

    path: str
    content: str = attrs.field(repr=False)
    mode: int


def find_network(asked: str) -> Network:
    """Return the network of a name, or of a relay's address.

    Raises:
        UsageError: It is neither.
    """
    if asked in NETWORKS:
        return NETWORKS[asked]
    parts = urlsplit(asked)
    # A password would stand in config.yml, and in what is printed here.
    if parts.scheme in ("http", "https") and parts.hostname and not parts.query and "@" not in parts.netloc:
        return Network(name="custom", relay_url=asked.rstrip("/"), note=f"The relay is {asked.rstrip('/')}.")
    shown = mask_query(mask_credentials(asked))
    raise UsageError(f"--network is {', '.join(NETWORKS)} or the address of a relay, not {shown!r}", field="network")


def planned_files(plan: BridgePlan) -> tuple[PlannedFile, ...]:
    """Return every file that a bridge needs before its first start, but for the key file, which lives for seconds."""
    return (
        PlannedFile(path=CONFIG_FILE, content=_config(plan), mode=_PRIVATE),
        PlannedFile(path=TASKS_FILE, content=json.dumps({"tasks": []}) + "\n", mode=_PUBLIC),
        PlannedFile(path=COMPOSE_FILE, content=_compose(plan), mode=_PRIVATE),
    )


def proxy_example(port: int) -> str:
    """Return a Caddyfile that lets other machines use jobs, and nothing else of a bridge."""
    return f"""\
# Caddyfile. Everything else on a bridge is open to everybody, and POST /v1/inference_tasks spends the wallet's money.
bridge.example.com {{
	@jobs path_regexp ^/v1/images/models(/[0-9]+/(status|result))?$
	handle @jobs {{
		reverse_proxy {LOOPBACK}:{port}
	}}
	handle {{
		respond 404
	}}
}}
"""


def _config(plan: BridgePlan) -> str:
    # A JSON string is a YAML string, whatever quotes and backslashes are in it.
    text = json.dumps
    return f"""\
# Written by "crynux-async bridge init". The bridge reads it when it starts.
environment: "release"
db:
  driver: {text(plan.database)}
  connection: {text(_connection(plan))}
  log: {{level: "info", output: "data/logs/crynux_bridge_db.log", max_file_size: 100, max_days: 30, max_file_num: 5}}
log: {{level: "info", output: {text(LOG_FILE)}, max_file_size: 100, max_days: 30, max_file_num: 5}}
admin:
  auth_token: {text(plan.admin_token.reveal())} # opens the traces, which say why a job failed
  task_trace_max_tasks: 1000
http:
  host: "{LOOPBACK}" # "bridge up" sets it: {EVERYWHERE} in a container, whose port is published on {LOOPBACK} alone
  port: "{plan.port}"
  max_body_bytes: 2097152
data_dir:
  inference_tasks: "data/inference_tasks"
  inference_tasks_retention_days: 7
  model_images: "data/images/models"
blockchain:
  account:
    address: {text(plan.address)} # in exactly this letter case
    private_key_file: "{KEY_FILE}" # "bridge up" writes it, and the bridge deletes it at every start
relay:
  base_url: {text(plan.relay_url)}
task:
  default_sd_task_fee_cnx: 1.0
  default_sd_xl_task_fee_cnx: 2.0
  default_llm_task_fee_cnx: 5.0
  default_llm_max_completion_tokens: 3000
  default_sd_finetune_task_fee_cnx: 15.0 # for each round; a higher fee is served sooner
  repeat_num: 1
  sd_finetune_timeout: 120 # minutes, for jobs that name none
  default_task_version: "3.1.0"
  heartbeat_tasks: {{batch_size: 0, max_tasks_per_hour: 0, tasks_file: "heartbeat_tasks.json"}}
task_schema:
  stable_diffusion_inference: {text(_schema("stable-diffusion-task", "stable-diffusion-inference-task"))}
  gpt_inference: {text(_schema("gpt-task", "gpt-inference-task"))}
  stable_diffusion_finetune_lora: {text(_schema("stable-diffusion-task", "stable-diffusion-finetune-lora-task"))}
"""


def _compose(plan: BridgePlan) -> str:
    waits = "    depends_on:\n      mysql:\n        condition: service_healthy\n" if plan.database == "mysql" else ""
    return f"""\
# Written by "crynux-async bridge init". Start it with "crynux-async bridge up", which writes the key file first.
# No other folder may have this name: "up" and "down" there would be of these containers.
name: "{plan.project}"
services:
  bridge:
    # Which tags the registry has could not be checked when this was written. "latest" is of 2024 and too old;
    # builds are called main-<short sha of the commit>.
    image: {json.dumps(plan.image)}
    # It deletes its key file when it starts, so a start by itself could only fail.
    restart: "no"
    volumes:
      - "./config:/app/config"
      - "./data:/app/data"
    ports:
      - "{LOOPBACK}:{plan.port}:{plan.port}"
{waits}{_mysql(plan) if plan.database == "mysql" else ""}"""


def _mysql(plan: BridgePlan) -> str:
    return f"""\
  mysql:
    image: "mysql:8.1.0"
    command: "--default-authentication-plugin=mysql_native_password"
    restart: "unless-stopped"
    environment:
      MYSQL_RANDOM_ROOT_PASSWORD: "yes"
      MYSQL_DATABASE: "crynux_bridge"
      MYSQL_USER: "crynux_bridge"
      MYSQL_PASSWORD: "{plan.db_password.reveal()}"
    volumes:
      - "./data/mysql:/var/lib/mysql"
    healthcheck:
      test: "mysqladmin ping -h 127.0.0.1 -u $$MYSQL_USER --password=$$MYSQL_PASSWORD"
      start_period: 5s
      interval: 5s
      timeout: 5s
      retries: 55
"""


def _connection(plan: BridgePlan) -> str:
    if plan.database == "sqlite":
        return _SQLITE
    return f"crynux_bridge:{plan.db_password.reveal()}@(mysql:3306)/crynux_bridge?parseTime=true"


def _schema(repository: str, name: str) -> str:
    return _SCHEMAS.format(repository, name)
