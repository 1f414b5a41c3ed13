"""People label a pool by script, over the store alone, until audits certify it: the stages as DVC runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, tiny_pool, with_changes, write_jsonl
from datasets import load_dataset
from huggingface_hub import DatasetCard

from bgpm import cli
from bgpm.annotate.batches import PoolTexts, waiting
from bgpm.annotate.desk import Desk
from bgpm.annotate.overview import overview
from bgpm.annotations.store import LabelStore
from bgpm.config import check
from bgpm.data.tables import read_table
from bgpm.errors import ConfigError, LabelsPendingError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import read_arm
from bgpm.evaluation.certificate import certificate
from bgpm.oracles.human import Human
from bgpm.stage import read_params
from stages import baselines, evaluate, fork, label, plan, prepare, report, score, select, start, train
from stages import check as check_stage

GOOD = ("clear", "useful", "kind", "exact", "helpful")
ROUNDS = 7


def goodness(text: str) -> int:
    return sum(word in GOOD for word in text.split())


class Campaign:
    """A pool whose prompts have four responses, made-up features that half know the good ones, and people."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root = root
        shutil.copytree(ROOT / "stages", root / "stages")
        write_jsonl(root / "pool.jsonl", [{k: v for k, v in row.items() if k != "label"} for row in tiny_pool(60)])
        (root / "benchmark.jsonl").write_text("\n", encoding="utf-8")
        self.params = with_changes(
            read_params(ROOT / "params.yaml"),
            goal="pool",
            oracle="human",
            acquisition="auto",
            baseline="auto",
            seeds=[0],
            rounds=[{"k": k, "next": k + 1} for k in range(ROUNDS)],
            batch_size=0.08,
            start__labels=0.08,
            pool__path="pool.jsonl",
            pool__heldout=0.0,
            benchmark__path="benchmark.jsonl",
            benchmark__kind="none",  # as `bgpm init` has it
            model="bt",
            posteriors__laplace__response_variance=1.0,
            audit={"size": 100, "target": 0.9, "alpha": 0.05, "looks": ROUNDS + 1, "begin": 0.0},
            report__resamples=100,
        )
        with_changes(self.params, **changes)
        (root / "params.yaml").write_text(yaml.safe_dump(self.params), encoding="utf-8")
        (root / "data/annotations/heldout").mkdir(parents=True)
        shutil.copy(ROOT / "data/annotations/judge.txt", root / "data/annotations")
        self.asked: list[list[str]] = []

    def prepare(self) -> None:
        check_stage.main()
        prepare.main()
        rng = np.random.default_rng(0)
        for name in ("pool", "benchmark"):
            texts = read_table(self.root / f"data/{name}/responses.parquet", ["text"])["text"]
            features = rng.normal(0, 1, (len(texts), 6)).astype(np.float32)
            features[:, 0] += [goodness(text) for text in texts]
            folder = self.root / f"data/features/{name}"
            folder.mkdir(parents=True)
            np.save(folder / "responses.npy", features)
            np.save(folder / "prompts.npy", np.zeros((len(texts), 6), np.float32))
            (folder / "reads.json").write_text("{}", encoding="utf-8")
        plan.main()
        start.main()
        pool = read_table(self.root / "data/pool/pairs.parquet")
        text = read_table(self.root / "data/pool/responses.parquet", ["text"])["text"]
        better = [
            goodness(text[a]) > goodness(text[b]) for a, b in zip(pool["response_a"], pool["response_b"], strict=True)
        ]
        self.truth = dict(zip(pool["pair_id"], np.array(better, float).tolist(), strict=True))

    def label(self, arm: str, k: int = 0) -> None:
        """The stage stops, people answer what it left for the page, and it goes on."""
        with pytest.raises(LabelsPendingError):
            label.main(arm, str(k))
        desk = self.desk()
        (batch,) = desk.batches()
        asked = desk.open_pairs(batch)
        self.asked.append(asked)
        path = self.root / f"data/annotations/{arm}-{k}.jsonl"
        write_jsonl(path, [{"pair_id": p, "label": self.truth[p], "annotator": "ada"} for p in asked])
        label.main(arm, str(k))

    def first_model(self) -> None:
        self.label("start")
        train.main("start")
        evaluate.main("start")
        fork.main("auto")

    def round(self, k: int) -> None:
        score.main("auto", str(k))
        select.main("auto", str(k))
        self.label("auto", k)
        train.main("auto", str(k + 1))
        evaluate.main("auto", str(k + 1))

    def bound(self, k: int) -> float:
        arm = read_arm("auto", self.root / f"data/auto/round-{k}")
        found = certificate(arm, AuditSettings(**self.params["audit"]), self.params["audit"]["looks"])
        assert found is not None
        return float(found.bound[0, -1])

    def desk(self) -> Desk:
        store = LabelStore(Path("data/annotations/p.jsonl"))
        return Desk(PoolTexts(Path("data/pool")), lambda: waiting(self.params), store, Human)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A campaign that ran until its target was certified, and how many rounds that took."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("campaign")
        patch.chdir(root)
        made = Campaign(root)
        made.prepare()
        made.first_model()
        k = 0
        while made.bound(k) < 0.9 and k < ROUNDS:
            made.round(k)
            k += 1
        yield made, k


def test_a_batch_that_waits_takes_the_notes_of_later_ones_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier run stopped at them; nobody is to label pairs that will be chosen anew."""
    monkeypatch.chdir(tmp_path)
    made = Campaign(tmp_path)
    made.prepare()
    made.first_model()
    notes = {k: tmp_path / f"data/auto/round-{k}/waiting.json" for k in (3, 12)}
    for note in notes.values():
        note.parent.mkdir(parents=True)
        note.write_text("{}", encoding="utf-8")
    score.main("auto", "0")
    select.main("auto", "0")
    with pytest.raises(LabelsPendingError):
        label.main("auto", "0")
    assert not any(note.exists() for note in notes.values())
    assert (tmp_path / "data/auto/round-0/waiting.json").exists()
    notes[3].write_text("{}", encoding="utf-8")
    with pytest.raises(LabelsPendingError):
        label.main("auto", "0")
    assert not notes[3].exists()


def read(name: str, k: int) -> dict[str, np.ndarray]:
    return read_table(Path(f"data/auto/round-{k}/{name}.parquet"))


def test_a_campaign_stops_when_the_target_is_certified_and_the_labels_are_as_good_as_it_says(campaign: Any) -> None:
    made, last = campaign
    assert 0 < last < ROUNDS
    assert made.bound(last - 1) < 0.9 <= made.bound(last)
    labels = read("pool_labels", last)
    right = labels["label"] == [made.truth[name] for name in labels["pair_id"]]
    assert 0.9 <= made.bound(last) <= right.mean()
    spent = len(read("labels", last)["pair"]) + len(read("audits", last)["pair"])
    assert spent < len(labels["pair"])


def test_audits_train_nothing_and_are_of_inferred_pairs_of_lowest_priority(campaign: Any) -> None:
    _, last = campaign
    for k in range(last + 1):
        known, audits, whole = (read(name, k) for name in ("labels", "audits", "pool_labels"))
        assert not np.isin(audits["pair"], known["pair"]).any()
        assert len(audits["pair"]) == 100
        source = dict(zip(whole["pair"].tolist(), whole["source"], strict=True))
        assert {source[pair] for pair in audits["pair"].tolist()} == {"audit"}
        assert set(audits["source"]) == {"audit"}
        model = json.loads(Path(f"data/auto/round-{k}/model/summary.json").read_text(encoding="utf-8"))
        assert model["seed-0"]["labels"] == len(known["pair"])


def test_an_audited_pair_that_is_chosen_becomes_a_label_and_is_not_asked_again(campaign: Any) -> None:
    made, last = campaign
    chosen = 0
    for k in range(last):
        before, after = read("audits", k), read("labels", k + 1)
        new = after["pair_id"][after["round"] == k + 1]
        acquired = np.isin(new, before["pair_id"])
        chosen += int(acquired.sum())
        assert not set(new[acquired]) & set(made.asked[k + 1])
    assert chosen
    everything = [pair for asked in made.asked for pair in asked]
    assert len(set(everything)) == len(everything)


def test_the_batch_is_not_asked_before_its_audits(campaign: Any) -> None:
    made, _ = campaign
    batch = set(read_table(Path("data/start/batch.parquet"))["pair_id"])
    of_batch = np.array([pair in batch for pair in made.asked[0]])
    place = np.flatnonzero(of_batch)
    assert of_batch.sum() == len(batch)
    # Uniform places: their mean is the middle, within four standard errors.
    n, k = len(of_batch), len(place)
    assert abs(place.mean() - (n - 1) / 2) < 4 * np.sqrt((n + 1) * (n - k) / (12 * k))


def test_new_answers_leave_earlier_rounds_as_they_were(campaign: Any) -> None:
    _, last = campaign
    for arm, k, there in (("start", 0, "start"), ("auto", 0, "auto/round-1")):
        assert last >= 1
        files = [Path(f"data/{there}/{name}.parquet") for name in ("labels", "audits")]
        before = [file.read_bytes() for file in files]
        label.main(arm, str(k))
        assert [file.read_bytes() for file in files] == before
    assert not list(Path("data").rglob("asked.parquet"))


def test_a_late_annotation_changes_no_round_that_has_its_labels(campaign: Any) -> None:
    made, _ = campaign
    pair, file = made.asked[1][0], Path("data/auto/round-1/labels.parquet")
    frozen = file.with_name("annotations.jsonl")
    before, kept = file.read_bytes(), frozen.read_bytes()
    assert {json.loads(line)["pair_id"] for line in kept.decode().splitlines()} >= set(made.asked[1])
    late = write_jsonl(Path("data/annotations/late.jsonl"), [{"pair_id": pair, "label": 0.25, "annotator": "bo"}])
    try:
        label.main("auto", "0")
        assert (file.read_bytes(), frozen.read_bytes()) == (before, kept)
        frozen.unlink()  # who wants the late one says so
        label.main("auto", "0")
        labels = read_table(file)
        assert labels["annotators"][labels["pair_id"] == pair].tolist() in ([2], [])  # [] where it was an audit
        assert frozen.read_bytes() != kept
    finally:
        late.unlink()
        frozen.write_bytes(kept)
        label.main("auto", "0")
    assert file.read_bytes() == before


def test_the_rounds_say_what_auto_stood_for(campaign: Any) -> None:
    assert set(read_table(Path("data/auto/round-0/scores.parquet"))["acquisition"]) == {"margin"}


def test_page_and_report_say_stop_and_the_models_prize_is_not_measured(campaign: Any) -> None:
    made, last = campaign
    page = overview(made.desk(), made.params)
    assert "Stop here: 90.0% is certified" in page
    assert "Not measured: no prompt is held out" in page
    params = made.params | {"rounds": made.params["rounds"][:last]}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    baselines.main()
    report.main()
    Path("params.yaml").write_text(yaml.safe_dump(made.params), encoding="utf-8")
    text = Path("reports/label_efficiency.md").read_text(encoding="utf-8")
    assert "Stop here: 90.0% is certified" in text
    assert "**Not measured: no held-out pair has a label" in text
    assert "auto stands for margin, as the goal (pool) has it." in text
    assert "under auto (margin)" in text
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    assert metrics["pool_certified"] == pytest.approx(made.bound(last), abs=1e-6)
    assert metrics["final_accuracy"] is metrics["aulc"] is None
    html = Path("reports/index.html").read_text(encoding="utf-8")
    assert "stop here" in html


@pytest.mark.parametrize("kind", ["dpo", "reward", "kto"])
def test_the_labelled_pool_is_exported_with_its_sources_and_its_bound(
    campaign: Any, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made, last = campaign
    cli.main(["export", "--pool", "data/auto", "--format", kind, "--out", "out.jsonl"])
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    said = capsys.readouterr().err
    whole, known = read("pool_labels", last), read("labels", last)
    assert f"{len(whole['pair'])} of {len(whole['pair'])} pairs ({len(known['pair'])} acquired, 100 audit" in said
    assert f"at least {100 * made.bound(last):.1f}% of the labels" in said
    if kind == "kto":
        assert {type(row["label"]) for row in rows} == {bool}
        better = [goodness(row["completion"]) for row in rows if row["label"]]
        assert np.mean(better) > np.mean([goodness(row["completion"]) for row in rows if not row["label"]])
        return
    assert len(rows) == len(whole["pair"])
    right = np.array([goodness(row["chosen"]) > goodness(row["rejected"]) for row in rows])
    audited = np.isin(whole["pair_id"], read("audits", last)["pair_id"])
    model = np.array(whole["label"]) == [made.truth[name] for name in whole["pair_id"]]
    assert right.sum() == (model | audited).sum()  # an audit's own label is exported, and here it is right
    assert all("probability" in row for row in rows) == (kind == "dpo")


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_the_same_rows_as_a_data_set_with_a_card(
    campaign: Any, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made, last = campaign
    command = ["export", "--pool", "data/auto", "--format", kind, "--min-probability", "0.8"]
    cli.main(command)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cli.main([*command, "--dataset", str(tmp_path / "set")])
    data = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert data.to_list() == rows
    whole, known, audits = (read(name, last) for name in ("pool_labels", "labels", "audits"))
    card = DatasetCard.load(tmp_path / "set/README.md")
    assert card.data.to_dict()["annotations_creators"] == ["machine-generated"]
    inferred = len(whole["pair"]) - len(known["pair"]) - 100
    sure = (np.maximum(whole["probability"], 1 - whole["probability"]) >= 0.8)[whole["source"] == "inferred"].sum()
    assert f"| acquired | {len(known['pair'])} | {len(known['pair'])} | people |" in card.text
    assert f"| audit | 100 | 100 | people |\n| inferred | {sure} | {inferred} |" in card.text
    wrong = (audits["label"] != whole["label"][audits["pair"]]).sum()
    assert f"{100 - wrong} of them ({1 - wrong / 100:.1%}) had been inferred right" in card.text
    assert f"at least {100 * made.bound(last):.1f}% of the labels of the whole pool are right" in card.text
    assert f"Labels it was trained on: {len(known['pair'])}, from the oracle `human`" in card.text
    assert all(f"| `{column}` | " in card.text for column in rows[0])


def test_an_export_may_be_sure_and_of_one_pair_a_prompt(campaign: Any) -> None:
    cli.main(["export", "--pool", "data/auto", "--format", "dpo", "--min-probability", "0.9", "--out", "sure.jsonl"])
    rows = [json.loads(line) for line in Path("sure.jsonl").read_text(encoding="utf-8").splitlines()]
    assert min(row["probability"] for row in rows) >= 0.9
    cli.main(["export", "--pool", "data/auto", "--format", "dpo", "--one-per-prompt", "--out", "one.jsonl"])
    one = [json.loads(line)["prompt"] for line in Path("one.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(set(one)) == len(one) == 60


def test_too_few_audits_are_refused_before_anybody_is_asked(campaign: Any) -> None:
    made, _ = campaign
    try:
        for size, wrong in ((5, True), (100, False)):
            params = made.params | {"audit": made.params["audit"] | {"size": size}}
            Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
            if not wrong:
                plan.main()
                continue
            with pytest.raises(ConfigError, match=r"audit.size: 5 audits never certify 90% .* set it to (\d+) or more"):
                plan.main()
    finally:
        Path("params.yaml").write_text(yaml.safe_dump(made.params), encoding="utf-8")


def test_a_goal_without_anything_to_measure_with_is_refused(campaign: Any) -> None:
    made, _ = campaign
    for change, message in (
        ({"audit": made.params["audit"] | {"size": 0}}, "audit.size: 0 leaves goal pool without labels"),
        ({"goal": "model"}, "pool.heldout is 0"),
        ({"audit": made.params["audit"] | {"looks": 3}}, f"audit.looks: 3 bounds are planned, and {ROUNDS} rounds"),
    ):
        with pytest.raises(ConfigError) as refused:
            check(made.params | change)
        assert message in str(refused.value)


@pytest.mark.slow
def test_where_labels_are_recorded_the_same_stages_audit_both_arms_and_measure_both_prizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = Campaign(
        tmp_path, oracle="recorded", goal="model", acquisition="entropy", baseline="random", pool__heldout=0.3
    )
    made.params["rounds"] = made.params["rounds"][:1]
    made.params["audit"] = {"size": 50, "target": 0.9, "alpha": 0.05, "looks": None, "begin": 0.5}
    Path("params.yaml").write_text(yaml.safe_dump(made.params), encoding="utf-8")
    write_jsonl(Path("pool.jsonl"), tiny_pool(60))
    made.prepare()
    label.main("start")
    assert len(read_table(Path("data/start/audits.parquet"))["pair"]) == 0  # no model expects anything yet
    train.main("start")
    evaluate.main("start")
    for arm in ("entropy", "random"):
        fork.main(arm)
        score.main(arm, "0")
        select.main(arm, "0")
        label.main(arm, "0")
        train.main(arm, "1")
        evaluate.main(arm, "1")
        audits = read_table(Path(f"data/{arm}/round-1/audits.parquet"))
        assert audits["label"].tolist() == [made.truth[name] for name in audits["pair_id"]]
        assert len(audits["pair"]) == 50
    baselines.main()
    report.main()
    found = json.loads(Path("reports/label_efficiency.json").read_text(encoding="utf-8"))
    assert set(found["pool"]["certified"]) == set(found["pool"]["right"]) == {"entropy", "random"}
    for arm in ("entropy", "random"):
        assert all(b <= r for b, r in zip(found["pool"]["certified"][arm], found["pool"]["right"][arm], strict=True))
    assert found["heldout"]["pairs"] > 0
