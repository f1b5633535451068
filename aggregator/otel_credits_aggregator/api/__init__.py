"""The aggregator's HTTP API: health, metrics, and the ledger under ``/api/v1``.

Order of the files: `_state` (what the routes work with), `_errors` (the one file that knows status codes),
`_access` (who may call), `_parameters` (none is ignored),
`_operations` (health, readiness, metrics), `_users`, `_records`, `_prices`, `_quarantine`, `_sql`, `_app`.
"""

from otel_credits_aggregator.api._app import create_app
from otel_credits_aggregator.api._state import Aggregator, Metrics

__all__ = ["Aggregator", "Metrics", "create_app"]
