"""What a word2vec run is: a frozen dataclass, free of JAX."""

import dataclasses
import re
from typing import Literal

from jaxllm.config import check_seed
from jaxllm.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Word2VecConfig:
    """A word2vec run: everything that, with the text, decides its vectors.

    The names and defaults are those of Mikolov et al. 2013 and their word2vec.

    >>> Word2VecConfig(algorithm="cbow").rate
    0.075
    """

    run_dir: str = "runs/vectors"
    """Folder that the run writes, and everything it writes."""
    seed: int = 0
    """Decides initial vectors, which words are dropped, windows and noise."""
    corpus: str = "python-stdlib"
    """A named corpus, a text, JSON lines or Parquet file, or a folder of them."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    pattern: str = r"\w+"
    """Regular expression of a word; what is between words is dropped."""
    lowercase: bool = True
    """Whether words are written small before they are counted."""
    unit: Literal["document", "line"] = "document"
    """What a window never leaves."""
    min_count: int = 5
    """Words that occur less often than this are dropped."""
    max_words: int | None = None
    """Keep this many words at most, the most frequent ones; null keeps all."""
    algorithm: Literal["skipgram", "cbow"] = "skipgram"
    """skipgram: a word predicts each neighbour; cbow: their mean predicts the word."""
    emb_dim: int = 100
    """Numbers per word."""
    window: int = 5
    """Neighbours on either side at most; the number is drawn anew for each word."""
    negatives: int = 5
    """Noise words per word that is to be predicted."""
    noise_power: float = 0.75
    """Noise words are drawn by their frequency to this power."""
    subsample: float = 1e-3
    """Frequency above which occurrences are dropped at random; 0 keeps all."""
    epochs: int = 5
    """Passes over the text."""
    learning_rate: float | None = None
    """Rate at the start; null for 0.025 (skipgram) or 0.075 (cbow)."""
    min_learning_rate: float = 1e-4
    """Rate at the end of the linear decay."""
    block_size: int = 16
    """Successive words that share one draw of noise words."""
    block_noise: int | None = None
    """Noise words per block, weighted so that they count as `negatives` per word to be
    predicted; null for block_size (skipgram) or half of it (cbow)."""
    batch_size: int | None = None
    """Words per update; its blocks come from places far apart. Null for 1,024, or fewer
    where few different words would repeat too often in it; the run's config tells."""
    chunk_size: int = 65536
    """Words of text that are drawn from at once; windows do not cross its ends."""
    checkpoint_seconds: float = 60.0
    """Seconds between two checkpoints."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("min_count emb_dim window negatives epochs block_size").split():
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        for name in "subsample min_learning_rate checkpoint_seconds".split():
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"{name} must be >= 0, got {value}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be > 0, got {self.learning_rate}")
        for name in "max_words block_noise".split():
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        size = self.block_size if self.batch_size is None else self.batch_size
        if size < 1 or size % self.block_size:
            raise ConfigError(
                f"batch_size must be a multiple of block_size {self.block_size}, "
                f"got {size}"
            )
        if self.chunk_size < size:
            name = "block_size" if self.batch_size is None else "batch_size"
            raise ConfigError(
                f"chunk_size must be >= {name} {size}, got {self.chunk_size}"
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"pattern must be a regular expression, got {self.pattern!r}: {error}"
            ) from None

    @property
    def rate(self) -> float:
        """The learning rate at the start."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.025 if self.algorithm == "skipgram" else 0.075

    @property
    def noise_words(self) -> int:
        """The noise words of a block."""
        if self.block_noise is not None:
            return self.block_noise
        size = self.block_size
        return size if self.algorithm == "skipgram" else max(1, size // 2)
