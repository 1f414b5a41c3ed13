"""The result in use: a trained model compares answers as the pipeline does, from the texts alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, write_jsonl
from safetensors.numpy import load_file
from tasks import FAST

from bgpm import functional as F
from bgpm import inference as module
from bgpm.backbones import BackboneSettings
from bgpm.cli import main
from bgpm.data.tables import as_pairs, read_table, where
from bgpm.errors import DataError, StateError
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.inference import Matrix, PreferenceModel, ResponseSet, ranking
from bgpm.loop.pool import read_features, read_pool
from bgpm.loop.train import train
from bgpm.models import Model
from bgpm.models.gpm import Gpm
from bgpm.models.pair_mlp import PairMlp
from bgpm.posteriors import Posterior, load
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.laplace import Laplace
from bgpm.stage import features_dir
from bgpm.training import Task, TrainingSettings
from bgpm.training.run import run

FOLDER = "data/entropy/round-1/model"
PROMPT = "tell me about the clock"
RESPONSES = [
    "clock clear useful kind",
    "clock vague rude",
    "clock clear rude exact",
    "clock wrong broken useless vague",
]


@pytest.fixture(scope="module")
def model(finished_project: Project) -> PreferenceModel:
    return PreferenceModel.load(FOLDER, root=finished_project.folder)


def saved(project: Project, folder: Path, head: Model, posterior: Posterior) -> Path:
    """A model folder with seed 0 of another model, fitted on the labels of the last round."""
    own = folder / "seed-0" / "features" / "pool"
    pool = read_pool(project.folder / "data/pool", own if own.is_dir() else project.folder / "data/features/pool")
    labels = read_table(project.folder / FOLDER / "../labels.parquet")
    train(posterior, head, pool, where(labels, labels["seed"] == 0), seed=0).save(folder / "seed-0")
    return folder


def check_against_pool(project: Project, folder: Path, model: PreferenceModel, prompts: int = 5) -> None:
    """Matrices from the texts of the pool hold what the saved head says of the pool's stored features."""
    pool, root = project.folder / "data/pool", project.folder
    pairs = as_pairs(read_table(pool / "pairs.parquet"))
    features = features_dir(folder, 0, "pool")
    moments = load(folder / "seed-0").moments(read_features(root / features), pairs)
    tau, mean, variance = moments.tau, moments.mean.numpy(), moments.variance.numpy()
    p = F.expected_probability(moments.mean, moments.variance, tau).numpy()
    responses = read_table(pool / "responses.parquet")
    messages = read_table(pool / "prompts.parquet")["messages"]
    assert np.abs(mean).max() > 0.01
    compared = 0
    for prompt in range(prompts):
        rows = np.flatnonzero(responses["prompt"] == prompt)
        at = {row: n for n, row in enumerate(rows)}
        got = model.matrix(json.loads(messages[prompt]), list(responses["text"][rows]))
        for n in np.flatnonzero(pairs.prompt == prompt):
            i, j = at[pairs.response_a[n]], at[pairs.response_b[n]]
            expected = mean[n] / tau, variance[n] / tau**2, p[n]
            np.testing.assert_allclose([whole[i, j] for whole in got], expected, rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared >= 3 * prompts


def test_a_matrix_says_of_the_pools_pairs_what_the_pipeline_says(
    finished_project: Project, model: PreferenceModel
) -> None:
    check_against_pool(finished_project, finished_project.folder / FOLDER, model, prompts=24)


@pytest.mark.parametrize(
    ("head", "posterior"),
    [
        (PairMlp(hidden=8), Laplace(prior_precision=1.0)),
        (Gpm(dim=4, bt_block=False, prompt_gates=True), Amortized(steps=20)),  # reads prompts; its tau is not 1
    ],
    ids=["pair_mlp", "gates"],
)
def test_models_that_read_both_answers_or_the_prompt_say_so_too(
    finished_project: Project, tmp_path: Path, head: Model, posterior: Posterior
) -> None:
    folder = saved(finished_project, tmp_path / "model", head, posterior)
    model = PreferenceModel.load(folder, root=finished_project.folder)
    assert model.reads_prompt == isinstance(head, Gpm)
    check_against_pool(finished_project, folder, model)


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trained_backbone_is_the_one_that_reads(finished_project: Project, tmp_path: Path, mode: Any) -> None:
    root, folder = finished_project.folder, tmp_path / "model"
    task = Task(
        name="t", labels=str(root / FOLDER / "../labels.parquet"), seed=0, out=str(folder / "seed-0"),
        pool=str(root / "data/pool"), benchmark=str(root / "data/benchmark"), features=str(root / "data/features/pool"),
        side=str(tmp_path / "side"), model=Gpm().model_dump(), posterior=Laplace().model_dump(),
        training=TrainingSettings.model_validate({**FAST, "mode": mode, "steps": 4, "learning_rate": 1e-2}),
        backbone=BackboneSettings(path=str(root / "tiny/backbone")), reduction=FeatureSettings(pca=16),
    )  # fmt: skip
    run("train", task)
    run("embed", task)
    saved(finished_project, folder, Gpm(), Laplace(prior_precision=1.0))
    stored = [np.load(f / "responses.npy") for f in (folder / "seed-0/features/pool", root / "data/features/pool")]
    assert np.abs(stored[0] - stored[1]).max() > 0.1
    check_against_pool(finished_project, folder, PreferenceModel.load(folder, root=root))


def test_a_matrix_is_antisymmetric_to_the_bit_and_equal_answers_tie(model: PreferenceModel) -> None:
    mean, variance, p = model.matrix(PROMPT, [*RESPONSES, RESPONSES[1]])
    assert np.array_equal(mean, -mean.T)
    assert np.array_equal(variance, variance.T)
    assert np.array_equal(p + p.T, np.ones((5, 5)))
    assert np.abs(mean[0, 1:]).min() > 0
    assert (mean[1, 4], variance[1, 4], p[1, 4]) == (0, 0, 0.5)
    assert np.array_equal(mean[1], mean[4])
    turned = model.matrix(PROMPT, RESPONSES[::-1]).mean
    np.testing.assert_allclose(turned[::-1, ::-1], mean[:4, :4], atol=1e-5)


def test_each_distinct_answer_is_embedded_once(
    finished_project: Project, model: PreferenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def counted(backbone: Any, texts: Any, out: Any, **options: Any) -> Any:
        seen.extend(texts)
        return embed(backbone, texts, out, **options)

    embed = module.embed
    monkeypatch.setattr(module, "embed", counted)
    model.matrix(PROMPT, [*RESPONSES, RESPONSES[1]])
    assert len(seen) == 4
    seen.clear()
    rows = [{"prompt": q, "responses": RESPONSES[s]} for q in (PROMPT, "why") for s in (slice(3), slice(1, 4))]
    rank(finished_project, write_jsonl(tmp_path / "f.jsonl", rows), tmp_path / "out.jsonl")
    assert len(seen) == 1 + 2 * 4  # the first is how `load` recognises the backbone


def test_the_order_is_bordas_and_the_winner_condorcets() -> None:
    p = np.array([[0.5, 0.6, 0.6, 0.6], [0.4, 0.5, 0.9, 0.9], [0.4, 0.1, 0.5, 0.5], [0.4, 0.1, 0.5, 0.5]])
    found = ranking(Matrix(np.log(p / (1 - p)), np.zeros((4, 4)), p))
    assert found.order == [1, 0, 2, 3]  # equal answers in the order given
    np.testing.assert_allclose(found.borda, [1.8 / 3, 2.2 / 3, 1.0 / 3, 1.0 / 3])
    assert found.winner == 0
    cycle = np.array([[0.5, 0.8, 0.3], [0.2, 0.5, 0.8], [0.7, 0.2, 0.5]])
    assert ranking(Matrix(cycle - 0.5, np.zeros((3, 3)), cycle)).winner is None


def test_rank_and_best_of_n_agree_with_the_matrix(model: PreferenceModel) -> None:
    p = model.matrix(PROMPT, RESPONSES).probability
    borda = [np.mean([p[i, j] for j in range(4) if j != i]) for i in range(4)]
    found = model.rank(PROMPT, RESPONSES)
    np.testing.assert_allclose(found.borda, borda, atol=1e-6)
    assert found.order == sorted(range(4), key=lambda i: -borda[i])
    assert model.best_of_n(PROMPT, RESPONSES) == int(np.argmax(borda))
    assert model.embed(PROMPT, RESPONSES[:2]).responses.shape == (2, 16)


def apply(project: Project, command: str, file: Path, *more: str | Path) -> None:
    main([command, str(file), "--model", FOLDER, "--root", str(project.folder), *map(str, more)])


def rank(project: Project, file: Path, out: Path) -> list[dict[str, Any]]:
    apply(project, "rank", file, "--out", out)
    return lines(out.read_text(encoding="utf-8"))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_score_reads_every_shape_of_a_pair(
    finished_project: Project, model: PreferenceModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question, (a, b, *_) = {"role": "user", "content": PROMPT}, RESPONSES
    rows = [
        {"prompt": PROMPT, "response_a": a, "response_b": b, "id": "é"},
        {"prompt": PROMPT, "chosen": b, "rejected": a},
        {name: [question, {"role": "assistant", "content": text}] for name, text in (("chosen", a), ("rejected", b))},
        {"prompt": PROMPT, "response_a": a, "response_b": a},
    ]
    apply(finished_project, "score", write_jsonl(tmp_path / "f.jsonl", rows))
    *got, same = lines(capsys.readouterr().out)
    assert [same[name] for name in ("probability", "score_mean", "score_sd")] == [0.5, 0, 0]
    mean, variance, p = (whole[0, 1] for whole in model.matrix(PROMPT, [a, b]))
    for row, before, sign in zip(got, rows[:3], (1, -1, 1), strict=True):
        assert {name: row[name] for name in before} == before
        numbers = [row["score_mean"], row["score_sd"], row["probability"]]
        np.testing.assert_allclose(numbers, [sign * mean, variance**0.5, p if sign > 0 else 1 - p], atol=1e-5)


def test_rank_adds_order_borda_and_winner(finished_project: Project, model: PreferenceModel, tmp_path: Path) -> None:
    rows = [{"prompt": PROMPT, "responses": RESPONSES, "note": 1}, {"prompt": "why", "responses": RESPONSES[:2]}]
    got = rank(finished_project, write_jsonl(tmp_path / "f.jsonl", rows), tmp_path / "out.jsonl")
    for row, before in zip(got, rows, strict=True):
        expected = model.rank(before["prompt"], before["responses"])
        assert list(row) == [*before, "order", "borda", "winner"]
        assert (row["order"], row["winner"]) == (expected.order, expected.winner)
        np.testing.assert_allclose(row["borda"], expected.borda, atol=1e-6)


def test_labels_that_an_export_does_not_read_are_said(
    finished_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"prompt": PROMPT, "response_a": RESPONSES[0], "response_b": RESPONSES[1]}
    texts = write_jsonl(tmp_path / "f.jsonl", [pair | {"label": 1}, pair])
    apply(finished_project, "export", texts, "--format", "dpo")
    assert "1 rows have a label of their own, which is not read" in capsys.readouterr().err


def test_export_is_trls_preference_format(
    finished_project: Project, model: PreferenceModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_jsonl(tmp_path / "f.jsonl", [{"prompt": PROMPT, "responses": RESPONSES}])
    order, p = model.rank(PROMPT, RESPONSES).order, model.matrix(PROMPT, RESPONSES).probability
    apply(finished_project, "export", texts, "--format", "dpo")
    best = {"prompt": PROMPT, "chosen": RESPONSES[order[0]], "rejected": RESPONSES[order[-1]]}
    (row,) = lines(capsys.readouterr().out)
    assert row.pop("probability") == pytest.approx(p[order[0], order[-1]], abs=1e-5)
    assert row == best

    least = float(np.median(p[p > 0.5]))
    apply(finished_project, "export", texts, "--format", "dpo", "--pairs", "all", "--min-probability", str(least))
    said = capsys.readouterr()
    got = {(RESPONSES.index(row["chosen"]), RESPONSES.index(row["rejected"])) for row in lines(said.out)}
    strict = {(int(i), int(j)) for i, j in np.argwhere(p > least + 1e-5)}
    assert strict <= got <= {(int(i), int(j)) for i, j in np.argwhere(p > least - 1e-5)}
    assert 0 < len(got) < 6
    for row in lines(said.out):
        expected = p[RESPONSES.index(row["chosen"]), RESPONSES.index(row["rejected"])]
        assert row["probability"] == pytest.approx(expected, abs=1e-5)
    assert f"{6 - len(got)} of 6 pairs left out" in said.err

    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": PROMPT}]
    rows = [{"prompt": chat, "responses": RESPONSES[:2]}, {"prompt": PROMPT, "responses": RESPONSES}]
    apply(finished_project, "export", write_jsonl(tmp_path / "g.jsonl", rows), "--format", "dpo")
    first, second = lines(capsys.readouterr().out)
    assert 0.5 < first["probability"] <= 1
    assert second.pop("probability") == pytest.approx(p[order[0], order[-1]], abs=1e-5)
    assert first["prompt"] == chat
    assert {first["chosen"][0]["content"], first["rejected"][0]["content"]} == set(RESPONSES[:2])
    assert second == {
        "prompt": [chat[1]],
        "chosen": [{"role": "assistant", "content": best["chosen"]}],
        "rejected": [{"role": "assistant", "content": best["rejected"]}],
    }


@pytest.mark.parametrize(
    ("command", "row", "message"),
    [
        ("score", {"prompt": "why", "response_a": "x"}, "expected columns"),
        ("score", {"prompt": "why", "responses": ["x", "y", "z"]}, "3 responses: expected a pair; use `bgpm rank`"),
        ("score", {"prompt": "why", "response_a": "x", "response_b": "y", "n": "\ud800"}, "not valid Unicode"),
        ("rank", {"prompt": " ", "responses": ["x", "y"]}, "the prompt is empty"),
        ("rank", {"prompt": "why", "responses": []}, "the list is empty"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line_and_nothing_is_written(
    finished_project: Project, tmp_path: Path, command: str, row: dict[str, Any], message: str
) -> None:
    good = {"prompt": "why", "response_a": "x", "response_b": "y"}
    file, out = write_jsonl(tmp_path / "f.jsonl", [good, row]), tmp_path / "out.jsonl"
    out.write_text("before", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        apply(finished_project, command, file, "--out", out)
    assert str(stop.value).startswith(f"error: {file}:2: ")
    assert message in str(stop.value)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["f.jsonl", "out.jsonl"]
    assert out.read_text(encoding="utf-8") == "before"


def test_options_and_files_that_cannot_be_are_one_line(finished_project: Project, tmp_path: Path) -> None:
    file, empty = (
        write_jsonl(tmp_path / "f.jsonl", [{"prompt": "why", "responses": ["x", "y"]}]),
        write_jsonl(tmp_path / "e.jsonl", []),
    )
    for file_, more, message in (
        (file, ["--format", "dpo", "--min-probability", "0.2"], "--min-probability: expected"),
        (file, ["--format", "dpo", "--out", str(tmp_path)], "is a folder"),
        (tmp_path / "none.jsonl", ["--format", "dpo"], "none.jsonl: no such file"),
        (empty, ["--format", "dpo"], "no row in it"),
        (file, ["--format", "dpo", "--seed", "7"], "no seed 7; it has 0, 1"),
    ):
        with pytest.raises(SystemExit, match=message):
            apply(finished_project, "export", file_, *more)


def test_one_response_wins_equal_ones_tie_and_blank_ones_are_ranked_and_counted(
    finished_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "why", "responses": some} for some in (["x"], ["y", "y"], ["", "\u200b", "z"])]
    one, equal, blank = rank(finished_project, write_jsonl(tmp_path / "f.jsonl", rows), tmp_path / "out.jsonl")
    assert (one["order"], one["borda"], one["winner"]) == ([0], [0.5], 0)
    assert (equal["borda"], equal["winner"]) == ([0.5, 0.5], None)
    assert sorted(blank["order"]) == [0, 1, 2]
    assert "row with a blank response, kept: 1, first at" in capsys.readouterr().err


def test_label_split_and_margin_are_not_looked_at(
    finished_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"prompt": PROMPT, "response_a": RESPONSES[0], "response_b": RESPONSES[1]}
    rows = [pair, pair | {"label": "left", "split": "test", "margin": -0.5}]
    apply(finished_project, "score", write_jsonl(tmp_path / "f.jsonl", rows))
    plain, odd = lines(capsys.readouterr().out)
    assert odd == rows[1] | {name: plain[name] for name in ("probability", "score_mean", "score_sd")}


def test_export_gives_tool_turns_back_as_they_came(
    finished_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    prompt = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "by hand", "tool_call_id": "c1"},
    ]
    responses = [[{"role": "assistant", "content": "x", "tool_calls": [call]}], RESPONSES[0]]
    tools = [{"type": "function", "function": {"name": "find"}}]
    rows = [{"prompt": prompt, "responses": responses, "tools": tools}]
    apply(finished_project, "export", write_jsonl(tmp_path / "f.jsonl", rows), "--format", "dpo")
    (row,) = lines(capsys.readouterr().out)
    assert (row["prompt"], row["tools"]) == (prompt, tools)
    plain = [{"role": "assistant", "content": RESPONSES[0]}]
    assert sorted([row["chosen"], row["rejected"]], key=str) == sorted([responses[0], plain], key=str)


def test_what_cannot_be_compared_is_refused(model: PreferenceModel) -> None:
    with pytest.raises(DataError, match="response 2 of 3: not text"):
        model.rank(PROMPT, ["x", None, "y"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="no response"):
        model.embed(PROMPT, [])
    with pytest.raises(DataError, match="put it into a list"):
        model.embed(PROMPT, "one text")
    with pytest.raises(DataError, match="expected messages with role and content"):
        model.embed(["why"], RESPONSES)  # type: ignore[list-item]
    with pytest.raises(DataError, match="last turn to be the user's"):
        model.matrix([{"role": "assistant", "content": "hello"}], RESPONSES)


def test_a_conversation_that_the_chat_template_refuses_is_named(
    model: PreferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    monkeypatch.setattr(model.backbone.tokenizer, "chat_template", template + "{{ messages[0].content }}")
    choices = [
        ResponseSet(((role, "be brief"), ("user", PROMPT)), tuple(RESPONSES), f"f:{role}")
        for role in ("user", "system")
    ]
    model.embed_all(choices[:1])
    with pytest.raises(DataError, match=r"^f:system: the backbone's chat template refuses .* no system turn"):
        model.embed_all(choices)


def test_half_a_character_is_refused_as_in_files() -> None:
    for prompt, response in (("which", "\ud800 a"), ("which \ud800", "a")):
        with pytest.raises(DataError, match="half a character"):
            ResponseSet.of(prompt, [response, "b"])


def test_a_folder_that_is_no_model_is_refused(finished_project: Project) -> None:
    with pytest.raises(StateError, match=r"round-1: no model in it; it is in .*round-1/model"):
        PreferenceModel.load("data/entropy/round-1", root=finished_project.folder)


def test_a_model_of_other_features_or_of_another_backbone_is_refused(finished_project: Project, tmp_path: Path) -> None:
    import torch
    from transformers import BertModel

    project, source = Project(tmp_path / "project"), finished_project.folder
    for name in ("data/pool", "data/features", "tiny/backbone", FOLDER):
        shutil.copytree(source / name, project.folder / name)
    shutil.copy(source / "params.yaml", project.folder)
    PreferenceModel.load(FOLDER, root=project.folder)

    for change, named in (
        ({"features__states__whiten": True}, "features"),
        ({"backbone__max_tokens": 1024}, "backbone"),  # the pool may have no text that is cut
        ({"backbone__pooling": "last"}, "backbone"),
    ):
        own = (project.folder / "params.yaml").read_bytes()
        project.params(**change)
        with pytest.raises(StateError, match=f"fitted on other features than .*{named} of params.yaml give now"):
            PreferenceModel.load(FOLDER, root=project.folder)
        (project.folder / "params.yaml").write_bytes(own)
    reads = project.folder / FOLDER / "reads.json"
    known = reads.read_text(encoding="utf-8")
    reads.write_text(json.dumps(json.loads(known) | {"map": "another"}), encoding="utf-8")
    with pytest.raises(StateError, match="fitted on other features than data/features give now"):
        PreferenceModel.load(FOLDER, root=project.folder)
    reads.unlink()  # as an earlier version left it

    project.params(features__states__layers="last")
    with pytest.raises(StateError, match=r"reads 96 states; backbone and features of params.yaml give 32"):
        PreferenceModel.load(FOLDER, root=project.folder)
    project.params(features__states__layers="all", features__blocks=["states", "statistics"])
    with pytest.raises(StateError, match=r"is not a fitted reduction .*without statistics_mean, statistics_scale"):
        PreferenceModel.load(FOLDER, root=project.folder)
    project.params(features__blocks=["states"])

    reduction = project.folder / "data/features/pool/reduction.safetensors"
    whole, arrays = reduction.read_bytes(), load_file(reduction)
    settings = FeatureSettings.model_validate({"blocks": ["states"], "states": {"pca": 16}})
    Reduction(settings, {**arrays, "components": arrays["components"][:, :5]}).save(reduction)
    with pytest.raises(StateError, match="reads 16 features and the map to them gives 5"):
        PreferenceModel.load(FOLDER, root=project.folder)
    Reduction(settings, {**arrays, "rich_mean": np.zeros(21)}).save(reduction)
    with pytest.raises(StateError, match=r"has blocks that features of params.yaml do not name \(rich_mean\)"):
        PreferenceModel.load(FOLDER, root=project.folder)
    reduction.write_bytes(whole)

    other = BertModel.from_pretrained(project.folder / "tiny/backbone")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertModel(other.config).save_pretrained(project.folder / "tiny/backbone")
    with pytest.raises(StateError, match="other features of the pool's first response"):
        PreferenceModel.load(FOLDER, root=project.folder)
