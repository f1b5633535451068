"""What otel-credits costs, measured beside what it is compared with. `python -m benchmarks` runs everything."""
