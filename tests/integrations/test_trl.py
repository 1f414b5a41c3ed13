"""A trained model inside TRL: values against slow ones, then TRL's own trainers on a tiny random policy."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbone_models import TEMPLATE, write_tiny_decoder
from conftest import write_tiny_bert
from small_model import PROMPTS, RESPONSES, trained

from bgpm import cli
from bgpm.data.tables import write_table
from bgpm.dataset_folder import Origin, write_dataset
from bgpm.errors import ConfigError, DataError
from bgpm.inference import PreferenceModel, ResponseSet
from bgpm.integrations.trl import GroupReward, pairwise_judge
from bgpm.models import Model
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.types import Pairs


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def model(encoder: Path) -> PreferenceModel:
    return trained(encoder, Gpm(), Laplace(prior_precision=1.0))


def test_a_reward_is_the_mean_probability_of_winning_in_its_group(model: PreferenceModel) -> None:
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[0]]  # groups need not lie together
    completions = [RESPONSES[0], RESPONSES[1], RESPONSES[2], RESPONSES[3], RESPONSES[1]]
    got = GroupReward(model)(prompts=prompts, completions=completions, completion_ids=[[1]] * 5, step=3)
    for prompt in set(prompts):
        rows = [row for row in range(5) if prompts[row] == prompt]
        p = model.matrix(prompt, [completions[row] for row in rows]).probability
        expected = [np.mean([p[i, j] for j in range(len(rows)) if j != i]) for i in range(len(rows))]
        np.testing.assert_allclose([got[row] for row in rows], expected, atol=1e-6)
        assert sum(got[row] for row in rows) == pytest.approx(len(rows) / 2)
    assert max(got) - min(got) > 0.05


def test_messages_are_read_as_the_texts_they_hold(model: PreferenceModel) -> None:
    chat = [[{"role": "user", "content": PROMPTS[0]}]] * 2
    told = GroupReward(model)(chat, [[{"role": "assistant", "content": text}] for text in RESPONSES[:2]])
    assert told == pytest.approx(GroupReward(model)([PROMPTS[0]] * 2, RESPONSES[:2]), abs=1e-9)


@pytest.mark.parametrize("head", [Bt(), Gpm()], ids=["bt", "gpm"])
def test_pessimism_takes_off_the_deviation_of_the_mean_under_the_joint_posterior(encoder: Path, head: Model) -> None:
    model = trained(encoder, head, Laplace(prior_precision=0.2))
    completions = [*RESPONSES[:3], RESPONSES[1]]  # one comes twice: its own copy is a certain tie
    prompts = [PROMPTS[0]] * 4
    draws, pessimism = 20_000, 2.0
    plain = np.array(GroupReward(model)(prompts, completions))
    taken = plain - GroupReward(model, pessimism=pessimism, draws=draws)(prompts, completions)

    found = model.embed_all([ResponseSet.of(PROMPTS[0], completions)])
    pairs = list(itertools.combinations(range(3), 2))
    some = Pairs(*(found.rows[0][[pair[side] for pair in pairs]] for side in (0, 1)), np.zeros(3, np.int64))
    moments, kernel = model.fitted.moments(found.features, some), model.fitted.kernel(found.features, some)
    covariance = kernel.block(torch.arange(3), torch.arange(3)).numpy()
    drawn = np.random.default_rng(5).multivariate_normal(moments.mean.numpy(), covariance, 40_000) / moments.tau
    score = np.zeros((len(drawn), 3, 3))
    for n, (i, j) in enumerate(pairs):
        score[:, i, j], score[:, j, i] = drawn[:, n], -drawn[:, n]
    which = [0, 1, 2, 1]
    expected = []
    for one, i in enumerate(which):
        against = [1 / (1 + np.exp(-score[:, i, j])) for other, j in enumerate(which) if other != one]
        expected.append(pessimism * np.std(np.mean(against, 0)))
    # two independent estimates of a standard deviation, each with relative error 1 / sqrt(2 draws): four of them
    np.testing.assert_allclose(taken, expected, rtol=4 * (1 / (2 * draws) + 1 / 80_000) ** 0.5)
    assert min(expected) > 0.01


def test_what_cannot_be_rewarded_is_one_sentence(encoder: Path, model: PreferenceModel) -> None:
    with pytest.raises(DataError, match=r"one completion, .* per_device_train_batch_size a multiple of num_generat"):
        GroupReward(model)([PROMPTS[0], PROMPTS[0], PROMPTS[1]], RESPONSES[:3])
    with pytest.raises(ConfigError, match="pessimism: expected"):
        GroupReward(model, pessimism=-1.0)
    with pytest.raises(ConfigError, match="draws: expected 2"):
        GroupReward(model, draws=1)
    point = trained(encoder, Gpm(), Point(prior_precision=1.0))
    assert len(GroupReward(point)([PROMPTS[0]] * 2, RESPONSES[:2])) == 2
    with pytest.raises(ConfigError, match="posterior: point knows no uncertainty"):
        GroupReward(point, pessimism=1.0)


def test_completions_that_look_alike_to_the_model_have_no_deviation(model: PreferenceModel) -> None:
    unknown = ["qqq", "zzz"]  # other texts, the same unknown word
    assert GroupReward(model, pessimism=3.0)([PROMPTS[0]] * 2, unknown) == pytest.approx([0.5, 0.5], abs=1e-6)


needs_trl = pytest.mark.filterwarnings("ignore")  # TRL's own, and those of what it stands on


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("trl", reason="needs TRL: pip install -c constraints.txt -e '.[trl]'")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = write_tiny_decoder(tmp_path_factory.mktemp("policy"), "llama chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": 2, "report_to": "none", "use_cpu": True, "bf16": False,
        "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, **more,
    }  # fmt: skip


def judges() -> Any:
    return pytest.importorskip("trl.experimental.judges", reason="needs a TRL with judges: pip install trl==1.0.0")


@needs_trl
def test_the_judge_names_the_better_completion_in_either_order(model: PreferenceModel) -> None:
    base = judges().BasePairwiseJudge
    judge = pairwise_judge(model)
    assert isinstance(judge, base)
    mean = model.matrix(PROMPTS[0], RESPONSES).mean
    pairs = [(i, j) for i, j in itertools.permutations(range(4), 2)]
    got = judge.judge([PROMPTS[0]] * 12, [[RESPONSES[i], RESPONSES[j]] for i, j in pairs])
    assert got == [int(mean[i, j] < 0) for i, j in pairs]
    assert set(got) == {0, 1}
    assert judge.judge([PROMPTS[0]], [[RESPONSES[0], RESPONSES[0]]]) == [0]
    with pytest.raises(DataError, match="compares two completions, got 3"):
        judge.judge([PROMPTS[0]], [RESPONSES[:3]])


def test_without_judges_there_is_a_sentence_that_says_what_to_do(
    model: PreferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "trl.experimental.judges", None)
    with pytest.raises(ConfigError, match=r"releases after 1\.0 have none; pass GroupReward"):
        pairwise_judge(model)


@needs_trl
@pytest.mark.slow
def test_online_dpo_trains_with_the_judge(model: PreferenceModel, policy: Path, tmp_path: Path) -> None:
    judges()
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    asked: list[int] = []
    judge = pairwise_judge(model)
    inner = judge.judge
    judge.judge = lambda *words, **more: asked.append(len(words[0])) or inner(*words, **more)
    _trains(
        OnlineDPOTrainer, policy, judge=judge,
        args=OnlineDPOConfig(**options(tmp_path, max_new_tokens=8, per_device_train_batch_size=2)),
    )  # fmt: skip
    assert asked == [2, 2]


@needs_trl
@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo", "online_dpo"])
@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_trainers_train_with_the_reward(
    model: PreferenceModel, policy: Path, tmp_path: Path, method: str, chat: bool
) -> None:
    rewards: list[float] = []
    reward = GroupReward(model, pessimism=0.5)

    def noted(*words: Any, **more: Any) -> list[float]:
        rewards.extend(found := reward(*words, **more))
        return found

    if method == "online_dpo":
        from trl.experimental.online_dpo import OnlineDPOConfig as Config
        from trl.experimental.online_dpo import OnlineDPOTrainer as Trainer

        sizes: dict[str, Any] = {"max_new_tokens": 8, "per_device_train_batch_size": 2}
    else:
        import trl

        Config, Trainer = getattr(trl, f"{method.upper()}Config"), getattr(trl, f"{method.upper()}Trainer")
        sizes = {"max_completion_length": 8, "per_device_train_batch_size": 4, "num_generations": 4}
    _trains(Trainer, policy, reward_funcs=noted, args=Config(**options(tmp_path, **sizes)), chat=chat)
    assert len(rewards) == 8
    assert np.isfinite(rewards).all()
    assert max(rewards) <= 1


@pytest.fixture
def labelled_pool(tmp_path: Path, chat: bool) -> Path:
    """A project with a round that labelled a pool: three responses to each of eight prompts, a tie, an audit."""
    prompts = [f"{PROMPTS[n % 2]} again {n}" for n in range(8)]
    turns = [[{"role": "user", "content": text}] for text in prompts]
    if chat:
        turns[3] = [*turns[3], {"role": "assistant", "content": RESPONSES[3]}, *turns[2]]
    texts = [f"{text} for {n}" for n in range(8) for text in RESPONSES[:3]]
    pairs = [(3 * n + i, 3 * n + j, n) for n in range(8) for i, j in ((0, 1), (0, 2), (2, 1))]
    response_a, response_b, prompt = (list(column) for column in zip(*pairs, strict=True))
    pool, names = tmp_path / "data" / "pool", [f"pair {n}" for n in range(len(pairs))]
    write_table(pool / "prompts.parquet", {"messages": [json.dumps(some) for some in turns]})
    write_table(pool / "responses.parquet", {"text": texts})
    write_table(
        pool / "pairs.parquet",
        {"pair_id": names, "prompt": prompt, "response_a": response_a, "response_b": response_b},
    )
    label, audit = np.ones(len(pairs)), np.full(len(pairs), np.nan)
    label[4], audit[7] = 0.5, 0.0
    write_table(
        tmp_path / "data" / "margin" / "round-2" / "pool_labels.parquet",
        {"seed": [0] * len(pairs), "pair_id": names, "pair": np.arange(len(pairs)), "label": label,
         "probability": np.full(len(pairs), 0.9), "source": ["inferred"] * len(pairs), "audit": audit},
    )  # fmt: skip
    return tmp_path


@needs_trl
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "chat", "form"),
    [("dpo", False, "file"), ("dpo", True, "file"), ("dpo", False, "folder"), ("reward", False, "file"),
     ("kto", False, "file")],
)  # fmt: skip
def test_trainers_train_with_an_exported_pool(
    kind: str, chat: bool, form: str, labelled_pool: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl
    from datasets import load_dataset

    monkeypatch.setattr("bgpm.apply.remarks", lambda *_: [])  # what is certified needs a whole arm
    file, cache = labelled_pool / "out.jsonl", str(labelled_pool / "cache")
    cli.main(["export", "--pool", "data/margin", "--root", str(labelled_pool), "--format", kind, "--out", str(file)])
    if form == "file":
        data = load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
    else:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        folder = labelled_pool / "set"
        write_dataset(folder, rows, "dpo", Origin("the pool", [], [], [], machine=True))
        data = load_dataset(str(folder), split="train", cache_dir=cache)
    if kind != "kto":
        assert len(data) == 23  # 24 pairs, one of them a tie
        audited = data.filter(lambda row: "again 2" in str(row["prompt"]))[1]
        assert f"{RESPONSES[0]} for 2" in str(audited["rejected"])  # the audit's label, not the model's
    if kind == "kto":
        from trl.experimental.kto import KTOConfig as Config
        from trl.experimental.kto import KTOTrainer as Trainer
    else:
        name = {"dpo": "DPO", "reward": "Reward"}[kind]
        Config, Trainer = getattr(trl, f"{name}Config"), getattr(trl, f"{name}Trainer")
    sizes = {"max_length": 256, "per_device_train_batch_size": 4}
    args = Config(**options(labelled_pool, **sizes))
    _trains(Trainer, policy, data=data, labels=int(kind == "reward"), args=args)


def _trains(trainer: Any, policy: Path, *, chat: bool = False, data: Any = None, labels: int = 0, **more: Any) -> None:
    """Two steps of a trainer change the policy, or a model with this many labels on top."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    asked = [[{"role": "user", "content": text}] for text in PROMPTS] if chat else PROMPTS
    model = (
        AutoModelForSequenceClassification.from_pretrained(policy, dtype=torch.float32, num_labels=labels)
        if labels
        else AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    )
    before = [p.detach().clone() for p in model.parameters()]
    run = trainer(
        model=model, processing_class=AutoTokenizer.from_pretrained(policy), **more,
        train_dataset=data or Dataset.from_list([{"prompt": prompt} for prompt in asked] * 4),
    )  # fmt: skip
    run.train()
    assert run.state.global_step == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, run.model.cpu().parameters(), strict=True))
