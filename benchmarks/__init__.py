"""Speed and memory, each against a named reference in one run: ``make bench``."""
