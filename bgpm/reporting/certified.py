"""What audits say of a pool's labels, in words: the lower bound, whether to stop, and what is missing."""

from __future__ import annotations

import numpy as np

from bgpm.evaluation.arm import Arm
from bgpm.evaluation.certificate import Certificate
from bgpm.reporting.words import count, percent


def bound_words(arm: Arm, c: Certificate) -> str:
    """The bound of the last round in a sentence; the mean over seeds where there are several."""
    audits, wrong = c.audited[:, -1], c.wrong[:, -1]
    if not audits.any():
        return f"With {count(arm.labels[-1])} labels under {arm.title} nothing is audited yet."
    mean = ", mean of the seeds" if len(audits) > 1 else ""
    return (
        f"With {count(arm.labels[-1])} labels and {count(audits.mean())} audits, in {count(wrong.mean())} of which the "
        f"model was wrong, at least {percent(float(c.bound[:, -1].mean()), 1)} of the pool's labels are right under "
        f"{arm.title}{mean}: with {percent(1 - c.alpha)} confidence in the bounds of all rounds together."
    )


def stop_words(arm: Arm, c: Certificate) -> str:
    """Whether to stop, or what is missing, in a sentence."""
    target, seeds = percent(c.target, 1), len(c.bound)
    now, ever = c.bound[:, -1] >= c.target, c.reached[:, -1]
    if seeds > 1:
        return f"{target} is certified in {int(ever.sum())} of {seeds} seeds."
    if now[0]:
        return f"Stop here: {target} is certified. Later labels are not needed for it."
    if ever[0]:
        at = int(np.argmax(c.reached[0]))
        return (
            f"{target} was certified after {count(arm.labels[at])} labels: the labels of round {arm.rounds[at]} are, "
            "those of later rounds are not."
        )
    if not c.audited[0].any():
        known = "" if c.expected is None else f"; now it expects {percent(float(c.expected[0, -1]), 1)}"
        return (
            f"Not certified: inferred labels are audited once the model expects {percent(c.begin, 1)} of the pool's "
            f"labels to be right{known}."
        )
    least, likely = c.missing[0]
    if least is None:
        return f"Not certified: too many audited labels were wrong for {target}. Acquire more labels."
    more = f"{count(least)} more audits, if none of them is wrong"
    if likely is None:
        return f"Not certified: {target} needs at least {more}; at today's error rate no number does."
    about = "" if likely == least else f", and about {count(likely)} at today's error rate"
    return f"Not certified yet: {target} needs at least {more}{about}; or better labels of the next rounds."
