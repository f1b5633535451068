"""Fixtures that every test may use."""

pytest_plugins = ("support.store", "support.chain", "support.clickhouse_http.fixture")
