"""A decoder on this machine as the annotator, by its logits of two letters: no text is generated."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import expit

from bgpm.annotations.store import Annotation, Shown
from bgpm.annotations.texts import batch_texts
from bgpm.backbones import PAIR_TEMPLATE, BackboneSettings, PairTemplate
from bgpm.errors import ConfigError
from bgpm.oracles import Oracle, OracleFiles, Query, Verdicts
from bgpm.oracles._orders import position_bias

log = logging.getLogger("bgpm")

ASKS, WORKER = "oracles.letters", "bgpm.backbones.letters"


class Letters(Oracle):
    """Labels from a decoder's logits of "A" and "B" as the next word after a text with both responses.

    Each pair is read in both orders. The log odds of the first response are averaged over the two, and the label is
    the sigmoid of that, so that a pair whose responses are swapped has one less the label. What each order says by
    itself is in the annotations. Nothing is kept in a store: the same texts are read anew in each run. Answers have no
    time.

    Attributes:
        path: The decoder: hub id, local folder, or ``package:NAME``, as ``backbone.path``.
        revision, sha256: Of the decoder, as in section ``backbone``.
        template: What it reads, with {prompt}, {response_a} and {response_b} once each; one user turn where the
            decoder has a chat template.
        max_tokens: Longest text, template included. The prompt is cut from its left first, then both responses from
            their right.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one.
        dtype: Precision of the forward pass.
        allow_many: Let several seeds or two arms ask, each for its own batch.
    """

    kind: Literal["letters"] = "letters"
    path: str | None = None
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    template: PairTemplate = PAIR_TEMPLATE
    max_tokens: int = Field(default=1024, ge=8)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    allow_many: bool = False
    paid: ClassVar[bool] = True
    by_language_model: ClassVar[bool] = True
    worker: ClassVar[str | None] = WORKER

    @property
    def _backbone(self) -> BackboneSettings:
        if not self.path:
            raise ConfigError(
                f"params.yaml: {ASKS}.path: missing; name a decoder, such as Qwen/Qwen2.5-7B-Instruct or a local folder"
            )
        where = {name: getattr(self, name) for name in ("path", "revision", "sha256", "max_tokens", "device", "dtype")}
        return BackboneSettings(pooling="last", **where)

    def check(self, annotations: Path) -> None:
        """See `Oracle`. What the hub is to give is looked at when pairs are asked for, before its weights are read.

        Raises:
            WeightsError: If the decoder cannot be found.
        """
        backbone = self._backbone
        if backbone.path.startswith("package:") or Path(backbone.path).is_dir():
            importlib.import_module(WORKER).require_letters(backbone, ASKS)

    def __call__(self, queries: Sequence[Query], files: OracleFiles) -> Verdicts:
        """See `Oracle`."""
        if not queries:
            return Verdicts(np.empty(0), np.empty(0), ())
        asked = {query.pair_id for query in queries}
        texts = [text for text in batch_texts(files.batch, files.pool) if text["pair_id"] in asked]
        pairs = [
            ([{"role": "user", "content": text["prompt"]}], text["response_a"], text["response_b"]) for text in texts
        ]
        odds = importlib.import_module(WORKER).odds(self._backbone, pairs, self.template, ASKS)
        names = [text["pair_id"] for text in texts]
        said = {name: self._annotations(name, row) for name, row in zip(names, odds.tolist(), strict=True)}
        first, second = position_bias(said.values())
        log.info("letters of %s: %d pairs, position bias %.0f%% (first %.0f%%, second %.0f%%)",
                 self.path, len(said), 100 * (first + second), 100 * first, 100 * second)  # fmt: skip
        label = dict(zip(names, expit(odds.mean(1)).tolist(), strict=True))
        found = np.array([label[query.pair_id] for query in queries], np.float64)
        return Verdicts(found, np.full(len(found), np.nan), tuple(said[query.pair_id] for query in queries))

    def _annotations(self, pair_id: str, odds: Sequence[float]) -> tuple[Annotation, Annotation]:
        """What the decoder says of a pair in each order, from the log odds of its first response."""
        ab, ba = (self._annotation(pair_id, shown, of) for shown, of in zip(("ab", "ba"), odds, strict=True))
        return ab, ba

    def _annotation(self, pair_id: str, shown: Shown, odds: float) -> Annotation:
        who = f"{self.path} ({shown})"
        return Annotation(
            pair_id, float(expit(odds)), who, at="", source="judge", shown=shown, note=f"log odds {odds:.4f}",
            id=f"letters {who} {pair_id}",
        )  # fmt: skip
