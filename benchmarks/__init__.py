"""Speed and memory, each against a named reference in one run: ``make bench``."""

from bgpm.environment import require_libraries

require_libraries()
