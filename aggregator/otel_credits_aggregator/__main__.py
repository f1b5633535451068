"""The command ``otel-credits``. Says what to install where only the app's half of the distribution is."""

import importlib.util
import sys


def main() -> None:
    """Runs the command line; exits with 0 done, 1 could not, 2 wrong arguments."""
    missing = [
        name for name in ("typer", "clickhouse_connect", "fastapi", "grpc") if importlib.util.find_spec(name) is None
    ]
    if missing:
        print(
            "otel-credits: the command needs the server's packages: pip install 'otel-credits[embedded]'",
            file=sys.stderr,
        )
        sys.exit(1)
    from otel_credits_aggregator.imports import without_collecting

    with without_collecting():
        from otel_credits_aggregator.cli import app

    app()


if __name__ == "__main__":
    main()
