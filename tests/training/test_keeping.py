"""What is kept of a config gives the config again, in every field, and what many have in common is there once."""

import json
import sys
import threading
from typing import Any

import attrs
import pytest
from hypothesis import given

from crynux_async import ConfigError, Session
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.training import keeping
from crynux_async.training.config import FineTuneConfig, slot_names
from crynux_async.training.keeping import KeptConfigs, as_kept, but_for, config_of, field_of, is_kept, kept
from tests.fake_backend import FakeBackend, make_config
from tests.strategies import configs

BASE = FineTuneConfig(model_name="keeping/model", dataset_name="d", max_train_steps=100, seed=1)


@given(configs(), configs())
def test_config_is_the_same_again(one: FineTuneConfig, other: FineTuneConfig) -> None:
    for config in (one, other, one.evolve(seed=7)):
        again = config_of(kept(config))
        assert again == config
        assert json.dumps(again.to_dict()) == json.dumps(config.to_dict())
        assert again.seed_was_drawn == config.seed_was_drawn
        assert hash(again) == hash(config)


@pytest.mark.parametrize("value", [1, 1.0, True])
def test_values_that_are_equal_stay_what_they_are(value: float) -> None:
    kept(BASE.evolve(noise_offset=1, max_grad_norm=1.0))
    config = attrs.evolve(BASE, noise_offset=value) if value is not True else BASE.evolve(center_crop=True)
    again = config_of(kept(config))
    assert json.dumps(again.to_dict()) == json.dumps(config.to_dict())


def test_zero_keeps_its_sign() -> None:
    kept(BASE.evolve(noise_offset=0.0))
    config = attrs.evolve(BASE, noise_offset=-0.0)
    assert str(config_of(kept(config)).noise_offset) == str(config.noise_offset)


def test_drawn_seed_stays_drawn() -> None:
    drawn = FineTuneConfig(model_name="keeping/model", dataset_name="d", max_train_steps=100)
    assert config_of(kept(drawn)).seed_was_drawn
    assert not config_of(kept(drawn.evolve(seed=3))).seed_was_drawn


@given(configs(), configs())
def test_field_of_what_is_kept_is_the_config_s_own(one: FineTuneConfig, other: FineTuneConfig) -> None:
    for config in (one, other):
        assert {name: field_of(kept(config), name) for name in slot_names()} == {
            name: getattr(config, name) for name in slot_names()
        }


def test_configs_that_differ_in_one_field_alone_are_alike_but_for_that() -> None:
    base = BASE.evolve(model_name="keeping/alike")
    seeds = [kept(base.evolve(seed=seed)) for seed in (1, 2, 3)]
    assert len({but_for(one, "seed") for one in seeds}) == 1
    assert len({but_for(one, "rank") for one in seeds}) == 3
    assert but_for(kept(base.evolve(seed=2, rank=9)), "seed") not in {but_for(one, "seed") for one in seeds}


def test_what_is_kept_is_told_from_everything_else() -> None:
    assert is_kept(kept(BASE))
    for other in (BASE, (), (1, 2), None, BASE.to_dict()):
        assert not is_kept(other)


def test_what_is_kept_of_it_is_one_object_wherever_it_is_kept() -> None:
    config = BASE.evolve(seed=5)
    assert kept(config) is kept(config)
    assert kept(config_of(kept(config))) is kept(config)
    assert as_kept(kept(config)) is kept(config)
    assert as_kept(None) is None


def test_copy_with_other_values_is_kept_for_itself() -> None:
    config = config_of(kept(BASE.evolve(seed=6)))
    assert config_of(kept(config.evolve(rank=16))).rank == 16
    assert config_of(kept(config)).rank == BASE.rank


def test_configs_of_a_sweep_keep_what_they_do_not_have_in_common() -> None:
    base = BASE.evolve(model_name="keeping/another")
    kept(base)
    for seed in range(10, 20):
        one = kept(base.evolve(seed=seed, rank=seed))
        assert one[1:] == (seed, seed)
        assert sys.getsizeof(one) < sys.getsizeof(BASE) / 3


def test_configs_of_a_generator_are_there_again_each_time() -> None:
    given = [BASE.evolve(seed=seed) for seed in range(3, 9)]
    chosen = KeptConfigs(iter(given))
    assert len(chosen) == len(given)
    assert [*chosen] == [*chosen] == given
    assert chosen[-1] == given[-1]
    assert chosen[1:3] == given[1:3]


def test_config_is_kept_as_itself_when_another_thread_keeps_one_at_the_same_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = BASE.evolve(model_name="keeping/at-once")
    # In so many fields another one that it becomes a pattern, too.
    unlike = FineTuneConfig(
        model_name="keeping/at-once",
        model_revision="other",
        dataset_url="https://example.com/x.zip",
        max_train_steps=7,
        seed=2,
        rank=32,
        resolution=256,
        batch_size=2,
        learning_rate=0.5,
        lr_scheduler="linear",
        noise_offset=0.5,
        center_crop=True,
        random_flip=False,
        max_grad_norm=2.0,
        adam_beta1=0.5,
        timeout=60,
    )
    others = [unlike]

    class Patterns(list[Any]):
        """The patterns of a model, to which another thread adds one as soon as one was added."""

        def __setitem__(self, place: Any, value: Any) -> None:
            super().__setitem__(place, value)
            while others:
                thread = threading.Thread(target=kept, args=(others.pop(),))
                thread.start()
                thread.join()

    patterns = Patterns()
    monkeypatch.setattr(keeping, "_patterns", lambda _: patterns)
    assert config_of(kept(config)) == config
    assert config_of(kept(unlike)) == unlike


@attrs.frozen(kw_only=True)
class Wide(FineTuneConfig):
    """A class with another default."""

    rank: int = 16


@attrs.frozen(kw_only=True)
class Noted(FineTuneConfig):
    """A class with a field of its own."""

    note: str = ""


async def test_config_of_a_class_with_other_defaults_is_kept_by_its_values() -> None:
    config = Wide(**{name: value for name, value in make_config().to_dict().items() if name != "rank"})
    async with Session(backend=FakeBackend(), api_key="k" * 44, rate_limit=6000) as session:
        for job in (await session.submit(config), *await session.submit_many([config])):
            assert type(job.config) is FineTuneConfig
            assert job.config == FineTuneConfig(**config.to_dict())
            assert job.config.rank == 16


@pytest.mark.parametrize("as_generator", [False, True])
async def test_config_whose_own_field_would_be_lost_is_refused_before_anything_is_sent(*, as_generator: bool) -> None:
    config = Noted(**make_config().to_dict(), note="mine")
    backend, ledger = FakeBackend(), MemoryLedger()
    async with Session(backend=backend, ledger=ledger, api_key="k" * 44) as session:
        with pytest.raises(ConfigError, match="is a field of Noted alone"):
            await session.submit(config)
        configs = [make_config(), config]
        with pytest.raises(ConfigError, match="is a field of Noted alone"):
            await session.submit_many((each for each in configs) if as_generator else configs)
        assert session.jobs() == []
    assert (backend.creates, await ledger.jobs()) == (0, [])
