"""A decoder asked by its logits of two letters: its own word in both orders, and antisymmetric to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_models import user, write_language_model
from conftest import Project, up_to_seed_labels, write_tiny_bert
from scipy.special import expit, logit
from smollm import PACKAGE, SHA256, needs_package

from bgpm.annotations.store import LabelStore
from bgpm.backbones import PAIR_TEMPLATE, BackboneSettings
from bgpm.backbones.embedding import load_backbone
from bgpm.backbones.pairs import embed_pairs
from bgpm.data.tables import read_table, write_table
from bgpm.errors import ConfigError, WeightsError
from bgpm.oracles import Oracle, OracleFiles, Query, Verdicts
from bgpm.oracles.letters import Letters
from bgpm.registry import build
from stages import check

PROMPTS = ["tell me about the river", "what of {response_b}?"]
RESPONSES = ["river clear useful", "vague", "kind exact", "wrong broken useless vague", "same"]
PAIRS = [(0, 0, 1), (0, 2, 0), (1, 2, 3), (1, 4, 4)]  # prompt and responses; the last with the same text twice
Triple = tuple[int, int, int]
TEMPLATE = "{prompt}\n1 {response_a}\n2 {response_b}\nbetter?"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("letters") / "decoder", "llama chat")


def write_pool(folder: Path, prompts: list[str], responses: list[str], pairs: list[Triple]) -> OracleFiles:
    """A pool whose every pair is in the batch; p0, p1, ... by name."""
    prompt, response_a, response_b = np.array(pairs).T
    write_table(folder / "pool/prompts.parquet", {"text": prompts})
    write_table(folder / "pool/responses.parquet", {"text": responses})
    names = [f"p{n}" for n in range(len(pairs))]
    columns = {"prompt": prompt, "response_a": response_a, "response_b": response_b}
    write_table(folder / "pool/pairs.parquet", {"pair_id": names, **columns})
    write_table(folder / "batch.parquet", {"pair": np.arange(len(pairs))})
    return OracleFiles(folder / "truth.parquet", folder / "annotations", folder / "batch.parquet", folder / "pool")


def letters(path: Path | str, **settings: object) -> Letters:
    given = {"path": str(path), "template": TEMPLATE, "max_tokens": 250}
    return build(Oracle, "letters", given | settings, "oracles")  # type: ignore[return-value]


def heard(oracle: Letters, files: OracleFiles, pairs: int = len(PAIRS)) -> Verdicts:
    return oracle([Query(f"p{n}", 0) for n in range(pairs)], files)


def own_odds(decoder: Path, prompt: str, first: str, second: str) -> float:
    """Log odds of A over B after the whole text, from the model's own logits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok, model = AutoTokenizer.from_pretrained(decoder), AutoModelForCausalLM.from_pretrained(decoder).eval()
    text = f"{prompt}\n1 {first}\n2 {second}\nbetter?"
    ids = tok.apply_chat_template(user(text), add_generation_prompt=True)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    a, b = (logits[tok(letter, add_special_tokens=False)["input_ids"][0]] for letter in "AB")
    return float(a - b)


def test_labels_are_the_decoders_own_logits_averaged_over_both_orders(decoder: Path, tmp_path: Path) -> None:
    verdicts = heard(letters(decoder), write_pool(tmp_path, PROMPTS, RESPONSES, PAIRS))
    for (prompt, a, b), given, (ab, ba) in zip(PAIRS, verdicts.label, verdicts.annotations, strict=True):
        texts = RESPONSES[a], RESPONSES[b]
        one, other = own_odds(decoder, PROMPTS[prompt], *texts), -own_odds(decoder, PROMPTS[prompt], *texts[::-1])
        assert [logit(ab.label), logit(ba.label)] == pytest.approx([one, other], abs=1e-4)
        assert logit(given) == pytest.approx((one + other) / 2, abs=1e-4)
    assert np.abs(logit(verdicts.label[:3])).min() > 1e-3
    assert verdicts.label[3] == 0.5
    assert np.isnan(verdicts.margin).all()


def test_a_pair_whose_responses_are_swapped_has_one_less_the_label(decoder: Path, tmp_path: Path) -> None:
    oracle = letters(decoder)
    there = heard(oracle, write_pool(tmp_path / "there", PROMPTS, RESPONSES, PAIRS))
    back = heard(oracle, write_pool(tmp_path / "back", PROMPTS, RESPONSES, [(p, b, a) for p, a, b in PAIRS]))
    np.testing.assert_array_max_ulp(back.label, 1 - there.label, 2)
    assert (there.label[:3] != 0.5).all()


def test_each_order_is_an_annotation_of_a_named_annotator_that_cost_nothing(decoder: Path, tmp_path: Path) -> None:
    files = write_pool(tmp_path, PROMPTS, RESPONSES, PAIRS)
    verdicts = letters(decoder)([Query("p2", 1), Query("p0", 0), Query("p2", 0)], files)
    assert verdicts.label[0] == verdicts.label[2] != verdicts.label[1]
    assert verdicts.annotators.tolist() == [2, 2, 2]
    assert verdicts.cost.tolist() == [0, 0, 0]
    assert {(a.annotator, a.shown, a.source) for some in verdicts.annotations for a in some} == {
        (f"{decoder} (ab)", "ab", "judge"),
        (f"{decoder} (ba)", "ba", "judge"),
    }
    assert len({a.id for some in verdicts.annotations for a in some}) == 4  # of two pairs
    assert len(letters(decoder)([], files).label) == 0


def test_what_is_no_decoder_or_not_there_is_refused_before_any_work(decoder: Path, tmp_path: Path) -> None:
    encoder = write_tiny_bert(tmp_path / "bert")
    letters(decoder).check(tmp_path)
    with pytest.raises(ConfigError, match=r"params\.yaml: oracles\.letters\.path: '.*bert' is an encoder"):
        letters(encoder).check(tmp_path)
    with pytest.raises(ConfigError, match=r"params\.yaml: oracles\.letters\.path: missing; name a decoder"):
        Letters().check(tmp_path)
    with pytest.raises(WeightsError, match=r"params\.yaml: oracles\.letters\.path: the package 'nobody' is not"):
        letters("package:nobody").check(tmp_path)
    with pytest.raises(ConfigError, match=r"oracles\.letters\.template: .*expected {prompt} once, got it 0 times"):
        letters(decoder, template="{response_a} {response_b}")
    with pytest.raises(ConfigError, match=r"oracles\.letters\.max_tokens: 20, and oracles\.letters\.template takes"):
        heard(letters(decoder, max_tokens=20), write_pool(tmp_path, PROMPTS, RESPONSES, PAIRS))


def test_the_loop_labels_its_seed_set_and_its_code_counts_while_it_is_chosen(
    fresh_project: Project, decoder: Path, tmp_path: Path, inside: Callable[[Project], None]
) -> None:
    project = fresh_project.clone(tmp_path / "project")
    inside(project)
    check.main()
    before = project.read("data/code/label").split()
    project.params(oracle="letters", oracles__letters__path=str(decoder), seeds=[0], baseline="entropy")
    check.main()
    assert project.read("data/code/label").split()[:1] == before
    assert len(project.read("data/code/label").split()) == 2
    up_to_seed_labels()
    labels = read_table(Path("data/start/labels.parquet"))
    kept = LabelStore(Path("data/start/annotations.jsonl")).by_pair()
    for pair, given in zip(labels["pair_id"], labels["label"], strict=True):
        said = [logit(kept[pair][f"{decoder} ({shown})"].label) for shown in ("ab", "ba")]
        assert given == pytest.approx(expit(np.mean(said)), abs=1e-9)
    assert len(labels["label"]) == 8


@needs_package
@pytest.mark.smollm
def test_a_real_decoder_gives_the_letters_that_features_have(tmp_path: Path) -> None:
    asked, good, bad = "What is the capital of France?", "The capital of France is Paris.", "Bananas are yellow."
    files = write_pool(tmp_path, [asked], [good, bad], [(0, 0, 1), (0, 1, 0)])
    name = f"package:{PACKAGE}"
    verdicts = heard(letters(name, sha256=SHA256, template=PAIR_TEMPLATE, max_tokens=256), files, 2)
    backbone = load_backbone(BackboneSettings(path=name, sha256=SHA256), letters=True)
    found = np.zeros((1, 1))
    states = np.zeros((1, backbone.layers, backbone.width), np.float32)
    embed_pairs(backbone, [(user(asked), good, bad)], PAIR_TEMPLATE, states, found, asks=True)
    assert logit(verdicts.label[0]) == pytest.approx(found[0, 0], abs=1e-3)
    assert verdicts.label[0] > 0.5
    assert verdicts.label[1] == pytest.approx(1 - verdicts.label[0], abs=1e-12)
    assert {a.annotator for a in verdicts.annotations[0]} == {f"{name} (ab)", f"{name} (ba)"}
