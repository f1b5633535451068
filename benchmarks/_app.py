"""An app at low rate: `track_ai_usage` at random moments. Prints when each was recorded, as JSON."""

import argparse
import json
import random
import time

from otel_credits import configure, flush, shutdown, track_ai_usage

from benchmarks._spans import ACTION, MODEL

_FLUSH_TIMEOUT_S = 30.0


def main() -> None:
    """Tracks with random pauses, so that the usages fall on every moment of the aggregator's intervals."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--usages", type=int, required=True)
    parser.add_argument("--per-second", type=float, required=True)
    options = parser.parse_args()
    configure(endpoint=f"http://127.0.0.1:{options.port}")
    chance = random.Random(1)
    recorded: list[float] = []
    for _ in range(options.usages):
        time.sleep(chance.expovariate(options.per_second))
        recorded.append(time.monotonic())
        track_ai_usage(options.user, ACTION, input_tokens=1000, output_tokens=100, model=MODEL)
    delivered = flush(timeout_s=_FLUSH_TIMEOUT_S)
    shutdown()
    print(json.dumps({"recorded": recorded, "delivered": delivered}))


if __name__ == "__main__":
    main()
