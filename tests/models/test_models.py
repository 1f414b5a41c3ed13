"""Preference models: what their scores are, and that their gradients are those of the scores."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bgpm.errors import ConfigError, ShapeError
from bgpm.models import Model
from bgpm.networks import GeneralPreference, PairNetwork
from bgpm.registry import build, kinds

P, N = 5, 7
VARIANTS = {
    "bt": ("bt", {}),
    "gpm": ("gpm", {}),
    "gpm with gates": ("gpm", {"prompt_gates": True}),
    "gpm as published": ("gpm", {"bt_block": False, "bias": False, "normalize": "sphere"}),
    "gpm on the sphere with gates": ("gpm", {"bt_block": False, "normalize": "mean", "prompt_gates": True, "dim": 4}),
    "gpm of cyclic blocks": ("gpm", {"bt_block": False}),
    "pair_mlp": ("pair_mlp", {"hidden": 6}),
}


def made(variant: str):
    kind, settings = VARIANTS[variant]
    module = build(Model, kind, settings).build(P, generator=torch.Generator().manual_seed(0))
    if module.reads_prompt:
        with torch.no_grad():
            module.gate_weight.normal_(generator=torch.Generator().manual_seed(1))
    return module


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(N, P, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_every_registered_model_is_tried_here():
    assert {kind for kind, _ in VARIANTS.values()} == set(kinds(Model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_swapping_the_answers_flips_the_score_exactly(variant, inputs):
    response_a, response_b, prompt = inputs
    module = made(variant)
    assert torch.equal(module(response_a, response_b, prompt), -module(response_b, response_a, prompt))
    assert torch.count_nonzero(module(response_a, response_b, prompt)) == N
    assert torch.count_nonzero(module(response_a, response_a, prompt)) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_design_is_the_gradient_in_the_last_layers_weights(variant, inputs):
    module = made(variant)
    score = module(*inputs)
    jacobian = torch.stack([torch.autograd.grad(s, module.weight, retain_graph=True)[0].flatten() for s in score])
    design = module.design(*inputs)
    torch.testing.assert_close(design.gradients(), jacobian, rtol=1e-12, atol=1e-13)
    assert design.a.shape == (N, len(module.weight))


def test_bradley_terry_is_a_difference_of_linear_rewards(inputs):
    response_a, response_b, _ = inputs
    module = made("bt")
    reward = module.weight.detach()[0]
    torch.testing.assert_close(
        module(response_a, response_b), (response_a - response_b) @ reward, rtol=1e-13, atol=1e-13
    )
    assert torch.equal(module.embed(response_a)[:, 1], torch.ones(N, dtype=torch.float64))


def test_a_gpm_whose_free_blocks_are_not_built_is_bradley_terry(inputs):
    response_a, response_b, _ = inputs
    none = build(Model, "gpm", {}).build(P, generator=torch.Generator().manual_seed(0), blocks=0)
    assert torch.equal(none(response_a, response_b), made("bt")(response_a, response_b))


def test_the_general_score_is_the_sum_of_gated_determinants(inputs):
    response_a, response_b, prompt = inputs
    module = made("gpm with gates")
    slow = []
    for x, y, z in zip(response_a.tolist(), response_b.tolist(), prompt.tolist(), strict=True):
        logits = [sum(w * f for w, f in zip(row, z, strict=True)) for row in module.gate_weight.tolist()]
        total = sum(torch.tensor(logits).exp().tolist())
        u = [sum(w * f for w, f in zip(row, x, strict=True)) for row in module.weight.tolist()]
        v = [sum(w * f for w, f in zip(row, y, strict=True)) for row in module.weight.tolist()]
        u, v = [u[0], 1.0, *u[1:]], [v[0], 1.0, *v[1:]]
        gates = [3 * torch.tensor(g).exp().item() / total for g in logits]
        slow.append(sum(gates[l] * (u[2 * l] * v[2 * l + 1] - u[2 * l + 1] * v[2 * l]) for l in range(3)))
    torch.testing.assert_close(
        module(response_a, response_b, prompt), torch.tensor(slow, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_normalised_embeddings_lie_on_the_unit_sphere(inputs):
    v = made("gpm as published").embed(inputs[0])
    torch.testing.assert_close(v.square().sum(-1), torch.ones(N, dtype=torch.float64))


def test_gates_start_at_one_and_always_sum_to_the_number_of_blocks(inputs):
    fresh = build(Model, "gpm", {"prompt_gates": True}).build(P, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fresh.gates(inputs[2]), torch.ones(N, 3, dtype=torch.float64))
    gates = made("gpm with gates").gates(inputs[2])
    torch.testing.assert_close(gates.sum(-1), torch.full((N,), 3.0, dtype=torch.float64))
    assert gates.std() > 0.1


def test_the_bias_lets_free_blocks_express_a_reward_on_centred_features(inputs):
    response_a, response_b, _ = inputs
    reward = torch.arange(1.0, P + 1, dtype=torch.float64)
    for bias, gap in ((True, 1e-10), (False, 1.0)):
        module = GeneralPreference(P, blocks=1, bt_block=False, bias=bias, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            module.weight.zero_()
            module.weight[0, :P] = reward
            module.weight[1, -1] = P**-0.5
        assert (
            ((module(response_a, response_b) - (response_a - response_b) @ reward).abs().max() < gap) == bias
        ) or not bias


def test_pair_network_reads_both_answers_at_once(inputs):
    response_a, response_b, _ = inputs
    module = PairNetwork(P, 6, generator=torch.Generator().manual_seed(0))
    third = response_a.flip(0)
    loop = module(response_a, response_b) + module(response_b, third) + module(third, response_a)
    assert loop.abs().max() > 1e-3  # a difference of rewards would sum to zero around a triangle


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 5}, "multiple of 2"),
        ({"dim": 0}, "greater than or equal to 2"),
        ({"normalize": "mean"}, "bt_block: false"),
        ({"normalise": "none"}, "unknown key"),
    ],
)
def test_impossible_settings_are_refused_with_a_way_out(settings, words):
    with pytest.raises(ConfigError, match=words):
        build(Model, "gpm", settings, "models")


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_of_another_dimension_are_refused(variant):
    wide = torch.zeros(2, P + 1, dtype=torch.float64)
    with pytest.raises(ShapeError, match=f"{P} features, got {P + 1}"):
        made(variant)(wide, wide, torch.zeros(2, P, dtype=torch.float64))


def test_gates_without_a_prompt_are_refused(inputs):
    with pytest.raises(ShapeError, match="prompt_gates: false"):
        made("gpm with gates")(inputs[0], inputs[1])


def test_settings_of_models_and_posteriors_are_read_without_torch():
    code = (
        "import sys\n"
        "from bgpm.models import Model\nfrom bgpm.posteriors import Posterior\nfrom bgpm.registry import build, kinds\n"
        "heads = [build(Model, kind, {}) for kind in kinds(Model)]\n"
        "[build(Posterior, kind, {}) for kind in kinds(Posterior)]\n"
        "heavy = {'torch', 'scipy', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
