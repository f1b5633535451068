"""The command `otel-credits`.

Order of the files: `_errors` (exit codes), `_settings` (where the command finds the ledger), `_ledger` (opens it: a
running server's API, else the store), `_arguments` (options that several commands have), `_output` (tables and JSON),
`_tables` (which columns people see), `_serving`, `_reading`, `_users`, `_prices`, `_aliases`, `_rules`, `_conventions`,
`_quarantine`, `_backup`, `_app`.
"""

from otel_credits_aggregator.cli._app import app

__all__ = ["app"]
