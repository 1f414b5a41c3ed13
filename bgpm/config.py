"""params.yaml as types: one class, one field a section, every setting checked before any work starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from bgpm.acquisition import Acquisition
from bgpm.acquisition.auto import Auto
from bgpm.annotations.gold import gold_of
from bgpm.backbones import BackboneSettings
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.errors import ConfigError
from bgpm.evaluation import AuditSettings
from bgpm.features import FeatureSettings
from bgpm.features.blocks import built as feature_blocks
from bgpm.features.blocks.columns import PoolColumns
from bgpm.launch import LauncherSettings
from bgpm.loop.weighing import check_draws
from bgpm.models import RENAMED, Model
from bgpm.oracles import Oracle
from bgpm.oracles.human import Human
from bgpm.posteriors import Posterior
from bgpm.registry import Component, Settings, build, kinds, parse
from bgpm.reporting import ReportSettings
from bgpm.sections import RoundSettings
from bgpm.selection import Selection, StartSettings
from bgpm.sizes import Size
from bgpm.stage import ANNOTATIONS
from bgpm.training import TrainingSettings
from bgpm.types import Uncertainty

log = logging.getLogger("bgpm")

# Section of settings, family, and the top-level choices that name a member of it.
FAMILIES: dict[str, tuple[type[Component], tuple[str, ...]]] = {
    "acquisitions": (Acquisition, ("acquisition", "baseline")),
    "selections": (Selection, ("selection",)),
    "models": (Model, ("model",)),
    "posteriors": (Posterior, ("posterior",)),
    "oracles": (Oracle, ("oracle",)),
}


class Params(Settings):
    """Everything params.yaml may say.

    Attributes:
        goal: Which result leads the report: accuracy of the ``model`` on unseen prompts, or the labelled ``pool``.
        acquisition: The acquisition function that is tested: the first arm.
        baseline: The one it is compared with: the second arm. The same as ``acquisition`` runs one arm only.
        seeds: Paired replications; each has its own seed labels, batches and model.
        rounds: Acquisition rounds, a list because DVC's matrix needs one; ``bgpm rounds 20`` prints it.
        batch_size: Labels acquired a round: how many, or which share of the pool.
        start: The seed set, which every arm shares.
        model: What is trained: how two responses become a score.
        posterior: What is known of the score beside its mean.
        selection: How a batch is picked from the values of single pairs.
        oracle: Who labels.
        pool: The pairs that labels are acquired for, and the held-out ones.
        benchmark: What every round's model is measured on besides.
        backbone: The language model that reads the texts.
        features: How its states become features.
        acquisitions: Settings of each acquisition function, by its name.
        selections: Settings of each selector, by its name.
        models: Settings of each model, by its name.
        posteriors: Settings of each posterior, by its name.
        oracles: Settings of each oracle, by its name.
        training: Whether and how the backbone learns too.
        report: How the arms are compared.
        audit: Random checks of inferred labels, and the lower bound of right labels that follows.
        launcher: How many processes work, and where; no stage depends on it.
    """

    goal: Literal["model", "pool"]
    acquisition: str
    baseline: str
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1)
    rounds: list[RoundSettings] = Field(min_length=1)
    batch_size: Size
    start: StartSettings
    model: str
    posterior: str
    selection: str
    oracle: str
    pool: PoolSettings
    benchmark: BenchmarkSettings
    backbone: BackboneSettings
    features: FeatureSettings
    acquisitions: dict[str, dict[str, Any]]
    selections: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]
    posteriors: dict[str, dict[str, Any]]
    oracles: dict[str, dict[str, Any]]
    training: TrainingSettings
    audit: AuditSettings
    report: ReportSettings
    launcher: LauncherSettings


def check(raw: Mapping[str, Any]) -> Params:
    """Parameters as types.

    Raises:
        ConfigError: On the first kind of mistake found, naming every key that makes it: unknown or
            missing keys and wrong types; unknown components (with the list of kinds); settings of a
            component; rounds that do not count up; choices that do not go together.
    """
    params = parse(Params, raw, "")
    _check_model_name(params)
    built = _components(params)
    _check_rounds_and_seeds(params)
    _check_features(params)
    _check_pair_columns(params, built["model"])
    model, posterior, oracle = built["model"], built["posterior"], built["oracle"]
    assert isinstance(model, Model)
    assert isinstance(posterior, Posterior)
    assert isinstance(oracle, Oracle)
    posterior.check(model)
    if params.training.mode != "frozen":
        posterior.check_trained()
    selection = built["selection"]
    assert isinstance(selection, Selection)
    check_draws(selection, params.start, posterior)
    if selection.draws and params.training.mode != "frozen":
        raise ConfigError(
            f"params.yaml: selection: {params.selection} weighs labels, and training.mode: {params.training.mode} "
            "counts every label once; set training.mode: frozen, or selection to power"
        )
    params.training.check(params.launcher)
    oracle.check(ANNOTATIONS)
    if isinstance(oracle, Human) and oracle.gold.path:
        gold_of(oracle.gold.path, oracle.gold.columns, oracle.gold.labels)
    _check_margin(params, posterior, oracle)
    _check_goal(params, oracle)
    _check_uncertainty(params, posterior, built)
    _check_paid(params, oracle)
    return params


def _components(params: Params) -> dict[str, Component]:
    """The component of every choice, built of its settings; those that are not chosen are built too, to be checked."""
    built: dict[str, Component] = {}
    for section, (base, choices) in FAMILIES.items():
        settings = getattr(params, section)
        for choice in choices:
            kind = getattr(params, choice)
            if kind not in kinds(base):
                raise ConfigError(
                    f"params.yaml: {choice}: unknown kind {kind!r}; choose one of: {', '.join(kinds(base))}"
                )
            if kind not in settings:
                raise ConfigError(f"params.yaml: {section}.{kind}: missing; add `{kind}: {{}}` for the defaults")
        for kind, values in settings.items():
            today = RENAMED.get(kind) if section == "models" else None
            component = build(base, today or kind, values, section)
            built |= {choice: component for choice in choices if getattr(params, choice) == kind}
    for choice in ("acquisition", "baseline"):
        if isinstance(built[choice], Auto):
            built[choice] = _stands_for(params, choice)
    return built


def _check_rounds_and_seeds(params: Params) -> None:
    numbers = [(r.k, r.next) for r in params.rounds]
    if numbers != [(k, k + 1) for k in range(len(numbers))]:
        raise ConfigError(
            f"params.yaml: rounds: expected k = 0, 1, 2, ... each with next = k + 1, got {numbers}; "
            f"`bgpm rounds {len(numbers)}` prints them"
        )
    if len(set(params.seeds)) != len(params.seeds):
        raise ConfigError(f"params.yaml: seeds: every seed must differ, got {params.seeds}")


def _check_paid(params: Params, oracle: Oracle) -> None:
    many = len(params.seeds) > 1 or params.acquisition != params.baseline
    if oracle.paid and many and not getattr(oracle, "allow_many", False):
        raise ConfigError(
            f"params.yaml: oracle: {params.oracle} pays for every label, but there are {len(params.seeds)} seeds "
            f"and arms {params.acquisition!r} and {params.baseline!r}; set seeds to one seed and baseline to the "
            f"acquisition, or oracles.{params.oracle}.allow_many to true"
        )


def _check_model_name(params: Params) -> None:
    """Refuse a model by a name that it no longer has; settings of one that is not used are read as they were meant."""
    if params.model in RENAMED:
        raise ConfigError(
            f"params.yaml: model: {params.model} is called {RENAMED[params.model]} now: a network on features of "
            "single responses; rename it there and under models, or, for both responses in one context, set model: bt "
            "and add pair_states to features.blocks"
        )
    for old in RENAMED.keys() & params.models.keys():
        log.warning("params.yaml: models.%s: an older name, read as models.%s", old, RENAMED[old])


def _check_features(params: Params) -> None:
    """Refuse blocks that are wrong by themselves, read columns that nobody names, or cannot be trained."""
    blocks = feature_blocks(params.features)
    columns = blocks.get("columns")
    if isinstance(columns, PoolColumns):
        known = ", ".join(params.pool.response_columns) or "none there"
        if not columns.use:
            raise ConfigError(
                "params.yaml: features.columns.use: empty, and columns is among the blocks; list names of "
                f"pool.response_columns ({known}), or take columns out of features.blocks"
            )
        if strange := [name for name in columns.use if name not in params.pool.response_columns]:
            raise ConfigError(
                f"params.yaml: features.columns.use: {strange[0]!r} is none of pool.response_columns ({known}); name "
                "its columns there"
            )
    given = [kind for kind, block in blocks.items() if block.given and not block.of_pairs]
    if given and params.training.mode != "frozen":
        raise ConfigError(
            f"params.yaml: features.blocks: {given[0]} has numbers from elsewhere, and training.mode: "
            f"{params.training.mode} learns from texts alone; set training.mode: frozen, or take {given[0]} out"
        )


def _check_pair_columns(params: Params, model: Component) -> None:
    """Refuse numbers of pairs that the benchmark alone has, and what the model cannot read of pairs."""
    if strange := sorted(params.benchmark.pair_columns.keys() - params.pool.pair_columns.keys()):
        raise ConfigError(
            f"params.yaml: benchmark.pair_columns: {strange[0]!r} is none of pool.pair_columns, and a model learns "
            "from the pool; name it there too, or leave it out"
        )
    assert isinstance(model, Model)
    for key, given, wanted, fits in (
        ("model", params.model, "bt", model.linear),
        ("training.mode", params.training.mode, "frozen", params.training.mode == "frozen"),
    ):
        if params.pool.pair_columns and not fits:
            raise ConfigError(
                f"params.yaml: {key}: {given} cannot read pool.pair_columns "
                f"({', '.join(params.pool.pair_columns)}); set {key}: {wanted}, or take them out"
            )
        if params.features.pair_reading and not fits:
            raise ConfigError(
                f"params.yaml: {key}: {given} cannot read pair_states; set {key}: {wanted}, or take pair_states out of "
                "features.blocks"
            )


def _check_margin(params: Params, posterior: Posterior, oracle: Oracle) -> None:
    """Refuse margins that are asked for and never given, and strengths that are given and never asked for."""
    uses = bool(getattr(posterior, "margin", False))
    people = oracle if isinstance(oracle, Human) else None
    where = f"posteriors.{params.posterior}.margin"
    if uses and oracle.paid and (people is None or people.strength != "margin"):
        raise ConfigError(
            f"params.yaml: {where}: true needs labels with a margin, and oracle {params.oracle} gives none; set it to "
            "false" + (", or oracles.human.strength to margin" if people else "")
        )
    if people and people.strength == "margin" and not uses:
        raise ConfigError(
            f"params.yaml: oracles.human.strength: margin counts where {where} is true only; set that to true, or "
            "strength to soft or ignore"
        )
    if people and people.strength == "margin" and people.scale == 2:
        raise ConfigError(
            "params.yaml: oracles.human.scale: 2 asks nobody how much better a response is, and strength: margin needs "
            "that of every label; set scale to 4 or 7"
        )


def _check_goal(params: Params, oracle: Oracle) -> None:
    """Refuse a goal without labels to measure it with, and fewer bounds than rounds."""
    if params.goal == "model" and params.pool.heldout == 0:
        raise ConfigError(
            "params.yaml: goal: a model is measured on held-out prompts, and pool.heldout is 0: hold some out (0.3), "
            "or set goal: pool"
        )
    if params.goal == "pool" and oracle.paid and not params.audit.size:
        raise ConfigError(
            f"params.yaml: audit.size: 0 leaves goal pool without labels to measure with, since nobody knows the true "
            f"labels where oracle is {params.oracle}: set it to auto, or set goal: model"
        )
    looks = len(params.rounds) + 1
    if params.audit.looks is not None and params.audit.looks < looks:
        raise ConfigError(
            f"params.yaml: audit.looks: {params.audit.looks} bounds are planned, and {looks - 1} rounds have {looks}: "
            f"set it to {looks} or more"
        )


def arm(params: Params, name: str) -> dict[str, Any]:
    """The acquisition function that an arm is, under the goal, and its settings: `acquisition` and `settings`."""
    if name == "auto":
        goals = Auto.model_validate(params.acquisitions["auto"])
        name = goals.pool if params.goal == "pool" else goals.model
    return {"acquisition": name, "settings": params.acquisitions[name]}


def _stands_for(params: Params, choice: str) -> Component:
    """The function that `auto` is; ConfigError where it is none."""
    auto = Auto.model_validate(params.acquisitions["auto"])
    for goal, kind in (("model", auto.model), ("pool", auto.pool)):
        if kind == "auto" or kind not in params.acquisitions:
            known = ", ".join(name for name in params.acquisitions if name != "auto")
            raise ConfigError(f"params.yaml: acquisitions.auto.{goal}: unknown kind {kind!r}; choose one of: {known}")
    found = arm(params, "auto")
    other = params.baseline if choice == "acquisition" else params.acquisition
    if other == found["acquisition"]:
        raise ConfigError(
            f"params.yaml: {choice}: auto stands for {other} under goal {params.goal}, which is the other arm too; "
            f"compare it with another function, or set both to auto to run one arm"
        )
    return build(Acquisition, found["acquisition"], found["settings"], "acquisitions")


def _check_uncertainty(params: Params, posterior: Posterior, built: Mapping[str, Component]) -> None:
    """Refuse an acquisition function or selector that asks the posterior for what it does not know."""
    order = get_args(Uncertainty)
    for choice in ("acquisition", "baseline", "selection"):
        component = built[choice]
        assert isinstance(component, Acquisition | Selection)
        needed = component.needs
        if order.index(needed) > order.index(posterior.gives):
            raise ConfigError(
                f"params.yaml: {choice}: {getattr(params, choice)} needs a {needed} of scores, and posterior "
                f"{params.posterior} knows the {posterior.gives} only; set posterior to laplace or ensemble"
            )
