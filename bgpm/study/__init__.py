"""The study: which acquisition function saves labels on which pool, over many loops in one process.

Its settings are ``study/params.yaml``, its stages ``study/pipeline.yaml``. A pool is built from files of labelled pairs
(`pools`), an arm is run on it for every seed by the same functions as the pipeline's stages (`run`), and every arm
is compared with its baseline as the report compares two arms (`table`, `page`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bgpm.backbones import BackboneSettings
from bgpm.data.schema import NumberColumns
from bgpm.errors import ConfigError
from bgpm.evaluation import AuditSettings
from bgpm.features import FeatureSettings
from bgpm.registry import Settings, parse
from bgpm.sizes import Size
from bgpm.stage import STUDY

PARAMS = Path("study/params.yaml")
LABELLED = STUDY / "labelled"  # tables, features and loops of the labelled pools
POOL_SEED = 0  # decides A/B order and held-out prompts of every pool


class PoolFile(Settings):
    """One file of labelled pairs inside a pool.

    Attributes:
        file: Its name in the folder of pools; any form that `pool.path` takes.
        subset: Keep only the pairs of this subset, such as those of one judge; None for all.
        pairs: Keep at most this many pairs for acquisition, a seeded sample of whole prompts' pairs; None for all.
            Held-out pairs are all kept.
        response_columns: As ``pool.response_columns`` of params.yaml, for the block ``columns``.
    """

    file: str
    response_columns: NumberColumns = Field(default_factory=dict)
    subset: str | None = None
    pairs: int | None = Field(default=None, ge=1)


class Redundancy(Settings):
    """Easy pairs in excess, as near-duplicates of each other.

    A pair is easy where its longer response won and has at least twice the words. Of every easy pair in the pool,
    ``copies`` more are made: copy c lacks the last c words of both responses.
    """

    copies: int = Field(ge=1, le=8)


class PoolPlan(Settings):
    """How one pool is made.

    Attributes:
        sources: Files; with more than one, accuracy is the plain mean over the sources.
        heldout: Share of prompts kept for the learning curve.
        redundancy: None, or easy near-duplicates in excess.
        labels: ``recorded``, those of the files; or ``fitted``, labels of a world in which the model is right: drawn
            from Bradley-Terry as all recorded labels fit it, and on held-out pairs the side that it favours
            (`bgpm.study.fitted`). What an arm saves there it saves where nothing is misspecified. The benchmark keeps
            its recorded labels.
    """

    sources: list[PoolFile] = Field(min_length=1)
    heldout: float = Field(gt=0, lt=1)
    redundancy: Redundancy | None = None
    labels: Literal["recorded", "fitted"] = "recorded"


class ArmPlan(Settings):
    """One way to spend labels.

    Attributes:
        acquisition, selection, posterior, model: Kinds.
        settings: Settings of these kinds by choice, for example ``{selection: {max_per_prompt: 2}}``.
        batch_size: Labels a round; below 1, a share of the pool's pairs.
        baseline: The arm it is compared with: same model and posterior, uniform choice.
        hindsight: No loop, but what the model could do if the label of every other pair were known: pairs are acquired
            in the order of how unsure it then is of each. Of labelled pools only.
        noise: Share of the acquired labels that are wrong (oracle `recorded`); held-out labels stay as they are.
        start: How the seed labels are chosen, a design of `bgpm.selection.StartSettings`.
        default: Whether it is what params.yaml ships.
    """

    acquisition: str
    selection: str = "top_k"
    posterior: str = "laplace"
    model: str = "gpm"
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    batch_size: Size = 32
    baseline: str = "random"
    hindsight: bool = False
    noise: float = Field(default=0.0, ge=0.0, lt=0.5)
    start: Literal["random", "doptimal"] = "random"
    default: bool = False

    @property
    def effects(self) -> bool:
        """Whether its posterior has response effects."""
        return self.settings.get("posterior", {}).get("response_variance", 0.0) != 0.0


class LabelledPools(Settings):
    """Section ``labelled``: how many labels until so many of a whole pool's labels, acquired or inferred, are right.

    Nothing is held out, no benchmark is measured and none of its prompts is taken out.

    Attributes:
        pools, arms: What is run, every arm on every pool, in the order of the tables.
        sources, arm_plans: What each of them is.
        beside: An arm that every other one is compared with too, beside its own baseline.
        seeds, first_seed: As in `StudyPlan`.
        features: As in params.yaml.
        start: Seed labels, as a share of the pool's pairs.
        targets: Shares of right labels.
        until: A loop ends with the round in which this share is right: a little above the highest target, so that the
            mean over seeds is measured there.
        headline: The target that the summary quotes.
        audit: As in params.yaml; audits are simulated with the recorded labels.
    """

    pools: list[str] = Field(min_length=1)
    arms: list[str] = Field(min_length=1)
    sources: dict[str, list[PoolFile]]
    arm_plans: dict[str, ArmPlan]
    seeds: int = Field(ge=2)
    first_seed: int = Field(default=0, ge=0)
    beside: str
    features: FeatureSettings
    start: float = Field(gt=0, lt=1)
    targets: list[float] = Field(min_length=1)
    until: float = Field(gt=0, le=1)
    headline: float
    audit: AuditSettings = AuditSettings()

    def check(self) -> None:
        """Raises ConfigError for an unknown pool, arm or baseline, or a target that no loop is run to."""
        for what, names, known in (
            ("sources", self.pools, self.sources),
            ("arm_plans", self.arms, self.arm_plans),
            ("arms", [self.beside, *(plan.baseline for plan in self.arm_plans.values())], self.arms),
        ):
            for name in names:
                if name not in known:
                    raise ConfigError(f"{PARAMS}: labelled.{what}: nothing for {name!r}; there are {', '.join(known)}")
        if self.headline not in self.targets:
            raise ConfigError(f"{PARAMS}: labelled.headline: {self.headline} is not among targets {self.targets}")
        if max(self.targets) > self.until:
            raise ConfigError(f"{PARAMS}: labelled.until: {self.until} is below the highest target of {self.targets}")


class Fits(Settings):
    """Section ``feature_sets.fits``: models of the same labels and features, fitted in several ways.

    Attributes:
        features: The set, a name among ``plans``.
        choices: Values of the posterior's ``prior_precision`` that choose it from the labels; the others are compared
            with the first.
        fixed: Precisions among which hindsight takes the best on held-out prompts.
        models: Settings of other models, by kind; their precision is chosen in the first way.
    """

    features: str
    choices: list[str] = Field(min_length=1)
    fixed: list[float] = Field(min_length=1)
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)


class FeatureSets(Settings):
    """Section ``feature_sets``: accuracy on unseen prompts by features, under uniform draws.

    Attributes:
        pools: Pools of recorded labels.
        sets: Names of the sets, in the order of the tables; the first is what the others are compared with.
        plans: Features of each.
        labels: Label counts; a draw of more labels goes on where one of fewer ended.
        model, posterior: Kinds.
        settings: Of these kinds by choice, as in `ArmPlan`.
        fits: Other ways to fit, on one of the sets.
    """

    pools: list[str] = Field(min_length=1)
    sets: list[str] = Field(min_length=1)
    plans: dict[str, FeatureSettings]
    labels: list[int] = Field(min_length=1)
    model: str = "bt"
    posterior: str = "laplace"
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    fits: Fits

    def check(self) -> None:
        """Raises ConfigError for an unknown set or labels that do not increase."""
        for name in [*self.sets, self.fits.features]:
            if name not in self.plans:
                raise ConfigError(
                    f"{PARAMS}: feature_sets.plans: nothing for {name!r}; there are {', '.join(self.plans)}"
                )
        if sorted(set(self.labels)) != self.labels:
            raise ConfigError(f"{PARAMS}: feature_sets.labels: expected increasing numbers, got {self.labels}")


class StudyPlan(Settings):
    """``study/params.yaml``.

    Attributes:
        pools, arms: What is run, every arm on every pool, in the order of the tables.
        extra_pools, extra_arms: Arms that are run on some of the pools only.
        figures: Learning curves drawn together: arms by the figure's name.
        pool_plans, arm_plans: What each of them is.
        budgets: Labels to acquire on each pool, seed labels included.
        seeds: How many paired replications.
        first_seed: The first of their consecutive seeds: a confirming run takes others than the exploration did.
        start: Seed labels.
        shares: Targets, as shares of the baseline's gain.
        headline: The share that the summary quotes.
        resamples: Bootstrap draws.
        processes: Loops side by side.
        benchmark: File with prompt, chosen or responses, label, subset; its prompts are taken out of every pool.
        backbone, features: As in params.yaml.
        feature_sets: The study of features.
        labelled: The study of labelled pools.
    """

    pools: list[str] = Field(min_length=1)
    arms: list[str] = Field(min_length=1)
    extra_pools: list[str]
    extra_arms: list[str]
    figures: dict[str, list[str]] = Field(default_factory=dict)
    pool_plans: dict[str, PoolPlan]
    arm_plans: dict[str, ArmPlan]
    budgets: dict[str, int]
    seeds: int = Field(ge=2)
    first_seed: int = Field(default=0, ge=0)
    start: int = Field(ge=1)
    shares: list[float]
    headline: float
    resamples: int = Field(ge=100)
    processes: int = Field(ge=1)
    benchmark: str
    backbone: BackboneSettings
    features: FeatureSettings
    feature_sets: FeatureSets
    labelled: LabelledPools

    def arms_of(self, pool: str) -> list[str]:
        """The arms that are run on a pool."""
        return [*self.arms, *(self.extra_arms if pool in self.extra_pools else [])]


def read_plan(raw: dict[str, Any]) -> StudyPlan:
    """The plan as types.

    Raises:
        ConfigError: For an unknown key, pool, arm or baseline, or a headline that is no target.
    """
    plan = parse(StudyPlan, raw, "", str(PARAMS))
    run = [*plan.arms, *plan.extra_arms]
    for what, names, known in (
        ("pool_plans", plan.pools, plan.pool_plans),
        ("budgets", plan.pools, plan.budgets),
        ("arm_plans", run, plan.arm_plans),
        ("pools", [*plan.extra_pools, *plan.feature_sets.pools], dict.fromkeys(plan.pools)),
        ("figures", [arm for arms in plan.figures.values() for arm in arms], dict.fromkeys(run)),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(f"{PARAMS}: {what}: nothing for {name!r}; there are {', '.join(known)}")
    for pool in plan.pools:
        here = plan.arms_of(pool)
        for arm in here:
            if plan.arm_plans[arm].baseline not in here:
                raise ConfigError(
                    f"{PARAMS}: arm {arm!r} is compared with {plan.arm_plans[arm].baseline!r}, which is not run on "
                    f"{pool!r}; add it to arms"
                )
            if plan.pool_plans[pool].labels == "fitted" and plan.arm_plans[arm].noise > 0:
                raise ConfigError(
                    f"{PARAMS}: arm {arm!r} makes recorded labels wrong, and those of {pool!r} are drawn from a fit; "
                    "run it on other pools"
                )
    plan.feature_sets.check()
    plan.labelled.check()
    if plan.headline not in plan.shares:
        raise ConfigError(f"{PARAMS}: headline: {plan.headline} is not among shares {plan.shares}")
    return plan
