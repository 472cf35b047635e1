"""How long tests of spoilt files look: FUZZ_EXAMPLES inputs each, of which `make fuzz` has many."""

import os

from hypothesis import HealthCheck, Phase, settings

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "250")),
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
