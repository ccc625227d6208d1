"""What doctor thinks of what was found: a sentence and a cure for each trouble, and peace where there is none."""

from typing import Any

import attrs
import pytest

from crynux_async.backends.bridge import deploy_checks as checks
from crynux_async.backends.bridge.deploy_checks import FileFacts, Finding, RelayFacts, Verdict
from crynux_async.backends.bridge.deploy_config import BridgeConfig, read_config
from crynux_async.backends.bridge.deploy_files import BridgePlan, planned_files

ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
OTHER = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
CNX = 10**18
GOOD, NOTE, PROBLEM = Verdict.GOOD, Verdict.NOTE, Verdict.PROBLEM
FILES = {
    "config": FileFacts(mode=0o700, is_writable=True),
    "config/config.yml": FileFacts(mode=0o600, is_writable=True, text=""),
    "config/heartbeat_tasks.json": FileFacts(mode=0o644, is_writable=True, text='{"tasks": []}'),
    "docker-compose.yml": FileFacts(mode=0o600, is_writable=True, text=""),
}


def config(**changes: Any) -> BridgeConfig:
    made = planned_files(BridgePlan(address=ADDRESS, relay_url="http://127.0.0.1:9"))[0].content
    return attrs.evolve(read_config(made), **changes)


def without(*names: str) -> dict[str, FileFacts]:
    return {name: facts for name, facts in FILES.items() if name not in names}


def seen(*findings: Finding) -> list[tuple[str, Verdict]]:
    assert all(bool(finding.cure) == (finding.verdict is not GOOD) for finding in findings)
    assert all(finding.sentence.endswith(".") for finding in findings)
    return [(finding.what, finding.verdict) for finding in findings]


@pytest.mark.parametrize("text", ["", '{"tasks": ', "[]", "[" * 100_000])
def test_heartbeat_tasks_that_no_bridge_can_read_are_a_problem(text: str) -> None:
    tasks = FileFacts(mode=0o644, is_writable=True, text=text)
    finding = next(iter(checks.check_files(FILES | {"config/heartbeat_tasks.json": tasks})))
    assert seen(finding) == [("files", PROBLEM)]
    assert finding.cure == 'Replace its content by {"tasks": []}.'


@pytest.mark.parametrize("name", ["config/config.yml", "config/heartbeat_tasks.json"])
def test_missing_file_is_a_problem(name: str) -> None:
    (finding,) = checks.check_files(without(name))
    assert seen(finding) == [("files", PROBLEM)]
    assert name in finding.sentence


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("config/config.yml", {"mode": 0o644}, "chmod 600 FOLDER/config/config.yml"),
        ("config", {"is_writable": False}, "read-only mount or a docker secret"),
    ],
)
def test_file_of_wrong_mode_or_on_a_read_only_mount_is_a_problem(name: str, changes: Any, words: str) -> None:
    found = list(checks.check_files({**FILES, name: attrs.evolve(FILES[name], **changes)}))
    assert seen(*found) == [("files", PROBLEM), ("files", GOOD)]
    assert words in found[0].cure


def test_keys_that_others_can_read_are_a_problem() -> None:
    keys = FileFacts(mode=0o640, is_writable=True)
    assert seen(*checks.check_files(FILES | {"keys.json": attrs.evolve(keys, mode=0o600)})) == [("files", GOOD)]
    found = list(checks.check_files(FILES | {"keys.json": keys}))
    assert seen(*found) == [("files", PROBLEM), ("files", GOOD)]
    assert found[0].cure == "chmod 600 FOLDER/keys.json"


def test_files_that_are_there_are_good() -> None:
    assert seen(*checks.check_files(FILES)) == [("files", GOOD)]


def test_unknown_name_is_a_note() -> None:
    assert list(checks.check_names(config())) == []
    (finding,) = checks.check_names(config(unknown=("http.prot",)))
    assert seen(finding) == [("names", NOTE)]
    assert "http.prot" in finding.sentence


@pytest.mark.parametrize(
    ("said", "wallet", "verdict", "words"),
    [
        (ADDRESS, ADDRESS, GOOD, ADDRESS),
        (ADDRESS, None, NOTE, "CRYNUX_WALLET"),
        (ADDRESS.lower(), ADDRESS, PROBLEM, f'address: "{ADDRESS}"'),
        (ADDRESS.lower(), None, PROBLEM, f'address: "{ADDRESS}"'),
        ("0X" + ADDRESS[2:], ADDRESS, PROBLEM, f'address: "{ADDRESS}"'),
        (OTHER, ADDRESS, PROBLEM, "CRYNUX_WALLET to the other wallet"),
        ("0x1234", ADDRESS, PROBLEM, f'address: "{ADDRESS}"'),
        ("me", None, PROBLEM, "EIP-55"),
    ],
)
def test_address_must_be_the_wallets_to_the_letter(said: str, wallet: str | None, verdict: Verdict, words: str) -> None:
    finding = checks.check_address(config(address=said), wallet)
    assert seen(finding) == [("address", verdict)]
    assert words in f"{finding.sentence} {finding.cure}"


@pytest.mark.parametrize("is_running", [False, True])
def test_key_file_that_lies_about_is_a_problem(is_running: bool) -> None:
    assert list(checks.check_key_file(FILES, is_running=is_running)) == []
    files = {**FILES, "config/priv_key.txt": FileFacts(mode=0o600, is_writable=True)}
    (finding,) = checks.check_key_file(files, is_running=is_running)
    assert seen(finding) == [("key file", PROBLEM)]
    assert "rm FOLDER/config/priv_key.txt" in finding.cure


def test_relay_that_is_away_is_the_only_thing_said_of_it() -> None:
    (finding,) = checks.check_relay(config(), RelayFacts(error="connection refused"))
    assert seen(finding) == [("relay", PROBLEM)]
    assert "connection refused" in finding.sentence


@pytest.mark.parametrize("relay", [RelayFacts(error="away"), RelayFacts(skew=0)])
def test_password_in_the_address_of_the_relay_is_not_shown(relay: RelayFacts) -> None:
    wrong = attrs.evolve(config(), relay_url="https://user:hunter2@relay")
    assert "hunter2" not in "".join(finding.sentence for finding in checks.check_relay(wrong, relay))


@pytest.mark.parametrize(
    ("skew", "verdict"), [(0, GOOD), (30, GOOD), (-30, GOOD), (31, NOTE), (-60, NOTE), (61, PROBLEM), (-3600, PROBLEM)]
)
def test_clock_is_judged_by_what_relay_and_bridge_accept(skew: int, verdict: Verdict) -> None:
    found = list(checks.check_relay(config(), RelayFacts(skew=skew, wei=501 * CNX)))
    assert seen(*found) == [("relay", GOOD), ("clock", verdict), ("balance", GOOD)]
    if verdict is not GOOD:
        assert f"{abs(skew)} s {'behind' if skew > 0 else 'ahead of'} the relay's" in found[1].sentence


@pytest.mark.parametrize(
    ("wei", "verdict", "words"),
    [
        (500 * CNX, PROBLEM, "500.00 CNX"),  # exactly 500 is not enough
        (0, PROBLEM, "0.00 CNX"),
        (500 * CNX + 1, GOOD, "33 rounds at 15 CNX"),
        (1234 * CNX, GOOD, "82 rounds"),
    ],
)
def test_balance_is_judged_as_the_bridge_does_it(wei: int, verdict: Verdict, words: str) -> None:
    finding = checks.check_balance(config(), wei)
    assert seen(finding) == [("balance", verdict)]
    assert words in finding.sentence


def test_balance_that_is_not_told_is_a_note() -> None:
    found = list(checks.check_relay(config(), RelayFacts(skew=0)))
    assert seen(*found)[-1] == ("balance", NOTE)


@pytest.mark.parametrize(
    ("is_taken", "is_running", "verdict"), [(False, False, GOOD), (True, True, GOOD), (True, False, PROBLEM)]
)
def test_port_of_another_program_is_a_problem(is_taken: bool, is_running: bool, verdict: Verdict) -> None:
    assert seen(checks.check_port(config(), is_taken=is_taken, is_running=is_running)) == [("port", verdict)]


@pytest.mark.parametrize(("error", "verdict"), [("", GOOD), (None, GOOD), ("mysql:3306: refused", PROBLEM)])
def test_database_that_is_away_is_a_problem(error: str | None, verdict: Verdict) -> None:
    assert seen(checks.check_database(config(), error)) == [("database", verdict)]


@pytest.mark.parametrize(("error", "verdict"), [("", GOOD), (None, GOOD), ("docker is not there", PROBLEM)])
def test_docker_that_is_needed_and_away_is_a_problem(error: str | None, verdict: Verdict) -> None:
    assert seen(checks.check_docker(error, FILES)) == [("docker", verdict)]


def test_docker_without_a_compose_file_is_a_problem() -> None:
    assert seen(checks.check_docker("", without("docker-compose.yml"))) == [("docker", PROBLEM)]


@pytest.mark.parametrize(
    ("host", "published", "in_container", "verdict"),
    [
        ("127.0.0.1", [], False, GOOD),
        ("::1", [], False, GOOD),
        ("localhost", [], False, GOOD),
        ("0.0.0.0", [], False, PROBLEM),
        ("", [], False, PROBLEM),
        ("192.168.1.5", [], False, PROBLEM),
        ("0.0.0.0", ["127.0.0.1:5028:5028"], True, GOOD),
        ("0.0.0.0", ["[::1]:5028:5028"], True, GOOD),
        ("0.0.0.0", ["5028:5028"], True, PROBLEM),  # the template's own entry
        ("0.0.0.0", ["0.0.0.0:5028:5028"], True, PROBLEM),
        ("0.0.0.0", ["127.0.0.1:5028:5028", "3306:3306"], True, PROBLEM),
    ],
)
def test_bridge_that_others_can_reach_is_a_problem(
    host: str, published: list[str], in_container: bool, verdict: Verdict
) -> None:
    finding = checks.check_exposure(config(host=host), published, in_container=in_container)
    assert seen(finding) == [("exposure", verdict)]
    assert (verdict is GOOD) or "spends the wallet's money" in finding.sentence


def test_keys_that_expire_are_told_with_the_command_that_helps() -> None:
    assert list(checks.check_keys([])) == []
    soon, over = checks.check_keys([("qI_ZWTFc", 5), ("abcdefgh", -1)])
    assert seen(soon, over) == [("keys", NOTE), ("keys", PROBLEM)]
    assert "expires in 5 days" in soon.sentence
    assert "bridge keys rotate FOLDER abcdefgh" in over.cure


def test_key_that_was_replaced_is_not_to_be_rotated() -> None:
    (kept,) = checks.check_keys([("qI_ZWTFc", 5)], {"qI_ZWTFc"})
    assert "rotate" not in kept.cure
    assert "bridge keys retire FOLDER" in kept.cure


@pytest.mark.parametrize(("days", "said"), [(0, "in less than a day;"), (1, "in 1 day;"), (2, "in 2 days;")])
def test_days_of_a_key_are_counted_as_people_do(days: int, said: str) -> None:
    (finding,) = checks.check_keys([("qI_ZWTFc", days)])
    assert f"expires {said}" in finding.sentence
