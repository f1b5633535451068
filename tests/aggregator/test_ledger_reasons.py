"""Every reason for which a usage is quarantined comes with words on what to do."""

import re

from otel_credits_aggregator.batch_insert import _RAW_REASON
from otel_credits_aggregator.ledger.reasons import HINTS, hint
from otel_credits_aggregator.migrations import clickhouse_folder

_CHAIN = [clickhouse_folder() / "migrations" / name for name in ("0004_usage_chain.sql", "0011_llm_calls.sql")]
# The branches of an expression that ends with AS reason, defect or verdict: a condition, a comma, and the reason.
_EXPRESSION = re.compile(r"(?:multiIf|if)\((?:(?!;|multiIf\()[\s\S])*?\) AS (?:reason|defect|verdict)\b")
_REASON = re.compile(r",\s*'([a-z]+(?:_[a-z]+)+|unpriced|estimated)'(?=\s*[,)])")
_NOT_REASONS = {"not_usage"}


def _reasons_of_the_chain() -> set[str]:
    expressions = [one for path in _CHAIN for one in _EXPRESSION.findall(path.read_text("utf-8"))]
    found = {reason for expression in expressions for reason in _REASON.findall(expression)}
    return found - _NOT_REASONS


def test_every_reason_has_a_hint() -> None:
    """What the chain and the inserter may give as a reason, and nothing else, has a hint."""
    reasons = _reasons_of_the_chain() | {_RAW_REASON}
    assert len(reasons) > 15
    assert set(HINTS) == reasons


def test_every_hint_is_a_sentence() -> None:
    """A hint is words for people: it is not the reason again, and an unknown reason has one too."""
    for reason in [*HINTS, "a_reason_of_tomorrow"]:
        assert hint(reason)[0].isupper() or hint(reason).startswith("credits.")
        assert reason not in hint(reason)
