"""Sampling decides what the app traces, not what is charged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes


class RecordingSampler(Sampler):
    """Asks the app's sampler, and turns its DROP into RECORD_ONLY.

    A span that is only recorded has the sampled flag off: the app's exporters skip it and its children are not
    sampled either, just as if it had been dropped. The credit processor sees it. (The SDK's AlwaysRecordSampler does
    the same but for one thing: samplers forget a dropped span's attributes, and those are what is charged.)
    """

    def __init__(self, root: Sampler) -> None:
        self.root = root

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self.root.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is not Decision.DROP:
            return result
        return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)

    def get_description(self) -> str:
        return self.root.get_description()


def recording(sampler: Sampler) -> Sampler:
    """`sampler`, with RECORD_ONLY wherever it would drop. Doing it twice changes nothing.

    It is asked for each of the app's spans, so what never drops is left as it is, and a `ParentBased` (the SDK's default)
    gets parts that record.
    """
    if sampler is ALWAYS_ON or isinstance(sampler, RecordingSampler):
        return sampler
    if type(sampler) is ParentBased:
        # Where the SDK keeps its parts elsewhere, it is wrapped as a whole.
        with suppress(AttributeError):
            parts = [getattr(sampler, name) for name in _PARTS]
            recorded = [recording(part) for part in parts]
            return sampler if recorded == parts else ParentBased(*recorded)
    return RecordingSampler(sampler)


# Where a ParentBased keeps its parts, in the order in which it is given them.
_PARTS = (
    "_root",
    "_remote_parent_sampled",
    "_remote_parent_not_sampled",
    "_local_parent_sampled",
    "_local_parent_not_sampled",
)
