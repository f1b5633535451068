"""Fixtures that every test may use."""

import signal

# A shell starts what runs in its background with SIGINT ignored, and children inherit that; some tests interrupt theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("support.store", "support.chain", "support.clickhouse_http.fixture")
