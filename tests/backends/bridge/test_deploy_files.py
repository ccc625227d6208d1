"""The files of a new bridge: every name that the real program reads, nothing it does not, and nothing in the open."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crynux_async.backends.bridge.deploy_config import CONFIG_NAMES, read_config, with_host
from crynux_async.backends.bridge.deploy_files import (
    DEFAULT_IMAGE,
    NETWORKS,
    BridgePlan,
    find_network,
    planned_files,
    proxy_example,
)
from crynux_async.errors import SettingsError, UsageError
from tests.signing.vectors import KEY

ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
# The names of the bridge's own template, config/config.example.yml.
TEMPLATE_NAMES = set((Path(__file__).parents[2] / "data/bridge/config_names.txt").read_text().split())


def plan(**changes: Any) -> BridgePlan:
    return BridgePlan(**{"address": ADDRESS, "relay_url": "https://relay.crynux.io", **changes})


def content(which: str, **changes: Any) -> str:
    return next(file.content for file in planned_files(plan(**changes)) if file.path.endswith(which))


def names(value: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(value, dict):
        yield prefix
        return
    for name, inner in value.items():
        yield from names(inner, f"{prefix}.{name}" if prefix else name)


@pytest.mark.parametrize("database", ["sqlite", "mysql"])
def test_config_has_the_names_that_the_bridge_reads_and_no_others(database: str) -> None:
    written = set(names(yaml.safe_load(content("config.yml", database=database))))
    assert written <= TEMPLATE_NAMES
    # What is left out is off by default, and is about LLM requests.
    assert {name for name in TEMPLATE_NAMES - written if not name.startswith(("log.features.", "openrouter."))} == set()


def test_names_that_doctor_knows_are_those_of_the_template() -> None:
    assert set(CONFIG_NAMES) == TEMPLATE_NAMES


def test_config_says_what_was_planned() -> None:
    config = yaml.safe_load(content("config.yml", port=6001, relay_url="http://127.0.0.1:9"))
    assert config["blockchain"]["account"]["address"] == ADDRESS
    assert config["relay"]["base_url"] == "http://127.0.0.1:9"
    assert config["http"] == {"host": "127.0.0.1", "port": "6001", "max_body_bytes": 2097152}
    assert config["environment"] == "release"
    assert config["task"]["default_sd_finetune_task_fee_cnx"] == 15.0
    assert not config["blockchain"]["account"]["private_key_file"].startswith("/")


def test_heartbeat_tasks_are_the_file_without_which_no_bridge_starts() -> None:
    assert json.loads(content("heartbeat_tasks.json")) == {"tasks": []}


def test_files_are_the_needed_ones_and_secrets_are_private() -> None:
    modes = {file.path: file.mode for file in planned_files(plan())}
    assert modes == {
        "config/config.yml": 0o600,
        "config/heartbeat_tasks.json": 0o644,
        "docker-compose.yml": 0o600,
    }


def test_passwords_are_drawn_anew_and_not_shown() -> None:
    one, other = plan(database="mysql"), plan(database="mysql")
    assert one.admin_token != other.admin_token
    assert one.db_password != other.db_password
    assert len(one.admin_token.reveal()) >= 32
    assert one.admin_token.reveal() not in f"{one!r} {planned_files(one)!r}"


def test_compose_file_publishes_on_this_machine_alone() -> None:
    compose = yaml.safe_load(content("docker-compose.yml", port=6001))
    assert compose["services"]["bridge"]["ports"] == ["127.0.0.1:6001:6001"]
    assert list(compose["services"]) == ["bridge"]
    assert compose["services"]["bridge"]["volumes"] == ["./config:/app/config", "./data:/app/data"]
    assert "secrets" not in compose  # a docker secret is read-only, and the bridge must delete its key file
    assert compose["services"]["bridge"]["image"] == DEFAULT_IMAGE


def test_mysql_beside_the_bridge_has_the_password_of_the_config() -> None:
    made = plan(database="mysql")
    files = {file.path: file.content for file in planned_files(made)}
    compose, config = yaml.safe_load(files["docker-compose.yml"]), yaml.safe_load(files["config/config.yml"])
    environment = compose["services"]["mysql"]["environment"]
    user, password, name = (environment[key] for key in ("MYSQL_USER", "MYSQL_PASSWORD", "MYSQL_DATABASE"))
    assert config["db"]["driver"] == "mysql"
    assert config["db"]["connection"] == f"{user}:{password}@(mysql:3306)/{name}?parseTime=true"
    assert password == made.db_password.reveal()
    assert "ports" not in compose["services"]["mysql"]
    assert compose["services"]["bridge"]["depends_on"] == {"mysql": {"condition": "service_healthy"}}


def test_containers_of_two_bridges_are_told_apart() -> None:
    first, second = (yaml.safe_load(content("docker-compose.yml"))["name"] for _ in range(2))
    assert first != second
    # What docker compose takes for the name of a project.
    assert re.fullmatch("[a-z0-9][a-z0-9_-]*", first)


def test_image_says_that_its_tag_was_not_checked() -> None:
    text = content("docker-compose.yml", image="registry.example/bridge:1")
    assert "could not be checked" in text
    assert yaml.safe_load(text)["services"]["bridge"]["image"] == "registry.example/bridge:1"


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_found_by_its_name(name: str) -> None:
    assert find_network(name).relay_url == NETWORKS[name].relay_url


def test_relay_of_each_network_is_that_of_the_documentation() -> None:
    assert {name: network.relay_url for name, network in NETWORKS.items()} == {
        "mainnet": "https://relay.crynux.io",
        "staging": "https://staging.relay.crynux.io",
    }
    assert "real money" in NETWORKS["mainnet"].note


def test_network_may_be_the_address_of_a_relay() -> None:
    assert find_network("http://127.0.0.1:8081/").relay_url == "http://127.0.0.1:8081"


@pytest.mark.parametrize("asked", ["main", "", "ftp://relay", "relay.crynux.io", "https://user:pw@relay", "http://a?b"])
def test_network_of_another_kind_is_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="--network is mainnet, staging or the address of a relay"):
        find_network(asked)


@pytest.mark.parametrize("asked", ["https://user:hunter2@relay", "https://relay/?token=hunter2"])
def test_secret_in_the_address_of_a_relay_is_not_repeated(asked: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_network(asked)
    assert "hunter2" not in str(caught.value)


def test_written_config_is_read_back() -> None:
    made = plan()
    config = read_config(next(file.content for file in planned_files(made) if file.path.endswith("config.yml")))
    assert (config.address, config.relay_url, config.host, config.port) == (ADDRESS, made.relay_url, "127.0.0.1", 5028)
    assert (config.admin_token, config.fee_cnx, config.unknown) == (made.admin_token, 15.0, ())
    assert config.base_url == "http://127.0.0.1:5028"
    assert made.admin_token.reveal() not in repr(config)


def test_rounds_are_what_the_balance_pays_for() -> None:
    config = read_config(content("config.yml"))
    assert config.rounds(1000 * 10**18) == 66
    assert config.rounds(15 * 10**18 - 1) == 0
    assert config.rounds(15 * 10**18) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_host_is_changed_and_nothing_else(host: str) -> None:
    before = content("config.yml")
    after = with_host(before, host)
    assert yaml.safe_load(after)["http"]["host"] == host
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) <= 1
    assert after.count("\n") == before.count("\n")


def test_host_of_another_section_is_left_alone() -> None:
    text = 'db:\n  host: "a"\nhttp:\n  port: "1"\n  host: "b"\nlog:\n  host: "c"\n'
    assert with_host(text, "x") == 'db:\n  host: "a"\nhttp:\n  port: "1"\n  host: "x"\nlog:\n  host: "c"\n'


def test_config_without_a_host_cannot_be_changed() -> None:
    with pytest.raises(SettingsError, match=r"http\.host: is missing"):
        with_host("http:\n  port: 1\nlog:\n  host: c\n", "x")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "blockchain.account.address"),
        ("just text", "blockchain.account.address"),
        (content("config.yml").replace('port: "5028"', 'port: "http"'), "http.port"),
        (content("config.yml").replace('port: "5028"', 'port: "70000"'), "http.port"),
        (
            content("config.yml").replace("_task_fee_cnx: 15.0", "_task_fee_cnx: -1"),
            "task.default_sd_finetune_task_fee_cnx",
        ),
        (content("config.yml").replace("  max_body_bytes: 2097152\n", ""), "http.max_body_bytes"),
        ("a: [", "config/config.yml"),
    ],
)
def test_config_that_cannot_work_names_the_field(text: str, field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_config(text)
    assert field in {problem.field for problem in caught.value.problems}


@pytest.mark.parametrize("old", [f'"{ADDRESS}"', '"config/priv_key.txt"'])
@pytest.mark.parametrize("key", [f'"{KEY}"', f'"0x{KEY}"', f"0x{KEY}", "1" * 64])
def test_key_in_the_config_is_not_repeated(old: str, key: str) -> None:
    text = content("config.yml")
    assert old in text
    with pytest.raises(SettingsError) as caught:
        read_config(text.replace(old, key))
    (problem,) = caught.value.problems
    assert problem.field.startswith("blockchain.account.")
    assert not {KEY, str(int(KEY, 16)), "1" * 64} & set(re.findall("[0-9a-f]+", str(caught.value)))


def test_address_without_quotes_is_told_from_one_that_is_none() -> None:
    with pytest.raises(SettingsError, match="must stand in quotes"):
        read_config(content("config.yml").replace(f'"{ADDRESS}"', ADDRESS))


def test_name_that_the_bridge_ignores_is_told() -> None:
    config = read_config(content("config.yml").replace("  auth_token:", "  token: 1\n  auth_token:"))
    assert config.unknown == ("admin.token",)


def test_proxy_lets_jobs_through_and_nothing_else() -> None:
    import re

    text = proxy_example(6001)
    pattern = re.search(r"path_regexp (\S+)", text)
    assert pattern is not None
    allowed = re.compile(pattern[1])
    for path in ("/v1/images/models", "/v1/images/models/17/status", "/v1/images/models/17/result"):
        assert allowed.search(path)
    for path in ("/v1/inference_tasks", "/v1/api_key", "/v1/images/models/1/status/x", "/v1/admin/tasks", "/v1/images",
                 "/v1/images/models/a/status", "/x/v1/images/models"):  # fmt: skip
        assert not allowed.search(path)
    assert "127.0.0.1:6001" in text
    assert "respond 404" in text
