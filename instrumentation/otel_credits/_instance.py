"""Which process this is: the identity under which its usages and its counters are compared.

The id is ours and new in every process, also in a forked child. The one that an app may have set itself
(`OTEL_RESOURCE_ATTRIBUTES=service.instance.id=...`) is often that of a pod or a host, which several workers share, and
the counters of one could then not be told from those of another.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import Resource

from otel_credits._attributes import SERVICE_INSTANCE_ID


@dataclass(frozen=True, slots=True)
class Instance:
    """One process, from the set-up of its pipeline to its end."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_ns: int = field(default_factory=time.time_ns)

    def stamp(self, resource: Resource) -> Resource:
        """`resource` with the id of this process."""
        return resource.merge(Resource({SERVICE_INSTANCE_ID: self.id}))
