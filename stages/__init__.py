"""One module a DVC stage, run as ``python -m stages.NAME``; only dvc.yaml decides when."""

import os

from bgpm.environment import require_libraries

require_libraries()

# A model's problems are small: one thread beats several that wait for each other, and sums come out the same on
# any number of cores. Set OMP_NUM_THREADS for large features; `embed` takes every core by itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
