"""What the address of a ledger in PostgreSQL means, and that its password stands in nothing that people see."""

from pathlib import Path

import pytest

from crynux_async.errors import UsageError
from crynux_async.ledgers.postgres.address import read_address

SECRET = "s3cr3t"


def test_address_goes_to_libpq_without_the_options_that_are_ours() -> None:
    address = read_address(f"postgresql://ann:{SECRET}@db.example:6432/app?schema=lora&spill=/var/x&sslmode=require")
    wanted = {"user": "ann", "password": SECRET, "host": "db.example", "port": "6432", "dbname": "app"}
    assert {name: address.parameters[name] for name in wanted} == wanted
    assert address.parameters["sslmode"] == "require"
    assert not {"schema", "spill"} & {*address.parameters}
    assert (address.schema, address.spill) == ("lora", Path("/var/x"))


def test_address_without_options_has_a_schema_of_its_own_and_waits_not_for_ever() -> None:
    address = read_address("postgres://db.example/app")
    assert (address.schema, address.spill) == ("crynux_async", None)
    assert int(address.parameters["connect_timeout"]) == 10
    assert int(address.parameters["tcp_user_timeout"]) == 20_000


def test_address_says_more_than_the_defaults() -> None:
    assert read_address("postgresql://h/d?connect_timeout=3").parameters["connect_timeout"] == "3"


def test_address_of_several_hosts_is_one_place() -> None:
    address = read_address("postgresql://u@a:5432,b:5433,[::1]:5434/d?target_session_attrs=read-write")
    assert address.parameters["host"] == "a,b,::1"
    assert address.name == "postgresql://u@a:5432,b:5433,[::1]:5434/d?schema=crynux_async"


def test_spill_is_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_address("postgresql://h/d?spill=lost.jsonl").spill == tmp_path / "lost.jsonl"


@pytest.mark.parametrize(
    "where",
    [
        f"postgresql://ann:{SECRET}@h:1/d?schema=x",
        f"postgresql://ann:{SECRET}@h/d",
        f"postgresql://h/d?user=ann&password={SECRET}",
        f"postgresql://ann:%2F{SECRET}%40@h/d",
    ],
)
def test_password_is_in_nothing_that_people_see(where: str) -> None:
    address = read_address(where)
    assert SECRET in address.parameters["password"]
    assert SECRET not in repr(address) + address.name


@pytest.mark.parametrize(
    "where",
    [
        f"postgresql://ann:{SECRET}/x@h/d",  # everything behind the slash would be taken for the database
        f"postgresql://ann:{SECRET}#x@h/d",
        f"postgresql://ann:{SECRET}?x@h/d",
        f"postgresql://h:{SECRET}/d",
        f"postgresql://[{SECRET}/d",
        f"postgresql://h/d?{SECRET}=1",
        f"postgresql://h/d?sslmode=no&connect_timeout={SECRET}&nothing=1",
    ],
)
def test_address_that_cannot_be_read_is_refused_without_showing_any_of_it(where: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_address(where)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("schema", ["Jobs", "1a", "a-b", "a" * 41, 'a"b', "a b"])
def test_schema_that_is_no_plain_name_is_refused(schema: str) -> None:
    with pytest.raises(UsageError, match="schema"):
        read_address("postgresql://h/d", schema=schema)
