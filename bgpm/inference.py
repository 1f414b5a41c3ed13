"""A trained model of the pipeline, to compare responses it has never seen.

::

    model = PreferenceModel.load("data/auto/round-5/model")
    mean, variance, probability = model.matrix("Why is the sky blue?", ["Rayleigh scattering.", "Because.", "No."])

Each distinct response to a prompt goes through the backbone once, however many others it is compared with: K responses
cost K forwards for K (K - 1) / 2 scores, with `pair_mlp` too, which reads the features of both. Shapes: K responses to
one prompt, p features. Scores here are in logits, s / tau: what the pipeline's tables hold, divided by the temperature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from huggingface_hub import ModelHubMixin
from tqdm import tqdm

from bgpm import functional as F
from bgpm import hub
from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, embed, load_backbone, tokens
from bgpm.backbones.pairs import PairText, embed_pairs, require_few
from bgpm.data.feature_blocks import OF_PAIRS
from bgpm.data.readers import prompt_of
from bgpm.data.response_columns import check_numbers, read_numbers
from bgpm.data.schema import Message, as_text
from bgpm.data.tables import read_array, read_table, where
from bgpm.errors import DataError, ShapeError, StateError
from bgpm.features import FeatureSettings
from bgpm.features.blocks.columns import PoolColumns
from bgpm.features.reduction import Reduction
from bgpm.posteriors import Fitted, load
from bgpm.sections import section
from bgpm.stage import COLUMNS, EMBEDDINGS, FEATURES, POOL, READS, features_dir, read_params, seeds_of, setting
from bgpm.types import LIKELIHOODS, Features, Pairs
from bgpm.values import read_json

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

ResponseColumns = Mapping[str, Sequence[float]]  # by name, one number a response
Prompt = str | Sequence[Mapping[str, str]]  # text, or messages with role and content up to the user's last turn

NO_COLUMNS: ResponseColumns = MappingProxyType({})
CHUNK = 1024  # texts whose states of every layer are in memory at once


class Matrix(NamedTuple):
    """Every response against every other, float64 [K, K]; the diagonal is 0, 0 and 0.5.

    Attributes:
        mean: Posterior mean of the score of row over column, in logits; exactly antisymmetric.
        variance: Its variance, logits squared, >= 0; symmetric. 0 throughout for a model without uncertainty.
        probability: That the row's response is better than the column's, averaged over the posterior; with the
            transpose it makes 1.
    """

    mean: np.ndarray
    variance: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """Responses in order.

    Attributes:
        order: Positions of the responses, best first: by Borda, the first given first where they are equal.
        borda: [K], a response's mean probability against the others.
        winner: The Condorcet winner, which is more likely than not to be better than every other response; None where
            there is none: preferences may be cyclic. It need not be first in the order.
    """

    order: list[int]
    borda: list[float]
    winner: int | None


@dataclass(frozen=True)
class ResponseSet:
    """Responses to one prompt.

    Attributes:
        prompt: Turns up to the user's last.
        responses: The responses; an empty one is one too, a refusal to answer.
        place: Where they come from, for messages.
        columns: Numbers of the responses by the names of ``features.columns.use``, one a response, NaN where missing.
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    place: str = "responses"
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.responses:
            raise DataError(f"{self.place}: no response: expected a list of texts")
        for number, response in enumerate(self.responses, 1):
            if not isinstance(response, str):
                raise DataError(
                    f"{self.place}: response {number} of {len(self.responses)}: not text: {response!r}; drop it"
                )
        for text in (*self.responses, *(content for _, content in self.prompt)):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{self.place}: half a character (a lone surrogate) in a text: {error}") from None
        for name, numbers in self.columns.items():
            if len(numbers) != len(self.responses):
                raise DataError(
                    f"{self.place}: columns: {name} has {len(numbers)} numbers of {len(self.responses)} responses; "
                    "give one a response, NaN where it is missing"
                )

    @classmethod
    def of(cls, prompt: Prompt, responses: Sequence[str], columns: ResponseColumns = NO_COLUMNS) -> ResponseSet:
        """From what a caller has; DataError for a prompt in which nothing is asked."""
        if isinstance(responses, str):
            raise DataError("responses: expected a list of texts, got one text; put it into a list")
        turns = prompt if isinstance(prompt, str) else list(prompt)
        return cls(prompt_of(turns, "prompt"), tuple(responses), columns=columns)


@dataclass(frozen=True)
class Embedded:
    """Features of the distinct responses of some choices.

    Attributes:
        features: Of each distinct (prompt, response), and of each prompt where the model reads prompts.
        rows: For each choice its responses' rows, int64 [K]; equal responses have one row.
        prompt: For each choice its prompt's row, int64.
        of_pairs: Where the model reads both responses of a pair in one context, what it reads of the rows (i, j), i
            before j, of each choice, float64 [m].
    """

    features: Features
    rows: list[np.ndarray]
    prompt: np.ndarray
    of_pairs: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class PreferenceModel(ModelHubMixin):
    """A fitted head with the backbone and the map to features that it was trained on.

    ``save_pretrained(FOLDER)``, ``from_pretrained(FOLDER_OR_HUB_ID)`` and ``push_to_hub(HUB_ID)`` are those of
    huggingface_hub; `bgpm.hub` says what the folder holds.

    Attributes:
        fitted: The head with its uncertainty.
        backbone, reduction: From text to its features.
        reads_prompt: Whether scores depend on the prompt's own features too (`prompt_gates`).
        base: Where the backbone comes from and how it reads texts; None for a model that is not to be saved.
        trained: Whether the backbone's weights are its own, and not those that ``base`` names.
        facts: What the run says of the model, for its card.
    """

    fitted: Fitted
    backbone: Backbone
    reduction: Reduction
    reads_prompt: bool = False
    base: BackboneSettings | None = None
    trained: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    # The mixin would otherwise copy the fields, weights included, to write them as JSON.
    _hub_mixin_config: ClassVar[dict[str, Any]] = {"library_name": "bgpm"}

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **where: Any) -> PreferenceModel:
        """What `from_pretrained` calls; StateError and WeightsError as `bgpm.hub.restore`."""
        folder = Path(model_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            folder = Path(snapshot_download(model_id, **{name: where[name] for name in known if name in where}))
        parts = hub.restore(folder)
        return cls(
            parts.fitted, parts.backbone, parts.reduction, parts.reads_prompt, parts.base, parts.trained, parts.facts
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        hub.save(self._parts(), save_directory)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card that goes into README.md."""
        from huggingface_hub import ModelCard

        return ModelCard(hub.card(self._parts()))

    def _parts(self) -> hub.Parts:
        if self.base is None:
            raise StateError(
                "this model does not say where its backbone comes from: load it with PreferenceModel.load or "
                "from_pretrained, or give it base"
            )
        return hub.Parts(
            self.fitted, self.backbone, self.reduction, self.base, self.trained, self.reads_prompt, self.facts
        )

    @classmethod
    def load(cls, folder: str | Path, seed: int = 0, root: str | Path = ".") -> PreferenceModel:
        """One seed's model of a round.

        A trained backbone is read from its checkpoint in the folder; a frozen one is params.yaml's, with the map in
        ``data/features/pool``. Where the pool is there, one of its responses is embedded and compared with what the
        model was trained on, so that another backbone of the same size is refused.

        Args:
            folder: A model folder, such as ``data/auto/round-5/model``; relative to ``root``.
            seed: The replication.
            root: The project's folder, with params.yaml and data.

        Raises:
            StateError: If the folder is no model or lacks the seed, a file is damaged, or model, map and backbone are
                not of one run.
            ConfigError: If params.yaml is not there or cannot be used.
            WeightsError: If the backbone cannot be loaded.
        """
        root = Path(root)
        model = root / folder
        seeds = seeds_of(model)
        if seed not in seeds:
            raise StateError(f"{model}: no seed {seed}; it has {', '.join(map(str, seeds))}")
        stem = model / f"seed-{seed}"
        fitted = load(stem)
        base = section(params := read_params(root / "params.yaml"), "backbone", BackboneSettings)
        reads = base.reading()
        if (root / base.path).is_dir():
            base = base.model_copy(update={"path": str(root / base.path)})
        trained = stem / "backbone"
        if trained.is_dir():
            from bgpm.training.checkpoint import restore_backbone

            whole = restore_backbone(trained, base)
            backbone, reduction = whole.backbone, whole.reduction
        else:
            settings = section(params, "features", FeatureSettings)
            reduction = Reduction.load(settings, root / FEATURES / "pool" / "reduction.safetensors")
            _check_reads(model, {"map": reduction.digest, "features": settings.reading(), "backbone": reads})
            backbone = load_backbone(base, likelihood="likelihood" in reduction.parts, letters=reduction.reads_letters)
        read_as = {"template_date": backbone.template_date, "system_turns": backbone.system_turns}
        if trained.is_dir():
            dtype = str(backbone.model.dtype).removeprefix("torch.")
            read_as |= {"pooling": backbone.pooling, "max_tokens": backbone.max_tokens, "dtype": dtype}
        base = base.model_copy(update=read_as)
        reads_prompt = bool(getattr(fitted.model, "prompt_gates", False))
        facts = hub.facts_of(model, seed, root)
        found = cls(fitted, backbone, reduction, reads_prompt, base, trained.is_dir(), facts)
        found._check(model, seed, len(setting(params, "pool").get("pair_columns", {})), root)
        return found

    @property
    def numbers_of_pairs(self) -> int:
        """How many numbers of each pair the head reads beside the features of its responses: those of
        ``pool.pair_columns``, then those that the backbone reads of both texts (``pair_states``)."""
        return self.fitted.in_features - self.reduction.dim

    def embed(self, prompt: Prompt, responses: Sequence[str], columns: ResponseColumns = NO_COLUMNS) -> Features:
        """Features of responses in the context of their prompt, float32 [K, p].

        Args:
            prompt: Text, or messages up to the user's last turn.
            responses: The responses, [K].
            columns: For a model whose features have the block ``columns`` its numbers, by name, [K] each.

        Raises:
            DataError: If nothing is asked in the prompt, a response is empty or lacks a number, or the backbone's chat
                template refuses the conversation.
        """
        found = self.embed_all([ResponseSet.of(prompt, responses, columns)])
        return Features(found.features.responses[found.rows[0]], found.features.prompts)

    def embed_all(self, choices: Sequence[ResponseSet]) -> Embedded:
        """Features for many choices; each distinct response to a prompt is embedded once over all of them.

        Raises:
            DataError: If the backbone's chat template refuses a conversation, or a response lacks a number that the
                features read; names its place.
        """
        numbers = self._numbers(choices)
        prompts: dict[tuple[Message, ...], int] = {}
        distinct: dict[tuple[int, str], int] = {}
        rows, asked = [], []
        for choice in choices:
            if choice.prompt not in prompts:
                prompts[choice.prompt] = len(prompts)
                try:
                    tokens(self.backbone, _messages(choice.prompt), choice.responses[0])
                except DataError as error:
                    raise DataError(f"{choice.place}: {error}") from error
            asked.append(prompts[choice.prompt])
            rows.append(np.array([distinct.setdefault((asked[-1], text), len(distinct)) for text in choice.responses]))
        conversations = [_messages(turns) for turns in prompts]
        asked_text = [as_text(turns) for turns in prompts]
        texts = [(conversations[row], text, text, asked_text[row]) for row, text in distinct]
        # the text that `prepare` gives a prompt counts for the statistics alone, which gates may read
        alone = [(c, None, text, "") for c, text in zip(conversations, asked_text, strict=True)]
        found = {kind: np.array([own[row, text] for row, text in distinct]) for kind, own in numbers.items()}
        responses = self._features(texts, "embed responses", found)
        of_prompts = self._features(alone, "embed prompts") if self.reads_prompt else np.empty((len(prompts), 0))
        of_pairs = {}
        if self.reduction.of_pairs:
            apart = {
                (int(i), int(j)): conversations[prompt]
                for own, prompt in zip(rows, asked, strict=True)
                for i, j in combinations(np.unique(own), 2)
            }
            said = [text for _, text in distinct]
            read = self._read_pairs([(talk, said[i], said[j]) for (i, j), talk in apart.items()])
            of_pairs = dict(zip(apart, read, strict=True))
        return Embedded(Features(responses, of_prompts), rows, np.array(asked, np.int64), of_pairs)

    def pairs_of(
        self, found: Embedded, response_a: np.ndarray, response_b: np.ndarray, prompt: np.ndarray,
        columns: np.ndarray | None = None,
    ) -> Pairs:  # fmt: skip
        """Pairs of embedded responses with what the model reads of each pair.

        Args:
            response_a, response_b: Rows of ``found.features``, int64 [N], of one choice each.
            prompt: Rows of prompts, int64 [N].
            columns: Numbers that ``pool.pair_columns`` names, float64 [N, m]; None, no opinion, is 0.

        Raises:
            ShapeError: If the model reads another number of columns.
        """
        if not self.numbers_of_pairs:
            return Pairs(response_a, response_b, prompt)
        own = self.reduction.pair_dim
        if columns is not None and columns.shape[1] != self.numbers_of_pairs - own:
            raise ShapeError(
                f"pair_columns: the model reads {self.numbers_of_pairs - own} numbers of each pair, got "
                f"{columns.shape[1]}; name the columns of its pool, in their order"
            )
        numbers = np.zeros((len(response_a), self.numbers_of_pairs))
        if columns is not None:
            numbers[:, : columns.shape[1]] = columns
        if own:
            for n, (a, b) in enumerate(zip(response_a.tolist(), response_b.tolist(), strict=True)):
                if a != b:
                    numbers[n, -own:] = found.of_pairs[a, b] if a < b else -found.of_pairs[b, a]
        return Pairs(response_a, response_b, prompt, numbers)

    def compare(self, features: Features, pairs: Pairs) -> Matrix:
        """Mean, variance and probability of any pairs of embedded responses, [N] each; equal responses tie exactly.

        A model that reads numbers of pairs takes 0, no opinion, where these have none; one that reads both texts of a
        pair takes the pairs of `pairs_of`.

        Raises:
            ShapeError: If it reads both texts and the pairs come without what it read.
        """
        if self.reduction.of_pairs and pairs.numbers is None:
            raise ShapeError("this model reads both texts of each pair: compare the pairs that pairs_of gives, or rank")
        if self.numbers_of_pairs and pairs.numbers is None:
            pairs = replace(pairs, numbers=np.zeros((len(pairs), self.numbers_of_pairs)))
        moments = self.fitted.moments(features, pairs)
        probability = F.expected_probability(moments.mean, moments.variance, moments.tau)
        values = moments.mean / moments.tau, moments.variance / moments.tau**2, probability
        same = pairs.response_a == pairs.response_b
        return Matrix(*(np.where(same, tie, value) for tie, value in zip((0.0, 0.0, 0.5), values, strict=True)))

    def matrix(self, prompt: Prompt, responses: Sequence[str], columns: ResponseColumns = NO_COLUMNS) -> Matrix:
        """Every response against every other, from one forward of the backbone for each distinct response.

        Raises:
            DataError: As `embed`.
        """
        return self.matrices([ResponseSet.of(prompt, responses, columns)])[0]

    def matrices(self, choices: Sequence[ResponseSet]) -> list[Matrix]:
        """`matrix` of many choices.

        Raises:
            DataError: As `embed_all`.
        """
        found = self.embed_all(choices)
        return [
            self.matrix_of(found, rows, prompt)
            for rows, prompt in tqdm(
                zip(found.rows, found.prompt, strict=True), "compare", len(choices), unit="prompt", disable=None
            )
        ]

    def rank(self, prompt: Prompt, responses: Sequence[str], columns: ResponseColumns = NO_COLUMNS) -> Ranking:
        """Responses in order, by their mean probability against the others; errors as `matrix`."""
        return ranking(self.matrix(prompt, responses, columns))

    def best_of_n(self, prompt: Prompt, responses: Sequence[str], columns: ResponseColumns = NO_COLUMNS) -> int:
        """Position of the response that `rank` puts first: what `evaluate` takes for best of n; errors as `matrix`."""
        return self.rank(prompt, responses, columns).order[0]

    def matrix_of(self, found: Embedded, rows: np.ndarray, prompt: int) -> Matrix:
        """`matrix` of responses at these rows of what was embedded; equal responses tie exactly."""
        distinct, back = np.unique(rows, return_inverse=True)
        i, j = np.triu_indices(len(distinct), 1)
        square = Matrix(*(np.full((len(distinct),) * 2, middle) for middle in (0.0, 0.0, 0.5)))
        if len(i):
            pairs = self.pairs_of(found, distinct[i], distinct[j], np.full(len(i), prompt))
            upper = self.compare(found.features, pairs)
            turned = -upper.mean, upper.variance, 1 - upper.probability
            for whole, part, other in zip(square, upper, turned, strict=True):
                whole[i, j], whole[j, i] = part, other
        return Matrix(*(whole[np.ix_(back, back)] for whole in square))

    def _numbers(self, choices: Sequence[ResponseSet]) -> dict[str, dict[tuple[int, str], list[float]]]:
        """Of the block ``columns`` the numbers of each distinct response, by its prompt's place and its text.

        Raises:
            DataError: If a response lacks one that may not be missing, or has two.
        """
        block = self.reduction.parts.get("columns")
        if not isinstance(block, PoolColumns):
            return {}
        known: dict[tuple[int, str], list[float]] = {}
        places: dict[tuple[Message, ...], int] = {}
        for choice in completed(choices, block):
            prompt, own = places.setdefault(choice.prompt, len(places)), numbers_of(choice, block)
            known |= {(prompt, text): own[n].tolist() for n, text in enumerate(choice.responses)}
        return {block.kind: known}

    def _read_pairs(self, texts: Sequence[PairText]) -> np.ndarray:
        """What the block of pairs says of conversations with two responses each, float64 [N, m].

        Raises:
            ConfigError: If they are more than its ``max_pairs``.
        """
        block = self.reduction.of_pairs
        assert block is not None
        require_few(len(texts), block.max_pairs, "what is to be compared")
        parts = [np.empty((0, self.reduction.pair_dim))]
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            states = np.zeros((len(chunk), self.backbone.layers, self.backbone.width), np.float32)
            letters = np.zeros((len(chunk), 1)) if block.letters else None
            title = f"embed pairs {start + 1}-{start + len(chunk)} of {len(texts)}"
            embed_pairs(self.backbone, chunk, block.template, states, letters, asks=block.letters, title=title)
            parts.append(self.reduction.pairs(states, letters))
        return np.concatenate(parts)

    def _features(
        self,
        items: Sequence[tuple[list[dict[str, str]], str | None, str, str]],
        title: str,
        numbers: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> np.ndarray:
        """Features float32 [n, p] of conversations with a response or without, of the text that is looked at, and of
        the prompt that it answers, with the numbers of responses that blocks read."""
        parts = [np.empty((0, self.reduction.dim), np.float32)]
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            states = np.empty((len(chunk), self.backbone.layers, self.backbone.width), np.float32)
            part = f"{title} {start + 1}-{start + len(chunk)} of {len(items)}"
            own = {kind: found[start : start + CHUNK] for kind, found in numbers.items()}
            asked = [prompt for *_, prompt in chunk] if chunk[0][1] is not None else None
            backbone, texts = self.backbone, [(messages, response) for messages, response, *_ in chunk]
            if asked is None or "likelihood" not in self.reduction.parts:
                backbone = replace(backbone, language_model=None)
            else:
                own["likelihood"] = np.empty((len(chunk), len(LIKELIHOODS)))
            embed(backbone, texts, states, title=part, likelihood=own.get("likelihood"))
            parts.append(self.reduction(states, [text for *_, text, _ in chunk], asked, own))
        return np.concatenate(parts)

    def _check(self, model: Path, seed: int, of_pairs: int, root: Path) -> None:
        """Refuse a model, a map and a backbone that are not of one run, and other numbers of pairs than so many."""
        fix = "set params.yaml back to what it was trained with, or run `dvc repro`"
        if "states" in self.reduction.parts:
            block, arrays = self.reduction.states
            gives = self.backbone.width * (self.backbone.layers if block.layers == "all" else 1)
            if len(arrays["mean"]) != gives:
                raise StateError(
                    f"{model}: the map to its features reads {len(arrays['mean'])} states; backbone and features of "
                    f"params.yaml give {gives}; {fix}"
                )
        if strangers := self.reduction.strangers:
            raise StateError(
                f"{model}: the map to its features has blocks that features of params.yaml do not name "
                f"({', '.join(strangers)}); {fix}"
            )
        if self.numbers_of_pairs != of_pairs + self.reduction.pair_dim:
            beside = f", and pool.pair_columns {of_pairs} more" if of_pairs else ""
            beside += f", and pair_states {self.reduction.pair_dim} more" if self.reduction.pair_dim else ""
            raise StateError(
                f"{model}: seed {seed} reads {self.fitted.in_features} features and the map to them gives "
                f"{self.reduction.dim}{beside}: they are not of one run; {fix}"
            )
        noted = root / EMBEDDINGS / "pool" / "summary.json"
        if not self.trained and noted.is_file():
            then, now = read_json(noted).get("template_date"), self.backbone.template_date
            if then not in (None, now):
                raise StateError(
                    f"{model}: the chat template wrote the day {then} when this model's features were made, and "
                    f"backbone.template_date is {now}; {fix}"
                )
        own = features_dir(model, seed, "pool")
        stored = (own if own.is_relative_to(model) else root / own) / "responses.npy"
        tables = [root / POOL / f"{name}.parquet" for name in ("prompts", "responses")]
        block, columns = self.reduction.parts.get("columns"), root / COLUMNS / "pool.parquet"
        needed = [columns] if isinstance(block, PoolColumns) else []
        if not all(path.is_file() for path in (stored, *tables, *needed)):  # a model that was taken away from its pool
            return
        texts = read_table(tables[1], ["prompt", "text"])
        asked = where(read_table(tables[0], ["messages", "text"]), texts["prompt"][:1])
        expected = read_array(stored, mapped=True)[0]
        first = (json.loads(asked["messages"][0]), texts["text"][0], texts["text"][0], asked["text"][0])
        own = {block.kind: read_numbers(columns, block.use, "mean")[:1]} if isinstance(block, PoolColumns) else {}
        got = self._features([first], "check", own)[0]
        if not np.linalg.norm(got - expected) <= hub.ALIKE * np.linalg.norm(expected):
            raise StateError(
                f"{model}: the backbone gives other features of the pool's first response than those it was trained on "
                f"({stored}): it is another model, or reads texts in another way; {fix}"
            )
        if self.reduction.of_pairs:
            self._check_pairs(model, root, texts["text"], fix)

    def _check_pairs(self, model: Path, root: Path, texts: np.ndarray, fix: str) -> None:
        """StateError if the pool's first pair is read otherwise than it was, by another template for example."""
        stored = root / FEATURES / "pool" / OF_PAIRS
        table = root / POOL / "pairs.parquet"
        if not (stored.is_file() and table.is_file()):
            return
        pair = where(read_table(table, ["prompt", "response_a", "response_b"]), np.arange(1))
        prompt, a, b = (int(pair[name][0]) for name in ("prompt", "response_a", "response_b"))
        asked = read_table(root / POOL / "prompts.parquet", ["messages"])["messages"][prompt]
        expected = read_array(stored, mapped=True)[0, -self.reduction.pair_dim :]
        got = self._read_pairs([(json.loads(asked), texts[a], texts[b])])
        if not np.linalg.norm(got[0] - expected) <= hub.ALIKE * np.linalg.norm(expected):
            raise StateError(
                f"{model}: the backbone gives other states of the pool's first pair than those it was trained on "
                f"({stored}): it is another model, or features.pair_states another; {fix}"
            )


def _check_reads(model: Path, now: Mapping[str, Any]) -> None:
    """StateError if the model was fitted under another map, or on texts that were read otherwise."""
    if not (model / READS).is_file():  # of an earlier version
        return
    then = read_json(model / READS)
    if differs := [name for name, value in now.items() if then.get(name) != value]:
        what = {"map": "data/features", "features": "features of params.yaml", "backbone": "backbone of params.yaml"}
        raise StateError(
            f"{model}: was fitted on other features than {' and '.join(what[name] for name in differs)} give now; set "
            "params.yaml as it was and run `dvc checkout`, or take a model of this run"
        )


def completed(choices: Sequence[ResponseSet], block: PoolColumns) -> list[ResponseSet]:
    """The choices, each with the numbers that any of them gives for the same response.

    Raises:
        DataError: If a response has two.
    """
    known: dict[tuple[tuple[Message, ...], str, str], float] = {}
    for choice in choices:
        for name in block.use:
            for n, (text, number) in enumerate(zip(choice.responses, choice.columns.get(name, ()), strict=False), 1):
                if np.isfinite(number) and known.setdefault((choice.prompt, text, name), number) != number:
                    raise DataError(
                        f"{choice.place}: response {n} has {number} as {name}, and the same text elsewhere "
                        f"{known[choice.prompt, text, name]}; a number of a response cannot depend on what it is "
                        "compared with: give one"
                    )
    return [
        replace(
            choice,
            columns={
                name: [known.get((choice.prompt, text, name), np.nan) for text in choice.responses]
                for name in block.use
            },
        )
        for choice in choices
    ]


def numbers_of(choice: ResponseSet, block: PoolColumns) -> np.ndarray:
    """What a block reads of some responses, float64 [K, columns], NaN where a number is missing.

    Raises:
        DataError: If one is missing that must not be.
    """
    nothing = [np.nan] * len(choice.responses)
    numbers = np.array([choice.columns.get(name, nothing) for name in block.use], np.float64).T
    if block.missing == "refuse":
        check_numbers(numbers, block.use, choice.place, [f"number {n + 1}" for n in range(len(numbers))])
    return numbers


def ranking(matrix: Matrix) -> Ranking:
    """Order, Borda and the Condorcet winner of responses that were all compared; one alone is its own winner."""
    k = len(matrix.mean)
    borda = (matrix.probability.sum(1) - 0.5) / (k - 1) if k > 1 else np.array([0.5])  # the diagonal is against itself
    beats = (matrix.mean > 0).sum(1)
    winners = np.flatnonzero(beats == k - 1)
    return Ranking(
        np.argsort(-borda, kind="stable").tolist(), borda.tolist(), int(winners[0]) if len(winners) else None
    )


def _messages(turns: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]
