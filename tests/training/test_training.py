"""Training from files to files: it learns, it repeats itself, and a killed run ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tasks import Workspace, files_of
from torch import nn

from bgpm.errors import ConfigError, NumericsError, StateError
from bgpm.features.reduction import Reduction
from bgpm.models.gpm import Gpm
from bgpm.models.pair_mlp import PairMlp
from bgpm.posteriors import load
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.laplace import Laplace
from bgpm.training import Task, TrainingSettings, drop_weights
from bgpm.training.batches import alike, evenly, held_out, order
from bgpm.training.checkpoint import restore_backbone
from bgpm.training.run import _labels, run
from bgpm.training.trainer import latest, load_trainable, trainable
from bgpm.types import Features


def trained(space: Workspace, name: str, **settings: Any) -> Path:
    """The folder that a task wrote."""
    task = space.task(name, **settings)
    run("train", task)
    run("embed", task)
    return Path(task.out)


def features(folder: Path, which: str = "pool") -> Features:
    return Features(*(np.load(folder / f"features/{which}/{name}.npy") for name in ("responses", "prompts")))


def loss_of(folder: Path, space: Workspace) -> float:
    """Mean loss of the labels under a trained head on its features, in nats."""
    data = _labels(space.task("unused"))
    moments = load(folder / "backbone/head").moments(features(folder), data.pairs)
    sign = torch.from_numpy(2 * data.label - 1)
    return torch.nn.functional.softplus(-sign * moments.mean / moments.tau).mean().item()


@pytest.fixture(scope="session")  # in folders of the session
def lora(qwen: Workspace) -> Path:
    return trained(qwen, "lora", mode="lora")


@pytest.fixture(scope="session")  # in folders of the session
def full(bert: Workspace) -> Path:
    return trained(bert, "full", mode="full", steps=6, learning_rate=1e-3)


@pytest.mark.slow
def test_adapters_learn_what_frozen_features_do_not_show(qwen: Workspace) -> None:
    idle = trained(qwen, "idle", mode="lora", steps=1, learning_rate=1e-12)
    assert np.abs(features(idle).responses - np.load(qwen.folder / "features/responses.npy")).max() < 1e-3
    learnt = trained(qwen, "learnt", mode="lora", steps=60, learning_rate=1e-2)
    assert loss_of(learnt, qwen) < 0.5 * loss_of(idle, qwen)


def test_the_same_task_writes_the_same_bytes(qwen: Workspace, lora: Path) -> None:
    kept = files_of(lora)
    assert {"backbone/adapter_model.safetensors", "backbone/adapter_config.json", "backbone/head.safetensors"} <= set(
        kept
    )
    task = qwen.task("lora", mode="lora")
    shutil.move(lora, kept_at := lora.with_name("lora-kept"))
    try:
        shutil.rmtree(qwen.folder / "side")  # from the start, not from its last checkpoint
        run("train", task)
        run("embed", task)
        assert files_of(lora) == kept
    finally:
        shutil.rmtree(lora, ignore_errors=True)
        shutil.move(kept_at, lora)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by PEFT
def test_merged_adapters_give_the_states_of_unmerged_ones(qwen: Workspace, lora: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    merged = restore_backbone(lora / "backbone", qwen.backbone).backbone.model
    apart = PeftModel.from_pretrained(AutoModel.from_pretrained(qwen.backbone.path), str(lora / "backbone")).eval()
    base = AutoModel.from_pretrained(qwen.backbone.path)
    ids = torch.arange(4, 40).reshape(2, 18)
    with torch.no_grad():
        one, other, none = (m(ids).last_hidden_state for m in (merged, apart, base))
    assert (one - other).abs().max() < 1e-5 * other.abs().max()
    assert (one - none).abs().max() > 1e-3 * other.abs().max()


def test_all_weights_are_saved_as_transformers_reads_them(bert: Workspace, full: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    base, after = AutoModel.from_pretrained(bert.backbone.path), AutoModel.from_pretrained(full / "backbone")
    assert AutoTokenizer.from_pretrained(full / "backbone")("river clear")["input_ids"]
    moved = [
        name for (name, p), q in zip(base.named_parameters(), after.parameters(), strict=True) if not torch.equal(p, q)
    ]
    still = {name for name, _ in base.named_parameters()} - set(moved)
    # Softmax does not see a key's bias, and what shifts the state of every text alike cancels between two answers:
    # their gradients are rounding, which moves them or not.
    blind = ("key.bias", "layer.1.output.LayerNorm.bias")
    assert all("pooler" in name or name.endswith(blind) for name in still)
    once, again = (restore_backbone(full / "backbone", bert.backbone).backbone.model.state_dict() for _ in range(2))
    saved = load_file(full / "backbone/model.safetensors")
    assert all(torch.equal(once[name], value) and torch.equal(again[name], value) for name, value in saved.items())
    coarse = restore_backbone(full / "backbone", bert.backbone.model_copy(update={"dtype": "bfloat16"}))
    assert all(torch.equal(coarse.backbone.model.state_dict()[name], value) for name, value in saved.items())


@pytest.mark.slow
@pytest.mark.parametrize("which", ["lora", "full"])
def test_what_is_saved_is_what_was_trained_bit_for_bit(which: str, request: pytest.FixtureRequest) -> None:
    space = request.getfixturevalue({"lora": "qwen", "full": "bert"}[which])
    folder = request.getfixturevalue(which) / "backbone"
    side = max((space.folder / "side").glob(f"{which}-*"), key=lambda path: path.stat().st_mtime)
    last = latest(side)
    assert last is not None
    weights = load_file(last / "trainable.safetensors")
    head = {k.rpartition("preference.")[2]: v for k, v in weights.items() if "preference." in k}
    saved = load_file(folder / "head.safetensors")
    assert head
    assert all(torch.equal(saved[f"head.{k.removeprefix('module.')}"], v.double()) for k, v in head.items())
    rest = load_file(folder / ("adapter_model.safetensors" if which == "lora" else "model.safetensors"))
    tails = {
        k.rpartition("backbone.")[2] if "backbone." in k else k.rpartition("net.")[2]: v for k, v in weights.items()
    }
    for name, value in rest.items():
        short = name.removeprefix("base_model.model.").replace(
            ".weight", ".default.weight" if which == "lora" else ".weight"
        )
        if "pooler" not in name:
            assert torch.equal(tails[short], value), name


def test_features_of_a_round_are_the_checkpoints_own(bert: Workspace, full: Path) -> None:
    from bgpm.backbones.embedding import embed
    from bgpm.data.texts import TextSet

    got = restore_backbone(full / "backbone", bert.backbone)
    texts = TextSet.read(bert.folder / "benchmark")
    states = np.empty((len(texts.response_texts), got.backbone.layers, got.backbone.width), np.float32)
    embed(got.backbone, texts.responses(), states)
    assert np.array_equal(got.reduction(states, list(texts.response_texts)), features(full, "benchmark").responses)
    assert features(full).responses.shape == np.load(bert.folder / "features/responses.npy").shape
    assert got.head.summary() == {"mode": "full", "updates": 6, "updates_kept": 6}


def test_a_head_lost_or_of_another_size_is_one_clear_error(bert: Workspace, full: Path, tmp_path: Path) -> None:
    for lost in ("head.safetensors", "head.json", "reduction.safetensors", "bgpm.json"):
        copy = Path(shutil.copytree(full / "backbone", tmp_path / lost))
        (copy / lost).unlink()
        with pytest.raises(StateError, match=lost):
            restore_backbone(copy, bert.backbone)
    copy = Path(shutil.copytree(full / "backbone", tmp_path / "size"))
    tensors = load_file(copy / "head.safetensors")
    save_file({k: v[:, :-1].contiguous() for k, v in tensors.items()}, copy / "head.safetensors")
    with pytest.raises(StateError, match=r"head\.json: it, or head\.safetensors beside it, is not as it was written"):
        restore_backbone(copy, bert.backbone)
    copy = Path(shutil.copytree(full / "backbone", tmp_path / "map"))
    reduction = Reduction.load(bert.reduction, copy / "reduction.safetensors")
    dim = reduction.dim
    reduction.arrays["components"] = reduction.arrays["components"][:, :-1]
    reduction.save(copy / "reduction.safetensors")
    with pytest.raises(StateError, match=rf"the head reads {dim} features and the map beside it gives {dim - 1}"):
        restore_backbone(copy, bert.backbone)


def test_adapters_of_another_base_or_cut_short_are_one_clear_error(
    qwen: Workspace, bert: Workspace, lora: Path, tmp_path: Path
) -> None:
    with pytest.raises(StateError, match=r"these adapters do not fit"):
        restore_backbone(lora / "backbone", bert.backbone)
    copy = Path(shutil.copytree(lora / "backbone", tmp_path / "short"))
    tensors = load_file(copy / "adapter_model.safetensors")
    del tensors[next(iter(tensors))]
    save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(StateError, match="has weights of other modules"):
        restore_backbone(copy, qwen.backbone)
    (copy / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(StateError, match="cannot be read"):
        restore_backbone(copy, qwen.backbone)


def test_adapters_are_read_without_asking_the_hub_for_their_base(
    qwen: Workspace, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(lora / "backbone", tmp_path / "named"))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "package:carries_it"}))
    asked: list[str] = []
    monkeypatch.setattr(
        "peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda name, *_, **__: asked.append(name)
    )
    restore_backbone(copy, qwen.backbone)
    assert asked == []


def test_a_round_whose_weights_were_not_kept_says_so_and_keeps_its_head(
    bert: Workspace, full: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(full / "backbone", tmp_path / "dropped"))
    drop_weights(copy)
    left = {path.name for path in copy.iterdir()}
    assert left == {"head.safetensors", "head.json", "reduction.safetensors", "bgpm.json"}
    with pytest.raises(StateError, match=r"were not kept; set training\.keep: all"):
        restore_backbone(copy, bert.backbone)


def test_dividing_an_update_into_passes_changes_rounding_only(qwen: Workspace, lora: Path) -> None:
    divided = trained(qwen, "divided", mode="lora", accumulation=2)
    apart = np.abs(features(divided).responses - features(lora).responses).max()
    moved = np.abs(features(lora).responses - np.load(qwen.folder / "features/responses.npy")).max()
    assert apart < 1e-2 * moved


@pytest.mark.slow
def test_training_stops_once_held_out_labels_get_no_better_and_takes_the_best(qwen: Workspace) -> None:
    folder = trained(
        qwen, "early", mode="lora", holdout=0.3, steps=40, checks=20, patience=2, learning_rate=0.1, warmup=0.0
    )
    summary = load(folder / "backbone/head").summary()
    assert summary["updates"] == int(summary["updates_kept"]) + 4  # two checks of two updates each
    assert int(summary["updates"]) < 40
    # the kept weights' held-out loss, computed again from the files
    data = _labels(qwen.task("unused"))
    from bgpm.stage import generator

    seed = int(generator("training", 0, 0).integers(2**31))
    out = held_out(data.pairs.prompt, 0.3, seed=seed)
    moments = load(folder / "backbone/head").moments(features(folder), data.pairs.take(out))
    sign = torch.from_numpy(2 * data.label[out] - 1)
    loss = torch.nn.functional.softplus(-sign * moments.mean).mean().item()
    assert float(summary["stopping_loss"]) == pytest.approx(loss, rel=1e-3)


@pytest.mark.slow
def test_under_the_amortized_posterior_both_of_its_networks_are_trained(qwen: Workspace) -> None:
    head, posterior = Gpm(dim=4, bt_block=False, normalize="mean"), Amortized(steps=30)
    folder = trained(qwen, "amortized", mode="lora", head=head, posterior=posterior)
    frozen = posterior.fit(
        head,
        Features(*(np.load(qwen.folder / f"features/{name}.npy") for name in ("responses", "prompts"))),
        _labels(qwen.task("unused")),
        seed=0,
    )
    fitted = load(folder / "backbone/head")
    assert type(fitted) is type(frozen)
    for name in ("module", "log_variance"):
        assert not torch.equal(getattr(fitted, name).weight, getattr(frozen, name).weight)
        assert torch.allclose(getattr(fitted, name).weight, getattr(frozen, name).weight, atol=0.1)
    moments = fitted.moments(features(folder), _labels(qwen.task("unused")).pairs)
    assert (moments.variance > 0).all()


def test_a_pairwise_head_and_a_regulariser_train_too(qwen: Workspace) -> None:
    folder = trained(
        qwen, "pairwise", mode="full", head=PairMlp(hidden=4), steps=2, regulariser={"kind": "dpo"}, bf16=True,
        posterior=Laplace(margin=True, loss="regression", prior_precision=1.0),
    )  # fmt: skip
    assert not any("lm_head" in name for name in load_file(folder / "backbone/model.safetensors"))
    assert restore_backbone(folder / "backbone", qwen.backbone).backbone.model.config.model_type == "qwen2"


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")  # there is no GPU in truth
def test_a_process_without_a_launcher_uses_one_of_the_gpus_it_sees(
    qwen: Workspace, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgpm.training.run.own_device", lambda asked: "cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    task = qwen.task("seen", mode="lora")
    run("train", task)
    assert files_of(Path(task.out) / "backbone") == files_of(lora / "backbone")


def test_divergence_is_one_clear_error(qwen: Workspace) -> None:
    with pytest.raises(NumericsError, match=r"diverged|finite"):
        run("train", qwen.task("diverged", mode="full", learning_rate=1e30, max_grad_norm=1e30, warmup=0.0))


def test_a_batch_that_processes_cannot_share_is_refused(qwen: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    message = "8 labels cannot be shared by 3 processes in 2 passes; make it a multiple of 6"
    with pytest.raises(ConfigError, match=message):
        run("train", qwen.task("odd", mode="lora", accumulation=2))


# Kill and resume


def killed(space: Workspace, task: Task) -> Path:
    """A task's side folder, after its process was killed with a complete checkpoint behind it."""
    side = Path(task.side)
    process = space.start("train", task, hold=True)
    deadline = time.monotonic() + 300
    try:
        while not list(side.glob(f"{task.name}-*/checkpoint-*/complete")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (Path(task.out) / "backbone").exists()
    return next(side.glob(f"{task.name}-*"))


LONG = {"mode": "lora", "steps": 16, "checks": 4, "lora": {"rank": 2, "dropout": 0.2}}


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_as_an_undisturbed_one(
    qwen: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    whole = files_of(trained(qwen, "whole", **LONG))
    task = qwen.task("killed", **LONG)
    side = killed(qwen, task)
    at = latest(side)
    assert at is not None
    assert 0 < int(at.name.rpartition("-")[2]) < 15
    broken = side / "checkpoint-15"  # as a process leaves it that is killed while it writes
    broken.mkdir()
    (broken / "trainable.safetensors").write_bytes(b"half")
    with caplog.at_level("INFO", "bgpm"):
        run("train", task)
        run("embed", task)
    assert f"resuming at update {at.name.rpartition('-')[2]} of 16" in caplog.text
    assert files_of(Path(task.out)) == whole


def test_checkpoints_of_another_run_are_ignored_and_removed(qwen: Workspace, lora: Path) -> None:
    side = qwen.folder / "side"
    other = qwen.task("changed", mode="lora", learning_rate=1e-5)
    run("train", other)
    (stale,) = side.glob("changed-*")
    shutil.rmtree(other.out)
    run("train", qwen.task("changed", mode="lora"))
    (fresh,) = side.glob("changed-*")
    assert fresh.name != stale.name
    shutil.rmtree(Path(other.out) / "features", ignore_errors=True)
    kept = {name: data for name, data in files_of(lora).items() if name.startswith("backbone/")}
    assert files_of(Path(other.out)) == kept


def test_where_and_in_what_memory_a_task_runs_does_not_name_its_checkpoints_but_what_it_computes_does(
    qwen: Workspace,
) -> None:
    from bgpm.training.run import _side_folder

    name = _side_folder(qwen.task("named", mode="lora"))
    assert _side_folder(qwen.task("named", mode="lora", gradient_checkpointing=True)) == name
    for change in ({"steps": 9}, {"seed": 1}, {"lora": {"rank": 3}}, {"mode": "full"}):
        assert _side_folder(qwen.task("named", **{"mode": "lora", **change})) != name
    assert _side_folder(qwen.task("named", mode="lora", head=Gpm(dim=4))) != name


def test_weights_are_put_back_whole_or_not_at_all() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    weights = trainable(model)
    assert set(weights) == {"1.weight", "1.bias"}
    assert trainable(model, keep=False) == {}  # another process writes them
    with torch.no_grad():
        model[1].weight.zero_()
    load_trainable(model, weights)
    assert torch.equal(model[1].weight, weights["1.weight"])
    with pytest.raises(RuntimeError, match=r"1 differ, the first is 1\.bias"):
        load_trainable(model, {"1.weight": weights["1.weight"]})


# The order of labels


def test_every_label_is_seen_as_often_as_the_others_and_updates_are_whole() -> None:
    rows = np.arange(100, 113)
    seen = order(rows, 2.0, None, 8, seed=0)
    assert len(seen) == 32  # 26 labels to see, 4 updates of 8
    assert [position for position, _ in seen] == list(range(32))
    counts = np.bincount([row - 100 for _, row in seen])
    assert counts.min() >= 2
    assert counts.max() <= 3
    assert len(order(rows, 2.0, 7, 8, seed=0)) == 56
    assert order(rows, 2.0, None, 8, seed=0) == seen != order(rows, 2.0, None, 8, seed=1)


def test_labels_of_like_length_share_a_pass_and_every_update_keeps_its_labels() -> None:
    length = np.random.default_rng(0).integers(10, 400, 50)
    seen = order(np.arange(50), 3.0, None, 16, seed=0)
    ordered = alike(seen, lambda row: int(length[row]), 16)

    def padded(examples: list[tuple[int, int]]) -> int:  # in passes of 4 labels
        return sum(4 * max(int(length[row]) for _, row in examples[n : n + 4]) for n in range(0, len(examples), 4))

    useful = sum(int(length[row]) for _, row in seen)
    assert padded(seen) > 1.5 * useful
    assert padded(ordered) < 1.2 * useful
    for start in range(0, len(seen), 16):
        assert sorted(ordered[start : start + 16]) == sorted(seen[start : start + 16])


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_no_part_of_an_update_waits_for_longer_texts_of_another(parts: int) -> None:
    length = np.random.default_rng(0).integers(10, 400, 50)
    seen = order(np.arange(50), 3.0, None, 16, seed=0)
    dealt = evenly(seen, lambda row: int(length[row]), 16, parts)
    for start in range(0, len(seen), 16):
        assert sorted(dealt[start : start + 16]) == sorted(seen[start : start + 16])

    def waited(examples: list[tuple[int, int]]) -> int:
        tokens = np.array([length[row] for _, row in examples]).reshape(-1, parts, 16 // parts).sum(2)
        return int((tokens.max(1, keepdims=True) - tokens).sum())

    assert waited(dealt) <= 0.4 * waited(alike(seen, lambda row: int(length[row]), 16))


def test_held_out_labels_are_those_of_whole_prompts_and_never_all() -> None:
    prompt = np.repeat(np.arange(20), 3)
    out = held_out(prompt, 0.25, seed=0)
    assert out.sum() == 15
    assert all(len(set(out[prompt == q])) == 1 for q in range(20))
    assert not held_out(np.zeros(5, int), 0.9, seed=0).any()
    assert held_out(np.array([1, 2]), 0.9, seed=0).sum() == 1
    assert not held_out(prompt, 0.0, seed=0).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 8, "accumulation": 3}, "batch_size: 8 is no multiple of accumulation: 3"),
        ({"mode": "adapter"}, "mode"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    from bgpm.registry import parse

    with pytest.raises(ConfigError, match=message):
        parse(TrainingSettings, settings, "training")


def test_a_deepspeed_configuration_needs_a_file_and_a_launcher() -> None:
    from bgpm.launch import LauncherSettings

    with pytest.raises(ConfigError, match=r"training\.deepspeed: nowhere\.json does not exist; see configs/deepspeed"):
        TrainingSettings(mode="lora", deepspeed="nowhere.json").check(LauncherSettings())
    shipped = str(Path(__file__).parents[2] / "configs/deepspeed/zero2.json")
    with pytest.raises(ConfigError, match="needs processes that a launcher starts"):
        TrainingSettings(mode="lora", deepspeed=shipped).check(LauncherSettings())
    TrainingSettings(mode="lora", deepspeed=shipped).check(LauncherSettings(kind="torchrun"))


def test_processes_that_cannot_share_a_batch_are_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    from bgpm.launch import LauncherSettings

    (tmp_path / "hosts").write_text("one slots=8\ntwo slots=8\n\nthree slots=8  # the slow one\n")
    launcher = LauncherSettings(kind="deepspeed", processes=8, hostfile=str(tmp_path / "hosts"))
    with pytest.raises(ConfigError, match=r"training\.batch_size: 16 labels cannot be shared by 24 processes in 1"):
        TrainingSettings(mode="lora").check(launcher)
    TrainingSettings(mode="lora", batch_size=48).check(launcher)
    TrainingSettings().check(launcher)  # of a frozen backbone nothing is shared
    with pytest.raises(ConfigError, match=r"24 labels cannot be shared by 8 processes in 2 passes.*multiple of 16"):
        TrainingSettings(mode="full", batch_size=24, accumulation=2).check(
            LauncherSettings(kind="torchrun", processes=8)
        )
