"""Published benchmarks: names, counts and sections of their subsets. Nothing is read here."""

from __future__ import annotations

# Sections of RewardBench: subsets with the counts that weigh them, as EXAMPLE_COUNTS of rewardbench/constants.py has
# them. math-prm has 447 pairs and counts as 984, so that mathematics and code weigh the same. The two xstest subsets
# have their counts exchanged there: the data set has 154 pairs that should be refused and 250 that should not.
REWARDBENCH: dict[str, dict[str, int]] = {
    "chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "chat-hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 250,
        "xstest-should-respond": 154,
        "donotanswer": 136,
    },
    "reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
SECTION_OF = {subset: section for section, subsets in REWARDBENCH.items() for subset in subsets}
REWARDBENCH2 = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")
RM_BENCH = ("chat", "code", "math", "safety-refuse", "safety-response")
KNOWN = {"pairs": tuple(SECTION_OF), "rewardbench2": REWARDBENCH2, "rm_bench": RM_BENCH}


def section_of(rule: str, subset: str) -> str:
    """The section that a published subset belongs to; empty for a subset of one's own."""
    if rule == "rm_bench":
        return subset.partition("-")[0] if subset in RM_BENCH else ""
    return SECTION_OF.get(subset, "") if rule == "pairs" else ""
