"""Usage that its emitter had to estimate: charged, held until somebody decides, or ignored, and never nothing in silence."""

from decimal import Decimal

import pytest
from otel_credits_aggregator.replay import Selection, Treatment, quarantined_ids, replay_batch, run_replay
from support.chain import Chain
from support.otlp_build import AMOUNT, ESTIMATED, KEY, USAGE_UNKNOWN, USER, metric, metrics, point, traces, usage_span

GUESS = {ESTIMATED: True, AMOUNT: "2.5"}


def replay(chain: Chain, estimated: str) -> None:
    """Replays all that waits, by a policy."""
    batch = replay_batch(
        quarantined_ids(chain.client, chain.spool.receiver, Selection()), Treatment(estimated=estimated)
    )
    chain.spool.compose(batch)
    run_replay(chain.client, batch)
    chain.spool.forget(batch)


def test_an_estimate_is_charged_and_says_so(chain: Chain) -> None:
    """By default, and where an envelope says nothing, an estimate is charged, and its event shows that it is one."""
    chain.send(traces(usage_span(GUESS)))
    chain.send(traces(usage_span(GUESS)), estimated="")
    assert [(event["credits_charged"], event["metadata"]) for event in chain.events()] == [
        (Decimal("2.5"), {"estimated": "true"})
    ] * 2
    chain.assert_sums_agree()


def test_an_estimate_waits_where_that_is_the_policy(chain: Chain) -> None:
    """With quarantine, spans and points that are estimates wait as `estimated`; what is none is charged."""
    marked = [usage_span(GUESS), usage_span({ESTIMATED: "true"})]
    others = [usage_span(), usage_span({ESTIMATED: False}), usage_span({ESTIMATED: "perhaps"})]
    chain.send(traces(*marked, *others), estimated="quarantine")
    counter = metric(point(3, {"credits.action_type": "storage", USER: "ada", ESTIMATED: True}))
    chain.send(metrics(counter), estimated="quarantine")
    assert chain.reasons() == ["estimated"] * 3
    assert chain.outcomes() == {"charged": 3, "quarantined": 3}
    chain.assert_sums_agree()


def test_an_ignored_estimate_is_counted_as_not_usage(chain: Chain) -> None:
    """With ignore, an estimate is neither charged nor kept, and the accounting says that it came."""
    chain.send(traces(usage_span(GUESS), usage_span({**GUESS, USER: None}), usage_span()), estimated="ignore")
    assert chain.outcomes() == {"charged": 1, "not_usage": 2}
    assert chain.reasons() == []
    chain.assert_sums_agree()


def test_what_is_wrong_with_an_estimate_is_said_first(chain: Chain) -> None:
    """An estimate that could not be charged anyhow waits for that reason, so that the decision about it is not wasted."""
    chain.send(
        traces(*(usage_span({**GUESS, **odd}) for odd in ({USER: None}, {AMOUNT: "-1"}, {USAGE_UNKNOWN: True}))),
        estimated="quarantine",
    )
    assert chain.reasons() == ["negative_number", "no_user", "usage_unknown"]


@pytest.mark.parametrize("again", [{}, {KEY: "one"}], ids=["span", "key"])
def test_a_held_estimate_is_charged_once_when_the_policy_changes(chain: Chain, again: dict[str, str]) -> None:
    """A replay by the old policy changes nothing; by the new one it charges once, also what was delivered twice."""
    held = usage_span({**GUESS, **again})
    chain.send(traces(held), estimated="quarantine")
    chain.send(traces(held), estimated="quarantine")
    replay(chain, "quarantine")
    assert (chain.reasons(), chain.charges()) == (["estimated"] * 2, [])
    replay(chain, "charge")
    chain.send(traces(held), estimated="charge")
    chain.send(traces(held), estimated="quarantine")
    assert chain.charges() == [Decimal("2.5")]
    assert chain.outcomes() == {"charged": 1, "duplicate": 3}
    chain.assert_sums_agree()


def test_the_last_word_wins_over_an_estimate_that_waits(chain: Chain) -> None:
    """If the same usage arrives with what the provider said, that is charged, and the estimate is a copy of it."""
    chain.send(traces(usage_span({**GUESS, KEY: "answer-1"})), estimated="quarantine")
    chain.send(traces(usage_span({AMOUNT: "4", KEY: "answer-1"})), estimated="quarantine")
    assert chain.charges() == [Decimal(4)]
    replay(chain, "charge")
    assert chain.charges() == [Decimal(4)]
    assert chain.reasons() == ["idempotency_conflict"]
    chain.assert_sums_agree()
