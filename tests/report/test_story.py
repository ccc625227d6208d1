"""A page's sentences say what is known, and no more."""

from datetime import timedelta

from crynux_async.report import story
from crynux_async.training.effective import EffectiveField
from tests.report.views import START, failed, trial, view


def test_lead_names_what_was_searched_and_when_it_began() -> None:
    assert story.lead(view(trial(1), trial(2))) == (
        "2 trials of rank × lr_scheduler on stable-diffusion-v1-5. Started 2026-11-28 09:01 UTC, "
        "written 2026-11-28 11:00 UTC."
    )


def test_sweep_of_which_nothing_is_sent_says_so() -> None:
    assert "Nothing has been sent yet" in story.lead(view(trial(1, state="waiting", sent_at=None)))


def test_tiles_tell_how_far_it_is_and_what_it_costs() -> None:
    running = trial(3, state="running", cost_cnx=None, held_cnx=15.0)
    figures = {tile.meaning: tile.figure for tile in story.tiles(view(trial(1), failed(2), running, budget_cnx=60))}
    assert figures["models on disk"] == "1 of 3"
    assert figures["training now"] == "1"
    assert figures["spent, 15 CNX held, budget 60 CNX"] == "15 CNX"


def test_waiting_trials_say_when_the_last_is_sent() -> None:
    waiting = trial(1, state="waiting")
    meanings = [tile.meaning for tile in story.tiles(view(waiting, last_sent_at=START + timedelta(hours=3)))]
    assert "waiting to be sent, the last is sent about 2026-11-28 12:00 UTC" in meanings


def test_best_trial_is_a_figure_with_its_name() -> None:
    ranked = view(trial(1, objective=0.51), trial(2, objective=0.0312345), objective_name="loss", minimize=True)
    figures = {tile.meaning: tile.figure for tile in story.tiles(ranked)}
    assert figures["best loss: trial 2"] == "0.03123"


def test_job_says_what_is_known_and_leaves_out_the_rest() -> None:
    changed = EffectiveField(
        field="lr_warmup_steps", asked=0, sent=1, used=1, is_ignored=False, reason="the bridge takes no 0"
    )
    facts = dict(story.job_facts(failed(3, changed=[changed], archive="", noticed_at=None)))
    assert facts["what went wrong"] == "the network gave up after four attempts"
    assert facts["lr_warmup_steps, not as it was asked"] == "asked 0, sent 1, used 1: the bridge takes no 0"
    assert facts["sent"] == "2026-11-28 09:03:00 UTC"
    assert not {"archive", "end noticed", "model stored", "health"} & set(facts)


def test_failures_with_something_in_common_name_it() -> None:
    bad = {"rank": 64, "lr_scheduler": "cosine"}
    [note] = story.notes(view(trial(1), trial(2), failed(3, params=bad), failed(4, params=bad), command="retry"))
    assert note.startswith("2 trials failed: the network gave up after four attempts.")
    assert "All of them have rank 64, which no successful one has." in note
    assert note.endswith("retry tries failed ones again.")


def test_failures_that_share_their_values_with_good_ones_say_so() -> None:
    [note] = story.notes(view(trial(1), trial(2), failed(3, params=trial(1).params), failed(4, params=trial(2).params)))
    assert "No single value sets them apart from the successful ones." in note


def test_failure_without_a_reason_is_told_as_such() -> None:
    [note] = story.notes(view(trial(1), failed(2, error="")))
    assert note == "1 trial failed: the service gives no reason."


def test_trouble_comes_in_the_order_of_its_weight() -> None:
    notes = story.notes(
        view(
            trial(1, verdict="untrained"),
            trial(2, verdict="diverged", params={"learning_rate": 1e-2}),
            trial(3, state="unconfirmed"),
            failed(4),
        )
    )
    assert notes[0].startswith("1 trial failed:")
    assert "may exist and be paid for" in notes[1]
    assert "diverged, at learning rates from 0.01 to 0.01" in notes[2]
    assert "untrained" in notes[3]


def test_used_up_budget_says_what_will_not_be_sent() -> None:
    [note] = story.notes(view(trial(1), trial(2, state="waiting", cost_cnx=None), budget_cnx=15))
    assert note == "The budget of 15 CNX is used up; 1 trial will not be sent."


def test_best_trial_is_the_smallest_or_the_largest() -> None:
    one, two = trial(1, objective=1.0), trial(2, objective=2.0)
    assert story.best(view(one, two, trial(3))) is two
    assert story.best(view(one, two, minimize=True)) is one
    assert story.best(view(trial(3))) is None
