"""Certificates of a pool: bounds look by look, when to stop, and what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bgpm.errors import ConfigError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import Arm
from bgpm.evaluation.audit import level, right_share
from bgpm.evaluation.certificate import AUDIT_COUNTS, certificate
from bgpm.evaluation.plan import are_audited, audits_of, check_enough, looks_of
from bgpm.registry import parse
from bgpm.reporting.certified import bound_words, stop_words

LABELS = np.array([100, 200, 300])


def arm_of(wrong: list[int], *, size: int = 150, pool: int = 1000) -> Arm:
    """One seed whose audits found so many wrong labels in its rounds; every acquired label is right."""
    counts = {"given": LABELS, "inferred": pool - LABELS, "audited": [size] * 3, "wrong": wrong, "pool": [pool] * 3}
    values = {("pool", "all", f"audit_{name}"): np.array([counts[name]], float) for name in AUDIT_COUNTS}
    return Arm("margin", np.arange(1), np.arange(3), LABELS, (), values, None, {})


def test_each_look_has_the_level_that_its_number_leaves_it() -> None:
    arm, audit = arm_of([9, 4, 0]), AuditSettings()
    for looks in (None, 5):
        found = certificate(arm, audit, looks)
        assert found is not None
        for t, wrong in enumerate([9, 4, 0]):
            n = int(LABELS[t])
            expected = right_share(n, 1000 - n, 150, wrong, 1000, level(0.05, t + 1, looks))
            assert found.bound[0, t] == expected
    planned, opened = (certificate(arm, audit, looks) for looks in (3, None))
    assert planned is not None
    assert opened is not None
    assert planned.bound[0, 2] > opened.bound[0, 2]  # the third of an open number has a twelfth of the error


def test_what_is_said_follows_the_bounds() -> None:
    words = {}
    for name, wrong in (("now", [9, 4, 0]), ("before", [9, 0, 9]), ("soon", [9, 9, 8]), ("never", [40, 40, 60])):
        arm = arm_of(wrong)
        found = certificate(arm, AuditSettings(), 3)
        assert found is not None
        words[name] = stop_words(arm, found)
        if name == "now":
            assert found.labels_certified == 300 + 150
            assert f"at least {100 * found.bound[0, 2]:.1f}% of the pool's labels" in bound_words(arm, found)
    assert words["now"].startswith("Stop here: 95.0% is certified")
    assert words["before"].startswith("95.0% was certified after 200 labels: the labels of round 1 are")
    assert words["soon"].startswith("Not certified yet: 95.0% needs at least ")
    assert words["never"] == "Not certified: too many audited labels were wrong for 95.0%. Acquire more labels."


def test_the_audits_that_are_said_to_be_missing_certify_the_target() -> None:
    arm = arm_of([9, 9, 8])
    found = certificate(arm, AuditSettings(), 3)
    assert found is not None
    least, likely = found.missing[0]
    assert least is not None
    assert likely is not None
    for more, wrong in ((least, 8), (likely, -(-8 * (150 + likely) // 150))):
        assert right_share(300, 700, 150 + more, wrong, 1000, 0.05 / 3) >= 0.95
    assert right_share(300, 700, 150 + least - 1, 8, 1000, 0.05 / 3) < 0.95


def test_an_arm_without_audits_has_no_certificate() -> None:
    arm = arm_of([0, 0, 0])
    assert certificate(Arm(**{**vars(arm), "values": {}}), AuditSettings(), 3) is None


@pytest.mark.parametrize(
    ("paid", "goal", "size", "made"),
    [(False, "model", "auto", True), (True, "model", 150, False), (True, "pool", 0.1, True), (False, "pool", 0, False)],
)
def test_nobody_pays_for_audits_unless_the_pool_is_the_goal(paid: bool, goal: str, size: Any, made: bool) -> None:
    assert are_audited(AuditSettings(size=size), goal, paid=paid) == made


@pytest.mark.parametrize(("size", "audits"), [("auto", 79), (150, 150), (0.1, 100), (0.0001, 1), (0, 0)])
def test_audits_are_a_number_a_share_or_follow_the_pool(size: Any, audits: int) -> None:
    assert audits_of(AuditSettings(size=size), 1000) == audits


@pytest.mark.parametrize("size", [-1, 1.5, -0.1, "all"])
def test_other_numbers_of_audits_are_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"audit\.size"):
        parse(AuditSettings, {"size": size}, "audit")


def test_rounds_before_the_first_audits_use_up_no_error_and_what_is_missing_says_when_they_begin() -> None:
    arm, audit = arm_of([0, 9, 4]), AuditSettings()
    arm.values["pool", "all", "audit_audited"][0, 0] = 0
    found = certificate(arm, audit, None)
    assert found is not None
    assert found.begin == pytest.approx(0.85)
    assert found.bound[0, 0] == 0.1  # what was acquired is right, and nothing is known of the rest
    for t, wrong, look in ((1, 9, 1), (2, 4, 2)):
        n = int(LABELS[t])
        assert found.bound[0, t] == right_share(n, 1000 - n, 150, wrong, 1000, level(0.05, look))
    arm.values["pool", "all", "audit_audited"][:] = arm.values["pool", "all", "audit_wrong"][:] = 0
    arm.values["pool", "all", "expected"] = np.array([[0.7, 0.75, 0.8]])
    found = certificate(arm, audit, None)
    assert found is not None
    assert "once the model expects 85.0% of the pool's labels to be right; now it expects 80.0%" in stop_words(
        arm, found
    )
    assert "nothing is audited yet" in bound_words(arm, found)
    first = (n for n in range(1, 701) if right_share(300, 700, n, 0, 1000, level(0.05, 1)) >= 0.95)
    assert found.missing[0][0] == next(first)  # the look to come is the first


def test_the_number_of_looks_is_open_only_where_rounds_may_be_added_and_none_is_planned() -> None:
    assert looks_of(AuditSettings(), 8, paid=False) == 9
    assert looks_of(AuditSettings(), 8, paid=True) is None
    assert looks_of(AuditSettings(looks=20), 8, paid=True) == 20


def test_the_number_that_is_asked_for_is_the_smallest_that_is_let_through() -> None:
    acquired, pool = [100, 200, 300], 1000
    with pytest.raises(ConfigError, match=r"set it to (\d+) or more") as refused:
        check_enough(AuditSettings(size=1, begin=0), acquired, pool, paid=True)
    needed = int(str(refused.value).split("set it to ")[1].split()[0])
    check_enough(AuditSettings(size=needed, begin=0), acquired, pool, paid=True)
    with pytest.raises(ConfigError):
        check_enough(AuditSettings(size=needed - 1, begin=0), acquired, pool, paid=True)
    check_enough(AuditSettings(size=needed - 1), acquired, pool, paid=True)  # begun at round 2, it is the first look
    check_enough(AuditSettings(size=1), [100, 960], pool, paid=True)  # what is acquired is enough by itself
