"""Backbone, fixed map to features and preference head as one network that returns its loss.

Shapes: B pairs, N texts that they read (first responses, second responses, then prompts where the head reads them), M
of them different, T tokens in a row, p features. A row is a text padded on the right, or one row holds all texts,
see `bgpm.backbones.packing`. Whatever the backbone computes in, everything after it is float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, is_causal, open_source, own_device
from bgpm.backbones.packing import Segment
from bgpm.errors import ConfigError
from bgpm.features.reduction import Reduction
from bgpm.fitting.embeddings import AmortizedModel
from bgpm.fitting.gaussian import GaussianModel
from bgpm.fitting.map import LEARNT_TAU, PairLoss
from bgpm.fitting.tensors import LabelledTensors
from bgpm.launch import is_launched
from bgpm.models import Model
from bgpm.networks import GeneralPreference
from bgpm.posteriors import Fitted, MapSettings, Posterior
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.point import Point
from bgpm.training import LoraSettings, RegulariserSettings, TrainingSettings
from bgpm.types import Comparisons, Features

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("bgpm")


class ScoreHead(nn.Module):
    """The preference model over features, in float32, with its loss.

    Args:
        start: A model fitted on the frozen backbone's features, whose networks are trained on.
        posterior: Settings of the posterior: loss, temperature, and the evidence lower bound under ``amortized``.
    """

    def __init__(self, start: GaussianModel | AmortizedModel, posterior: Posterior) -> None:
        super().__init__()
        self.start, self.posterior = start, posterior
        self.module = start.module.float().requires_grad_()
        self.log_variance = None
        if isinstance(start, AmortizedModel):
            self.log_variance = start.log_variance.float().requires_grad_()
        settings = posterior if isinstance(posterior, MapSettings) else Point()
        # where the share of wrong labels is to be found out, the head's fit has done so
        self.loss = PairLoss(settings, _temperature(posterior), getattr(start, "error_rate", 0.0))

    @property
    def reads_prompt(self) -> bool:
        return self.module.reads_prompt

    @property
    def noise_dim(self) -> int:
        """Coordinates of the noise that a label's lower bound draws for each response; 0 where none is drawn."""
        return 0 if self.log_variance is None else len(self.module.weight)

    def forward(
        self,
        response_a: Tensor,
        response_b: Tensor,
        prompt: Tensor | None,
        label: Tensor,
        margin: Tensor | None,
        noise: Tensor | None,
        kl_weight: float,
    ) -> tuple[Tensor, Tensor]:
        """Nats of each label [B], or their mean [] under ``amortized`` while training; and scores [B].

        Args:
            response_a, response_b, prompt: Features, float32 [B, p].
            label, margin: [B], as in `bgpm.functional.pairwise_loss`.
            noise: Standard normal [2, B, d]; read under ``amortized`` while training.
            kl_weight: Weight of the divergence now.
        """
        data = LabelledTensors(response_a, response_b, prompt, label, margin, np.empty(0))
        score = self.module(response_a, response_b, prompt)
        if self.training and isinstance(self.start, AmortizedModel) and isinstance(self.posterior, Amortized):
            assert noise is not None
            return self.start.training_loss(self.posterior, data, kl_weight, noise.unbind()), score
        return self.loss(score, data), score

    def fitted(self, summary: dict[str, float | int | str]) -> Fitted:
        """The networks as they are now, as a model of the family `bgpm.posteriors` without uncertainty of its own
        but for ``amortized``."""
        module, start, loss = self.module.double(), self.start, self.loss
        if self.log_variance is not None:
            assert isinstance(start, AmortizedModel)
            assert isinstance(module, GeneralPreference)
            return AmortizedModel(start.model, module, self.log_variance.double(), start.in_features, loss.tau, summary)
        return GaussianModel(
            "point", start.model, module, start.in_features, loss.tau, loss.error_rate, None, None, summary
        )


class PreferenceNetwork(nn.Module):
    """Texts to scores and loss.

    Args:
        net: The backbone, or the language model around it.
        backbone: The module whose hidden states count: ``net``, or a part of it.
        reduction: From states to features; it stays as it is.
        head: The preference model.
        regulariser: A loss on the language model's own predictions, or none.
        varlen: flash-attention's function for packed texts, where `packing.own_attention` gave it.
    """

    is_gradient_checkpointing = False  # PEFT: nothing to prepare, `prepare` has done it

    def __init__(
        self,
        net: PreTrainedModel,
        backbone: nn.Module,
        reduction: Reduction,
        head: ScoreHead,
        regulariser: RegulariserSettings,
        varlen: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.preference, self.regulariser, self.varlen = net, head, regulariser, varlen
        self.config = net.config  # DeepSpeed reads sizes from it
        self._backbone = [backbone]  # in a list: it is registered as (a part of) net already
        block, arrays = reduction.states
        self.every_layer = block.layers == "all"
        # Not buffers: DeepSpeed would cast those to the backbone's dtype.
        self._map = [
            torch.from_numpy(array).float() for array in (arrays["mean"], 1 / arrays["scale"], arrays["components"])
        ]

    @property
    def backbone(self) -> Any:
        """The module whose hidden states count."""
        return self._backbone[0]

    def forward(
        self,
        input_ids: Tensor,
        pooling: Tensor,
        which: Tensor,
        label: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segments: Sequence[Segment] | None = None,
        statistics: Tensor | None = None,
        margin: Tensor | None = None,
        spoken: Tensor | None = None,
        noise: Tensor | None = None,
        kl_weight: float = 0.0,
    ) -> dict[str, Tensor]:
        """Loss [], nats of each label [B] or their mean [], and scores [B]; all float32.

        Args:
            input_ids: int64 [M, T], or [1, T] for packed texts.
            pooling: float32 [M, T], weight of each token's state in its text's; rows sum to 1.
            which: int64 [N], the text of each response and prompt.
            attention_mask: [M, T], of padded texts.
            position_ids, segments: [1, T] and where texts lie in the row, of packed ones.
            statistics: float32 [N, s], features that are read off the texts.
            spoken: int64 [3, A], of every token of a response: its id, where in the rows laid end to end it is
                predicted, and the response's number; for a regulariser.
            label, margin, noise, kl_weight: As in `ScoreHead.forward`.
        """
        cache = {"use_cache": False} if is_causal(self) else {}
        layout = {"attention_mask": attention_mask}
        if segments is not None:  # no mask: it would make the model look for texts in the row by itself
            layout = {"position_ids": position_ids, "segments": segments, "varlen": self.varlen}
        out = self.net(input_ids=input_ids, output_hidden_states=True, **layout, **cache)
        with torch.autocast(input_ids.device.type, enabled=False):
            features = self.features(out.hidden_states, pooling)[which]
            if statistics is not None:
                features = torch.cat([features, statistics], -1)
            response_a, response_b, *rest = features.split(len(label))
            nats, score = self.preference(
                response_a, response_b, rest[0] if rest else None, label, margin, noise, kl_weight
            )
            loss = nats.mean()
            if self.training and self.regulariser.kind != "none" and spoken is not None:
                loss = loss + self.regulariser.weight * self._regularisation(out.logits, spoken, label)
        return {"loss": loss, "nats": nats, "score": score}

    def features(self, states: Sequence[Tensor], pooling: Tensor) -> Tensor:
        """float32 [M, p] without statistics, from one [M, T, width] or [1, T, width] a layer; the same numbers as
        `Reduction` of `embed` gives."""
        layers = states if self.every_layer else states[-1:]
        weight = pooling[:, None] if len(layers[0]) == len(pooling) else pooling[None]  # a row a text, or one row
        flat = torch.cat([(weight @ layer.float()).reshape(len(pooling), -1) for layer in layers], -1)
        mean, inverse, components = self._map = [array.to(flat.device) for array in self._map]
        standard = (flat - mean) * inverse
        return standard @ components if components.ndim else standard * components

    def _regularisation(self, logits: Tensor, spoken: Tensor, label: Tensor) -> Tensor:
        """Mean over pairs, in nats; of ``sft`` a tied pair has none."""
        target, place, response = spoken
        said = logits.flatten(0, 1)[place].float().log_softmax(-1).gather(-1, target[:, None])[:, 0]
        total = said.new_zeros(2 * len(label)).index_add(0, response, said)
        length = response.bincount(minlength=2 * len(label)).clamp(min=1)
        if self.regulariser.kind == "dpo":
            response_a, response_b = total.split(len(label))
            gap = self.regulariser.beta * (response_a - response_b)
            return -(label * logsigmoid(gap) + (1 - label) * logsigmoid(-gap)).mean()
        response_a, response_b = (-total / length).split(len(label))
        return torch.where(label > 0.5, response_a, response_b).mul(label != 0.5).mean()


def starting_head(
    posterior: Posterior, head: Model, features: Features, data: Comparisons, *, seed: int
) -> GaussianModel | AmortizedModel:
    """The head that training starts from, fitted on the frozen backbone's features: cyclic blocks are selected in
    place there.

    Raises:
        ConfigError: If the posterior's settings belong to a frozen backbone, or labels have weights.
    """
    posterior.check_trained()
    if data.weighed:
        raise ConfigError(
            "training a backbone counts every label once: give labels no weight, or train on frozen features"
        )
    if isinstance(posterior, MapSettings):
        shared = {name: getattr(posterior, name) for name in MapSettings.model_fields if name != "kind"}
        posterior = Point(**shared)
    fitted = posterior.fit(head, features, data, seed=seed)
    assert isinstance(fitted, GaussianModel | AmortizedModel)
    return fitted


def load_base(settings: TrainingSettings, where: BackboneSettings) -> tuple[Backbone, Any]:
    """The base to train: tokeniser and backbone, and the network around it (the same, or a language model).

    The weights are read once, in the form that is trained. Where DeepSpeed is to divide them they stay on the CPU until
    it does; 4 bits are made on the GPU.

    Raises:
        ConfigError: If 4 bits are asked for without a GPU, or a regulariser of a backbone that is no decoder.
        WeightsError: As `load_backbone`, and if a regulariser needs a language-model head that the weights lack.
    """
    if settings.mode == "full":  # updates of 1e-5 vanish in bfloat16 weights
        where = where.model_copy(update={"dtype": "float32"})
    if settings.mode == "qlora" and own_device(where.device) == "cpu":
        raise ConfigError("params.yaml: training.mode: qlora computes in 4 bits on a GPU, and there is none; use lora")
    source = open_source(where, computes="bfloat16" if settings.bf16 else None, narrower="set training.bf16 to true")
    regular = settings.regulariser.kind
    if regular != "none" and not is_causal(source):
        raise ConfigError(
            f"params.yaml: training.regulariser.kind: {regular} needs a decoder with its language-model head, and "
            f"{where.path} is an encoder; set it to none"
        )
    options: dict[str, Any] = {}
    if regular != "none":
        options["language_model"] = True
        options["advice"] = (
            "training.regulariser needs the language-model head; set training.regulariser.kind to none, or take a "
            "backbone that has one"
        )
    if settings.mode == "qlora":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        options["device_map"] = {"": source.device}
    net = source.read(dtype=where.dtype, **options)
    if settings.mode != "qlora" and not (settings.deepspeed and is_launched()):
        net = net.to(source.device)
    backbone = source.backbone(net.base_model if regular != "none" else net)
    if getattr(backbone.model, "pooler", None) is not None:
        backbone.model.pooler = None  # never read: it would have no gradient
    return backbone, net


def prepare(model: PreferenceNetwork, settings: TrainingSettings) -> Any:
    """The model with what the mode trains trainable, and nothing else: the head always.

    Returns:
        The model itself, or PEFT's wrapper around it.

    Raises:
        ConfigError: If a target of the adapters matches no module.
    """
    backbone = model.backbone
    if settings.gradient_checkpointing:
        if hasattr(model.net, "activation_checkpointing_enable"):
            model.net.activation_checkpointing_enable({"use_reentrant": False})
        else:  # as transformers called it before
            model.net.gradient_checkpointing_enable({"use_reentrant": False})
        model.net.enable_input_require_grads()
    if settings.mode == "full":
        model.requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if settings.mode == "qlora":
        prepare_model_for_kbit_training(model.net, use_gradient_checkpointing=False)  # it is on where it is asked for
    names = lora_targets(backbone, settings.lora)
    prefix = next(name for name, module in model.named_modules() if module is backbone)
    lora = settings.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast("int", lora.alpha),  # PEFT only divides it by the rank
        lora_dropout=lora.dropout,
        target_modules=[f"{prefix}.{name}" for name in names],
    )
    wrapped = get_peft_model(model, config)
    # PEFT freezes what has no adapter. `modules_to_save` would match by the end of a name, an lm_head too.
    model.preference.requires_grad_(True)
    log.info("adapters of rank %d on %d modules of the backbone", lora.rank, len(names))
    return wrapped


def lora_targets(backbone: nn.Module, lora: LoraSettings) -> list[str]:
    """Names of the backbone's linear modules that get an adapter, sorted.

    Raises:
        ConfigError: If a target matches none; lists what there is.
    """
    from transformers.pytorch_utils import Conv1D

    linear = sorted(name for name, module in backbone.named_modules() if isinstance(module, nn.Linear | Conv1D))
    if lora.targets == "all-linear":
        return linear
    matched = {t: [name for name in linear if f".{name}".endswith(f".{t}")] for t in lora.targets}
    empty = [target for target, names in matched.items() if not names]
    if empty or not matched:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise ConfigError(
            f"params.yaml: training.lora.targets: {', '.join(map(repr, empty)) or 'the empty list'} matches no linear "
            f"module of the backbone; it has: {known}; or set it to all-linear"
        )
    return sorted({name for names in matched.values() for name in names})


def _temperature(posterior: Posterior) -> float:
    """A number to train with where the temperature is chosen afterwards."""
    tau = getattr(posterior, "tau", 1.0)
    if tau == "learn":
        return LEARNT_TAU
    return 1.0 if isinstance(tau, str) else float(tau)
