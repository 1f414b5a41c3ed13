"""The network that is trained: features of `embed`, the loss of the formula, and learning where it should be."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tasks import Workspace

from bgpm.backbones import packing
from bgpm.backbones.embedding import ModelSource, is_causal
from bgpm.data.texts import TextSet
from bgpm.errors import ConfigError, WeightsError
from bgpm.features.reduction import Reduction
from bgpm.models import Model
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.models.pair_mlp import PairMlp
from bgpm.posteriors import Posterior
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.training.batches import Collator
from bgpm.training.network import PreferenceNetwork, ScoreHead, load_base, prepare, starting_head
from bgpm.training.run import _labels, _statistics
from bgpm.types import Comparisons, Features, Pairs

FREE = Gpm(dim=4, bt_block=False, normalize="mean", prompt_gates=True)


def frozen(space: Workspace) -> Features:
    return Features(*(np.load(space.folder / f"features/{name}.npy") for name in ("responses", "prompts")))


def build(
    space: Workspace,
    head: Model | None = None,
    posterior: Posterior | None = None,
    *,
    packed: bool = True,
    **training: Any,
) -> tuple[Any, PreferenceNetwork, Collator, Comparisons]:
    """What `bgpm.training.run.train` builds: the root, the model in it, a collator and the labels."""
    head, posterior = head or Bt(), posterior or Laplace(prior_precision=1.0)
    task = space.task("unused", head=head, posterior=posterior, **training)
    data, features = _labels(task), frozen(space)
    reduction = Reduction.load(space.reduction, space.folder / "features/reduction.safetensors")
    backbone, net = load_base(task.training, space.backbone)
    net.eval()
    how, why = packing.find(backbone, causal=is_causal(backbone.model)) if packed else (None, "")
    assert not why
    scores = ScoreHead(starting_head(posterior, head, features, data, seed=0), posterior)
    stack = contextlib.ExitStack()
    varlen = stack.enter_context(packing.own_attention(backbone.model)) if how else None
    model = PreferenceNetwork(net, backbone.model, reduction, scores, task.training.regulariser, varlen)
    model.stack = stack  # the attention stays while the model lives
    torch.manual_seed(0)
    root = prepare(model, task.training)
    collator = Collator(
        backbone, TextSet.read(space.folder / "pool"), data, prompts=scores.reads_prompt,
        statistics=_statistics(reduction, features), margins=getattr(posterior, "margin", False),
        spoken=task.training.regulariser.kind != "none", noise_dim=scores.noise_dim, seed=0, packed=how,
    )  # fmt: skip
    return root, model, collator, data


def batch(collator: Collator, rows: range) -> dict[str, Any]:
    return collator([(position, row) for position, row in enumerate(rows)])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("space", ["qwen", "bert"])
def test_an_untrained_model_reads_the_features_that_the_pipeline_froze(
    space: str, packed: bool, request: pytest.FixtureRequest
) -> None:
    ws = request.getfixturevalue(space)
    root, model, collator, data = build(ws, FREE, Laplace(prior_precision=1.0), packed=packed, mode="full")
    features, read = frozen(ws), []
    rows = np.concatenate([data.pairs.response_a[:20], data.pairs.response_b[:20]])
    expected = features.responses[rows], features.prompts[data.pairs.prompt[:20]]
    model.preference.module.register_forward_pre_hook(lambda module, given: read.extend(given))
    root.eval()
    with torch.no_grad():
        root(**batch(collator, range(20)))
    first, second, prompt = (part.numpy() for part in read)
    for found, wanted in zip((np.concatenate([first, second]), prompt), expected, strict=True):
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What casts to float32 casts to float64, so that two ways to the same sum differ by a mistake and not by rounding.

    In float32 gradients of the two differ by 2e-4 of their size on some processors, and by a tenth of that on others.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


REGULARISED: dict[str, Any] = {"mode": "full", "regulariser": {"kind": "sft", "weight": 0.7}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "settings"),
    [
        ("qwen", {"mode": "lora"}),
        ("qwen", {"mode": "full", "gradient_checkpointing": True}),
        ("qwen", REGULARISED),
        ("qwen", {"mode": "full", "regulariser": {"kind": "dpo", "weight": 0.7, "beta": 0.3}}),
        ("bert", {"mode": "full"}),
        ("bert", {"mode": "lora", "gradient_checkpointing": True}),
    ],
)
def test_packed_batches_teach_what_padded_ones_teach(
    space: str, settings: dict[str, Any], request: pytest.FixtureRequest, in_float64: None
) -> None:
    found = []
    for packed in (True, False):
        root, model, collator, data = build(request.getfixturevalue(space), FREE, packed=packed, **settings)
        given = batch(collator, range(10))
        given |= {k: v.double() for k, v in given.items() if torch.is_tensor(v) and v.is_floating_point()}
        root.double()
        distinct = len(np.unique([data.pairs.response_a[:10], data.pairs.response_b[:10]])) + len(
            np.unique(data.pairs.prompt[:10])
        )
        if packed:
            texts = given["pooling"].shape[0]
            assert texts == distinct < 30  # what several pairs share is read once
            assert given["input_ids"].shape[0] == 1
            shared = [s for s in given["segments"] if s.until > s.prefix]
            assert bool(shared) == (space == "qwen")
        else:
            assert len(given["input_ids"]) == distinct
        root.train()
        for module in root.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # noise falls on other places of other layouts
        out = root(**given)
        out["loss"].backward()
        model.stack.close()
        grads = {name: p.grad for name, p in root.named_parameters() if p.requires_grad}
        found.append((out["loss"].item(), out["score"].detach(), grads))
    (loss, score, grads), (padded_loss, padded_score, padded_grads) = found
    assert loss == pytest.approx(padded_loss, rel=1e-6)
    assert torch.allclose(score, padded_score, atol=1e-6 * padded_score.abs().max())
    assert grads.keys() == padded_grads.keys()
    scale = max(g.abs().max() for g in padded_grads.values())
    for name, gradient in padded_grads.items():
        assert (grads[name] - gradient).abs().max() < 1e-6 * gradient.abs().max() + 1e-6 * scale, name


def test_attention_drops_weights_of_packed_texts_too_while_training(bert: Workspace) -> None:
    root, model, collator, _ = build(bert, mode="full")
    for module in root.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    attention = model.backbone.encoder.layer[0].attention.self
    given = batch(collator, range(6))
    root.train()
    with torch.no_grad():
        before = root(**given)["score"]
        assert torch.equal(before, root(**given)["score"])
        attention.dropout.p = 0.5
        assert not torch.allclose(before, root(**given)["score"], atol=1e-3)
        root.eval()
        assert torch.allclose(before, root(**given)["score"], atol=1e-5)


@pytest.mark.parametrize("head", [Bt(), Gpm(dim=4), FREE, PairMlp(hidden=4)], ids=lambda head: head.kind)
def test_training_starts_from_the_scores_of_the_frozen_model(qwen: Workspace, head: Model) -> None:
    posterior = Point(prior_precision=1.0)
    root, _, collator, data = build(qwen, head, posterior, mode="lora")
    expected = starting_head(posterior, head, frozen(qwen), data, seed=0).moments(frozen(qwen), data.pairs).mean[:24]
    root.eval()
    with torch.no_grad():
        score = root(**batch(collator, range(24)))["score"]
    assert score.dtype == torch.float32
    apart = (score - expected).abs() / expected.abs().max()
    assert apart.quantile(0.9) < 1e-4  # a vector of almost no length has no direction in float32
    assert apart.median() < 1e-5


def test_the_loss_is_the_mean_of_the_pairs_and_padding_changes_nothing(qwen: Workspace) -> None:
    posterior = Laplace(prior_precision=1.0, margin=True, tau=0.5, error_rate=0.1)
    root, _, collator, data = build(qwen, posterior=posterior, mode="full")
    root.eval()
    with torch.no_grad():
        together = root(**batch(collator, range(6)))
        alone = [root(**collator([(0, row)]))["score"] for row in range(6)]
    assert torch.allclose(together["score"], torch.cat(alone), atol=1e-5)
    expected = 0.0
    for score, label in zip(together["score"].tolist(), data.label[:6], strict=True):
        ahead = score if label == 1 else -score  # the winner has to lead by 1.5, and one label in ten is wrong
        right, wrong = (1 / (1 + math.exp((1.5 - lead) / 0.5)) for lead in (ahead, -ahead))
        expected -= math.log(0.9 * right + 0.1 * wrong) / 6
    assert together["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_length_of_a_pair_is_that_of_its_longer_text(qwen: Workspace) -> None:
    _, _, collator, data = build(qwen, packed=False, mode="full")
    for row in range(len(data.label)):
        assert collator.length(row) == collator([(0, row)])["input_ids"].shape[1]


def test_adapters_and_the_head_learn_and_nothing_else_does(qwen: Workspace) -> None:
    root, model, collator, _ = build(qwen, mode="lora")
    learning = {name for name, parameter in root.named_parameters() if parameter.requires_grad}
    head = {name for name in learning if "preference" in name}
    adapters = {name for name in learning if "lora_" in name}
    assert learning == head | adapters
    assert len(head) == len(list(model.preference.parameters())) > 0
    assert len(adapters) == 2 * 7 * 2  # two factors on seven linear modules of each of two layers
    assert not head & adapters
    root.train()
    root(**batch(collator, range(8)))["loss"].backward()
    gradients = {name: p.grad for name, p in root.named_parameters() if p.grad is not None}
    assert set(gradients) == learning
    assert all(gradients[name].abs().max() > 0 for name in head | {n for n in adapters if "lora_B" in n})


def test_every_weight_learns_under_full_and_each_gets_a_gradient(bert: Workspace) -> None:
    root, _, collator, _ = build(bert, mode="full")
    root.train()
    root(**batch(collator, range(8)))["loss"].backward()
    without = [name for name, parameter in root.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["layers.1.self_attn.q_proj"]])
def test_adapters_go_where_they_are_told(qwen: Workspace, targets: list[str]) -> None:
    _, model, _, _ = build(qwen, mode="lora", lora={"targets": targets, "rank": 2})
    names = {name.partition(".lora_")[0] for name, _ in model.backbone.named_parameters() if ".lora_" in name}
    assert names == {n for n in names if any(n.endswith(t) for t in targets)}
    assert len(names) == (4 if len(targets) == 2 else 1)
    assert model.backbone.layers[1].self_attn.q_proj.lora_A["default"].weight.shape == (2, 32)


def test_a_target_that_matches_nothing_is_refused_with_what_there_is(qwen: Workspace) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets: 'query' matches no linear module .* down_proj, .* v_proj"):
        build(qwen, mode="lora", lora={"targets": ["q_proj", "query"]})
    with pytest.raises(ConfigError, match="the empty list matches no linear"):
        build(qwen, mode="lora", lora={"targets": []})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_four_bits_are_refused_without_a_gpu(qwen: Workspace) -> None:
    with pytest.raises(ConfigError, match="qlora computes in 4 bits on a GPU, and there is none; use lora"):
        load_base(qwen.task("unused", mode="qlora").training, qwen.backbone)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"mode": "lora"}, "AutoModel"),
        ({"mode": "qlora"}, "AutoModel"),
        ({"mode": "qlora", "regulariser": {"kind": "sft"}}, "AutoModelForCausalLM"),
        ({"mode": "full", "regulariser": {"kind": "sft"}}, "AutoModelForCausalLM"),
    ],
)
def test_weights_are_read_once_in_the_form_that_is_trained(
    qwen: Workspace, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], kind: str
) -> None:
    four_bits = settings["mode"] == "qlora"
    reads = []

    def record(auto: Any) -> None:
        real = auto.from_pretrained

        def from_pretrained(path: str, **options: Any) -> Any:
            place = {name: options.pop(name) for name in ("device_map", "quantization_config") if name in options}
            bits = place.pop("quantization_config", None)
            reads.append((auto.__name__, place, bits is not None and bits.load_in_4bit))
            return real(path, **options)

        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)

    record(transformers.AutoModel)
    record(transformers.AutoModelForCausalLM)
    if four_bits:  # nothing is moved there afterwards: it would fail, there is none
        for module in ("bgpm.training.network", "bgpm.backbones.embedding"):
            monkeypatch.setattr(f"{module}.own_device", lambda asked: "cuda:0")
    backbone, net = load_base(
        qwen.task("unused", **settings).training, qwen.backbone.model_copy(update={"attention": "sdpa"})
    )
    assert reads == [(kind, {"device_map": {"": "cuda:0"}} if four_bits else {}, four_bits)]
    assert backbone.model is (net.model if kind == "AutoModelForCausalLM" else net)


def test_weights_wait_on_the_cpu_for_deepspeed_to_divide_them(qwen: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpm.backbones.embedding.own_device", lambda asked: "cuda:0")
    settings = qwen.task("unused", mode="full", deepspeed="configs/deepspeed/zero3.json").training
    where = qwen.backbone.model_copy(update={"attention": "sdpa"})
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: moved.append(device) or module)
    load_base(settings, where)
    assert moved == ["cuda:0"]
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    load_base(settings, where)
    assert moved == ["cuda:0"]


class _Read(Exception):
    """The attention that weights would be read for."""


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_attention_goes_by_what_training_computes_in_and_not_by_the_weights(
    qwen: Workspace, monkeypatch: pytest.MonkeyPatch, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    def read(source: ModelSource, **options: Any) -> None:
        raise _Read(source.attention)

    known = importlib.util.find_spec
    monkeypatch.setattr(ModelSource, "read", read)
    monkeypatch.setattr("bgpm.backbones.embedding.own_device", lambda asked: "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: object() if name == "flash_attn" else known(name)
    )
    caplog.set_level("INFO", "bgpm")
    for asked, bf16, expected in (
        ("auto", True, "flash_attention_2"),
        ("flash", True, "flash_attention_2"),
        ("auto", False, "sdpa"),
    ):
        with pytest.raises(_Read, match=expected):
            load_base(
                qwen.task("unused", mode=mode, bf16=bf16).training,
                qwen.backbone.model_copy(update={"attention": asked}),
            )
    assert [line.split()[1] for line in caplog.messages] == ["flash_attention_2", "flash_attention_2", "sdpa"]
    with pytest.raises(
        ConfigError, match=r"flash-attention is asked for, but it knows no float32; set training\.bf16 to"
    ):
        load_base(qwen.task("unused", mode=mode).training, qwen.backbone.model_copy(update={"attention": "flash"}))


def test_bfloat16_reaches_the_backbone_and_stops_before_the_head(qwen: Workspace) -> None:
    root, model, collator, _ = build(qwen, mode="full")
    root.eval()
    given, seen = batch(collator, range(8)), []
    model.backbone.layers[0].mlp.down_proj.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.no_grad():
        exact = root(**given)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = root(**given)
    assert seen == [torch.float32, torch.bfloat16]
    assert coarse["score"].dtype == coarse["loss"].dtype == torch.float32
    assert 0 < (coarse["score"] - exact["score"]).abs().max() < 0.1 * exact["score"].abs().max()
    features = torch.randn(3, model.preference.module.in_features)
    with torch.no_grad():
        expected = model.preference.module(features, features.flip(0))
        halved = model.preference.module.bfloat16()(features, features.flip(0))
    assert halved.dtype == torch.float32  # DeepSpeed keeps the weights in bfloat16, the sums stay exact
    assert (halved - expected).abs().max() < 0.01 * expected.abs().max() + 0.01


def test_gradients_are_the_same_when_activations_are_computed_again(qwen: Workspace) -> None:
    found = []
    for again in (False, True):
        root, _, collator, _ = build(qwen, mode="lora", gradient_checkpointing=again)
        root.train()
        root(**batch(collator, range(8)))["loss"].backward()
        found.append({name: p.grad for name, p in root.named_parameters() if p.requires_grad})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-7) for name in found[0])


def slow_regulariser(
    model: PreferenceNetwork, collator: Collator, pairs: Pairs, label: list[float], kind: str, beta: float
) -> float:
    """One text after another, one token after another."""
    logs, lengths = [], []
    for row in [*pairs.response_a.tolist(), *pairs.response_b.tolist()]:
        text = collator.of_response[row]
        assert text.ids[-1] == 1  # the closing token is part of what is said
        logits = model.net(torch.tensor([text.ids])).logits[0].double()
        at = range(text.start, len(text.ids))
        logs.append(sum(logits[t - 1].log_softmax(-1)[text.ids[t]].item() for t in at))
        lengths.append(len(at))
    total = 0.0
    for first, wanted in enumerate(label):
        second = first + len(label)
        if kind == "sft":
            chosen = first if wanted > 0.5 else second
            total -= logs[chosen] / lengths[chosen] if wanted != 0.5 else 0.0
        else:
            gap = beta * (logs[first] - logs[second])
            total += wanted * math.log1p(math.exp(-gap)) + (1 - wanted) * math.log1p(math.exp(gap))
    return total / len(label)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_regulariser_is_the_language_models_loss_on_the_answers(qwen: Workspace, kind: str, packed: bool) -> None:
    regulariser = {"kind": kind, "weight": 0.7, "beta": 0.3}
    root, model, collator, data = build(qwen, packed=packed, mode="full", regulariser=regulariser)
    given, label = batch(collator, range(5)), [1.0, 0.0, 0.5, 0.75, 0.0]
    given["label"] = torch.tensor(label)
    with torch.no_grad():
        root.eval()
        plain = root(**given)["loss"].item()
        root.train()  # the model has no dropout
        with_it = root(**given)["loss"].item()
    root(**given)["loss"].backward()
    assert model.net.lm_head.weight.grad.abs().max() > 0
    assert model.backbone is model.net.model
    model.stack.close()
    with torch.no_grad():
        expected = slow_regulariser(model, collator, data.pairs.take(np.arange(5)), label, kind, 0.3)
    assert with_it - plain == pytest.approx(0.7 * expected, rel=1e-4)


def test_a_regulariser_of_an_encoder_or_without_the_words_head_is_refused(
    bert: Workspace, qwen: Workspace, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    settings = qwen.task("unused", mode="full", regulariser={"kind": "sft"}).training
    with pytest.raises(ConfigError, match=r"sft needs a decoder with its language-model head, and .* is an encoder"):
        load_base(settings, bert.backbone)
    AutoModel.from_pretrained(qwen.backbone.path).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(qwen.backbone.path).save_pretrained(tmp_path)
    with pytest.raises(
        WeightsError, match=r"lacks 1 weights of its model, the first is lm_head\.weight; training\.reg"
    ):
        load_base(settings, qwen.backbone.model_copy(update={"path": str(tmp_path)}))


def test_the_lower_bound_is_that_of_the_frozen_posterior_on_the_same_noise(qwen: Workspace) -> None:
    from bgpm.fitting.tensors import LabelledTensors

    head, posterior = Gpm(dim=4, bt_block=False, normalize="sphere"), Amortized(steps=20)
    root, model, collator, data = build(qwen, head, posterior, mode="full")
    given = batch(collator, range(12))
    assert given["noise"].shape == (2, 12, 4)
    reference = starting_head(posterior, head, frozen(qwen), data, seed=0)
    features = [
        torch.from_numpy(frozen(qwen).responses[rows[:12]]).double()
        for rows in (data.pairs.response_a, data.pairs.response_b)
    ]
    seen = LabelledTensors(*features, None, torch.from_numpy(data.label[:12]), None, np.empty(0))
    with torch.no_grad():
        expected = reference.training_loss(posterior, seen, 0.5, given["noise"].double().unbind()).item()
        root.train()
        assert root(**given, kl_weight=0.5)["loss"].item() == pytest.approx(expected, rel=1e-4)
        root.eval()
        assert root(**given)["loss"].item() != pytest.approx(expected, rel=1e-4)
    assert model.preference.noise_dim == 4
