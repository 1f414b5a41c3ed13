"""From stored states and texts to features: blocks fitted on responses of the unlabelled pool, side by side.

What is fitted is fitted on the pool, never on held-out or benchmark texts. Every layer of a model's states is more than
memory holds: of many texts a sample is fitted on, and chunks are mapped in turn, so that memory does not grow with
their number but for what comes out.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bgpm.errors import ConfigError, StateError
from bgpm.features import FeatureSettings
from bgpm.features.blocks import Arrays, Block, Inputs, built
from bgpm.features.blocks.pair_states import PairStates
from bgpm.features.blocks.states import States, refuse
from bgpm.types import FeatureBlock

SAMPLE = 20_000  # responses that are fitted on: many times the dimensions that PCA keeps
FITTED = 2**29  # numbers of states that are fitted on, 4 GiB in float64; wide models only: fewer are fitted on
CHUNK = 2**24  # numbers of states that are mapped at a time, 128 MiB
TEXTS = 2**14  # texts that are mapped at a time, where their states are few
AT_ONCE = 2**20  # numbers that are read from a file at a time

Numbers = Mapping[str, np.ndarray]  # float64 [n, columns] by the kind of the block that reads them
Chunks = Iterable[tuple[Sequence[str], Sequence[str], Numbers]]  # of texts, with the prompts that they answer


class Reduction:
    """A fitted map from states [n, layers, width] and texts to features [n, p], float32.

    Attributes:
        settings: Which blocks.
        parts: The blocks of single texts by kind, in the order of their columns.
        of_pairs: The block that maps pairs, if there is one; fitted by `with_pairs`.
        arrays: What they were fitted to, by name: `States` under its own names, others under ``KIND_NAME``.
    """

    def __init__(self, settings: FeatureSettings, arrays: Arrays) -> None:
        self.settings = settings
        self.parts = _of_texts(settings)
        self.of_pairs = next((block for block in built(settings).values() if isinstance(block, PairStates)), None)
        self.arrays = arrays

    @classmethod
    def fit(
        cls,
        settings: FeatureSettings,
        states: np.ndarray,
        texts: Sequence[str],
        rows: np.ndarray | None = None,
        prompts: Sequence[str] | None = None,
        numbers: Numbers | None = None,
    ) -> Reduction:
        """Fit on the pool's responses.

        Args:
            states: [n, layers, width]; of a memory map nothing is read but what is fitted on.
            texts: The n responses.
            rows: Those to fit on, of which `sample` takes some where they are many; None for all.
            prompts: Text of each response's prompt, for blocks that read it.
            numbers: Of all n responses, for blocks that are `given` some.

        Raises:
            NumericsError: If a state is not finite; names the row.
            ConfigError: If a block reads prompts or numbers and there are none.
        """
        taken = sample(settings, states, np.arange(len(states)) if rows is None else rows)
        chosen: list[int] = taken.tolist()
        asked = None if prompts is None else [prompts[row] for row in chosen]
        some = {kind: found[taken] for kind, found in (numbers or {}).items()}
        return cls.fit_on(settings, read_states(states, taken), [texts[row] for row in chosen], asked, taken, some)

    @classmethod
    def fit_on(
        cls,
        settings: FeatureSettings,
        states: np.ndarray,
        texts: Sequence[str],
        prompts: Sequence[str] | None,
        rows: np.ndarray,
        numbers: Numbers | None = None,
    ) -> Reduction:
        """As `fit`, on exactly these n responses; ``rows`` is how messages number them."""
        parts = _of_texts(settings)
        inputs = Inputs(states, texts, _contexts(parts, texts, prompts), rows, _checked(parts, len(texts), numbers))
        arrays = {_name(kind, name): a for kind, block in parts.items() for name, a in block.fit(inputs).items()}
        return cls(settings, arrays)

    @property
    def blocks(self) -> tuple[FeatureBlock, ...]:
        """Where each block's columns are; a block without columns is left out."""
        found, at = [], 0
        for kind, block in self.parts.items():
            width = block.dim(self._own(kind))
            if width:
                found.append(FeatureBlock(kind, at, at + width))
            at += width
        return tuple(found)

    @property
    def dim(self) -> int:
        """p, the number of features."""
        return sum(block.dim(self._own(kind)) for kind, block in self.parts.items())

    @property
    def pair_dim(self) -> int:
        """How many features of each pair there are beside those of its responses."""
        return self.of_pairs.dim(self._own_of_pairs()) if self.of_pairs else 0

    def with_pairs(self, states: np.ndarray, letters: np.ndarray | None, rows: np.ndarray) -> Reduction:
        """The same map with the block of pairs fitted too.

        Args:
            states: [N, layers, width], antisymmetric (`bgpm.backbones.pairs`); a memory map is read where it is needed.
            letters: float64 [N, 1], where the block reads them.
            rows: Those to fit on, ascending, of which a sample is taken where they are many.
        """
        block = self._pair_block()
        taken = _some(rows, block.width(states))
        fitted = block.fit(_of_pairs(read_states(states, taken), letters, taken))
        return Reduction(self.settings, {**self.arrays, **{_name(block.kind, n): a for n, a in fitted.items()}})

    def pairs(self, states: np.ndarray, letters: np.ndarray | None) -> np.ndarray:
        """Features of pairs, float64 [N, m]; -states gives their negatives to the bit."""
        block, found = self._pair_block(), [np.empty((0, self.pair_dim))]
        size = self.chunk(states)
        for start in range(0, len(states), size):
            rows = np.arange(start, min(start + size, len(states)))
            found.append(block(_of_pairs(read_states(states, rows), letters, rows), self._own_of_pairs()))
        return np.concatenate(found)

    def _pair_block(self) -> PairStates:
        if self.of_pairs is None:
            raise ConfigError("params.yaml: features.blocks: expected pair_states among them")
        return self.of_pairs

    def _own_of_pairs(self) -> Arrays:
        block = self._pair_block()
        return {name: self.arrays[_name(block.kind, name)] for name in block.names}

    @property
    def reads_letters(self) -> bool:
        """Whether the block of pairs asks a decoder for letters."""
        return self.of_pairs is not None and self.of_pairs.letters

    @property
    def states(self) -> tuple[States, Arrays]:
        """The block of states and what it was fitted to.

        Raises:
            ConfigError: If there is none.
        """
        block = self.parts.get("states")
        if not isinstance(block, States):
            raise ConfigError(
                f"params.yaml: features.blocks: expected states among them, got {', '.join(self.parts)}; "
                "what trains a backbone learns through its states"
            )
        return block, self._own("states")

    @property
    def given(self) -> dict[str, Sequence[str]]:
        """Names of the numbers that blocks read beside states and texts, by kind."""
        return {kind: block.given for kind, block in self.parts.items() if block.given}

    @property
    def strangers(self) -> list[str]:
        """Arrays of blocks that the settings do not ask for."""
        known = {_name(kind, name) for kind, block in built(self.settings).items() for name in block.names}
        return sorted(name for name, array in self.arrays.items() if name not in known and array.size)

    def __call__(
        self,
        states: np.ndarray,
        texts: Sequence[str],
        prompts: Sequence[str] | None = None,
        numbers: Numbers | None = None,
    ) -> np.ndarray:
        """Features float32 [n, p] of any texts.

        Args:
            states: [n, layers, width].
            texts: The texts.
            prompts: What each of them answers; None for texts that answer nothing, as prompts themselves.
            numbers: What blocks that are `given` numbers read, of responses.

        Raises:
            ConfigError: If a block reads numbers and responses come without.
            NumericsError: If a state is not finite; names the row.
        """

        found = {} if prompts is None else _checked(self.parts, len(texts), numbers)

        def chunks() -> Chunks:
            size = self.chunk(states)
            for at in range(0, len(texts), size):
                some = texts[at : at + size]
                asked = [""] * len(some) if prompts is None else prompts[at : at + size]
                yield some, asked, {kind: own[at : at + size] for kind, own in found.items()}

        return self.write(states, chunks())

    def chunk(self, states: np.ndarray) -> int:
        """How many texts are mapped at a time."""
        return max(1, min(TEXTS, CHUNK // (states.shape[1] * states.shape[2])))

    def write(self, states: np.ndarray, chunks: Chunks) -> np.ndarray:
        """As `__call__`, from texts that come a chunk at a time, of `chunk` texts or fewer."""
        out = np.empty((len(states), self.dim), np.float32)
        at, bad = 0, [np.empty(0, np.int64)]
        for texts, prompts, numbers in chunks:
            rows = np.arange(at, at + len(texts))
            inputs = Inputs(read_states(states, rows), texts, prompts, rows, numbers)
            column = 0
            for kind, block in self.parts.items():
                values = block(inputs, self._own(kind))
                out[at : at + len(texts), column : column + values.shape[1]] = values
                column += values.shape[1]
            bad.append(rows[~np.isfinite(out[at : at + len(texts)]).all(1)])
            at += len(texts)
        refuse(np.concatenate(bad))
        return out

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the fitted arrays."""
        return _digest(self.arrays)

    def save(self, path: Path) -> None:
        """Write the fitted arrays as safetensors: the same bytes for the same arrays, whatever wrote them.

        A digest of them lies beside, since a number that changed would still make features.
        """
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        save_file(arrays, path, metadata={"sha256": self.digest})

    @classmethod
    def load(cls, settings: FeatureSettings, path: Path) -> Reduction:
        """The inverse of `save`.

        Raises:
            StateError: If the file is missing, or holds other numbers than were written or than these settings give.
        """
        try:
            with safe_open(path, framework="np") as file:
                arrays, known = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
            needed = {_name(kind, name) for kind, block in built(settings).items() for name in block.names}
            if lacking := needed - arrays.keys():
                raise ValueError(f"without {', '.join(sorted(lacking))}")
            for kind, block in built(settings).items():
                try:
                    block.check({name: arrays[_name(kind, name)] for name in block.names})
                except ValueError as error:
                    raise ValueError(f"{kind}: {error}") from None
            if known.get("sha256") != _digest(arrays):
                raise ValueError("it is not as it was written: damaged, or changed since")
        except (OSError, ValueError, SafetensorError) as error:
            raise StateError(f"{path}: is not a fitted reduction ({error}); run `dvc repro features`") from error
        if "components" in arrays:  # As `fit` holds them: products of the other order round differently.
            arrays["components"] = np.asarray(arrays["components"], order="F")
        return cls(settings, arrays)

    def _own(self, kind: str) -> Arrays:
        return {name: self.arrays[_name(kind, name)] for name in self.parts[kind].names}


def _digest(arrays: Arrays) -> str:
    digest = sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def sample(settings: FeatureSettings, states: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows to fit on: all, or where they are more than `SAMPLE` or their states more than `FITTED` numbers a sample of
    them in their order, the same each time."""
    block = built(settings).get("states")
    return _some(rows, block.width(states) if isinstance(block, States) else 1)


def _some(rows: np.ndarray, width: int) -> np.ndarray:
    """All rows, or a sample, of so many numbers each."""
    most = min(SAMPLE, max(1, FITTED // width))
    return rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def read_states(states: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of ascending rows the states [n, layers, width], in memory.

    A file that is mapped whole counts as memory page by page as it is read: here it is mapped anew for some rows at a
    time.
    """
    if not (isinstance(states, np.memmap) and isinstance(states.base, mmap.mmap) and states.filename):
        return states[rows]
    out = np.empty((len(rows), *states.shape[1:]), states.dtype)
    for at in _steps(rows, max(1, AT_ONCE // int(np.prod(states.shape[1:])))):
        mapped = np.memmap(states.filename, states.dtype, "r", states.offset, states.shape)
        out[at] = mapped[rows[at]]
        del mapped
    return out


def _steps(rows: np.ndarray, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, len(rows), size))


def _of_texts(settings: FeatureSettings) -> dict[str, Block]:
    return {kind: block for kind, block in built(settings).items() if not block.of_pairs}


def _of_pairs(states: np.ndarray, letters: np.ndarray | None, rows: np.ndarray) -> Inputs:
    numbers = {} if letters is None else {"pair_states": letters[rows]}
    return Inputs(states, [], [], rows, numbers)


def _contexts(parts: dict[str, Block], texts: Sequence[str], prompts: Sequence[str] | None) -> Sequence[str]:
    if prompts is not None:
        return prompts
    if reading := [kind for kind, block in parts.items() if block.reads_prompt]:
        raise ConfigError(f"features.blocks: {', '.join(reading)} reads the prompt of each response; pass prompts")
    return [""] * len(texts)


def _checked(parts: dict[str, Block], count: int, numbers: Numbers | None) -> Numbers:
    """The numbers that the blocks read, if each of so many texts has them."""
    found = {}
    for kind, block in parts.items():
        if not block.given:
            continue
        own = (numbers or {}).get(kind)
        if own is None or own.shape != (count, len(block.given)):
            raise ConfigError(
                f"features.blocks: {kind} reads {', '.join(block.given)} of each response; pass numbers of shape "
                f"[{count}, {len(block.given)}] for it, got {'none' if own is None else list(own.shape)}"
            )
        found[kind] = own
    return found


def _name(kind: str, name: str) -> str:
    return name if kind == "states" else f"{kind}_{name}"
