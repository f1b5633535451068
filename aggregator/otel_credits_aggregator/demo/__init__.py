"""The demo: every part as a process of its own, real usage through all of them, every balance compared.

`run` starts a Redis (if there is one), the aggregator with an embedded store, the model server, the FastAPI app and the
Celery worker of ``examples/``, lets users use them, and compares each balance with what was really served.

Order of the files: `_options`, `_examples` (where the apps are), `processes` and `stack` (start and end them), `_plan`
(who does what), `_drive` (do it), `_oracle` (what each balance must be), `_report` (what is printed), `_run`.
"""

from otel_credits_aggregator.demo._options import DemoOptions
from otel_credits_aggregator.demo._run import run

__all__ = ["DemoOptions", "run"]
