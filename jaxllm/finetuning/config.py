"""What a finetuning run is: frozen dataclasses, as a training run has them.

A run has a base, from which it starts; examples; a task, which says what is learnt
from them; and a choice of what trains.
"""

import dataclasses
from typing import Literal

from jaxllm.config import (
    GPTConfig,
    LoopConfig,
    MeshConfig,
    OptimizerConfig,
    TokenizerConfig,
    check_seed,
)
from jaxllm.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The model that a run starts from."""

    source: str | None = None
    """A run directory; a folder with a GPT-2 of Hugging Face or OpenAI; OWNER/NAME of
    one on the Hugging Face hub; null draws a model at random."""
    checkpoint: str = "last"
    """last, best, or the step of a checkpoint, of a run."""
    keep: bool = True
    """Whether the run keeps what of the base does not train, and so can be moved. If
    not, it knows the base by its source and a digest of its parameters."""
    drop_rate: float | None = None
    """Dropout in place of the base's; null for the base's own."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the matrix products in place of the base's; null for its own."""
    remat: Literal["none", "block", "dots"] | None = None
    """What the backward pass recomputes, in place of the base's; null for its own."""

    def __post_init__(self) -> None:
        if self.source is None and not self.keep:
            raise ConfigError("keep must be true without a source, got false")

    def changed(self, model: GPTConfig) -> GPTConfig:
        """Change in a base's model what the run has in its place."""
        names = ("drop_rate", "dtype", "remat")
        given = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(model, **given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """Which examples a run learns from, and how they are cut into batches."""

    file: str = "sms-spam"
    """The name of known examples, or a .json, .jsonl, .ndjson, .parquet, .csv or .tsv
    file."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of a .csv or .tsv file; null reads them from its first
    line."""
    quoted: bool | None = None
    """Whether double quotes keep delimiters in a field; null says yes for .csv, no for
    .tsv."""
    validation_fraction: float = 0.1
    """Share of the examples that are judged as the run goes on, in (0, 1)."""
    test_fraction: float = 0.2
    """Share of the examples that are judged at the end, in (0, 1)."""
    max_length: int | None = None
    """Tokens past which an example is cut; the model's context if null."""
    batch_size: int = 8
    """Examples per training step, over all devices and accumulation steps."""
    drop_last: bool = True
    """Whether a last batch that is not full is left out."""

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ConfigError(f"{name} must be in (0, 1), got {value}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError(
                "validation_fraction + test_fraction must leave examples to learn "
                f"from, got {self.validation_fraction} + {self.test_fraction}"
            )
        for name in ("max_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Shares of training, validation and test examples."""
        held_out = self.validation_fraction + self.test_fraction
        return 1 - held_out, self.validation_fraction, self.test_fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """The task of telling the class of a text."""

    text_column: str = "text"
    """The field that holds the text."""
    label_column: str = "label"
    """The field that holds the label."""
    labels: tuple[str, ...] | None = None
    """Names of the labels, in the order of their numbers; null takes those that occur,
    sorted. The run keeps them."""
    balance: Literal["none", "undersample", "weights"] = "none"
    """undersample: as many texts of each label as the rarest has; weights: texts of a
    rare label count more in the loss."""
    pooling: Literal["last", "first", "mean"] = "last"
    """Which hidden states a text is judged by: that of its last token, of its first,
    or the mean of all."""
    pad_to: Literal["longest", "batch", "max_length"] = "longest"
    """How wide a batch is: as the longest training text, as its own longest text, or
    max_length."""
    read_padding: bool = False
    """Whether padding is read as if it were text, as the notes' book does."""
    width: int | None = None
    """Tokens up to which padding is read; null takes what pad_to says. The run keeps
    it."""
    causal: bool = True
    """Whether a token sees only what precedes it; if not, all of the text."""

    def __post_init__(self) -> None:
        if len({*(self.labels or ())}) < len(self.labels or ()):
            got = ", ".join(self.labels or ())
            raise ConfigError(f"labels must have different names, got {got}")
        if self.width is not None and self.width < 1:
            raise ConfigError(f"width must be >= 1, got {self.width}")
        if self.read_padding and self.pad_to == "batch":
            # A label would depend on the texts beside it.
            raise ConfigError(
                "pad_to must be longest or max_length where read_padding is true, "
                "got batch"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructConfig:
    """The task of answering instructions, and how they are written."""

    template: str | None = None
    """alpaca, phi_3, chat, or a YAML file; null takes the base's own, or alpaca where
    it has none. The run keeps it."""
    special_marks: bool = False
    """Whether the marks of a template of turns, and its end, become special tokens, of
    one id each; the embedding grows by a row for each that is new."""
    response_only: bool = False
    """Whether only answers are learnt, and no prompts; of a conversation, every answer
    of the assistant. Held-out records are judged by their answers either way."""
    batches: Literal["packed", "length", "shuffled"] = "packed"
    """What shares a batch. packed: its rows have the width of max_length and hold
    several examples each; length: examples of about one length; shuffled: any."""
    overlong: Literal["truncate", "drop"] = "truncate"
    """What becomes of an example that is too long: it loses the end of its response,
    or is left out."""
    samples: int = 3
    """Held-out instructions that are answered in each sample."""

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ConfigError(f"samples must be >= 0, got {self.samples}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """The task of preferring one answer to another (DPO)."""

    chosen: str = "chosen"
    """The field that holds the answer to prefer."""
    rejected: str = "rejected"
    """The field that holds the other one."""
    beta: float = 0.1
    """How much a nat of margin counts; the smaller, the further from the base the loss
    pulls."""

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ConfigError(f"beta must be > 0, got {self.beta}")


# What each choice reads of a TrainableConfig.
_READ = {
    "last_blocks": ("blocks", "new_tokens"),
    "lora": ("rank", "alpha", "adapt", "new_tokens"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainableConfig:
    """What of the model trains; the head of a classifier always does."""

    what: Literal["head", "last_blocks", "all", "lora"] = "all"
    """head: a classifier's head alone; last_blocks: the final norm and the last blocks
    too; all: everything; lora: low-rank adapters of the linear layers."""
    blocks: int = 1
    """Blocks that train, counted from the last (last_blocks only)."""
    rank: int = 8
    """Rank of each adapter (lora only)."""
    alpha: float = 16.0
    """Scales each adapter, divided by its rank (lora only)."""
    adapt: Literal["all_linear", "query_value"] = "all_linear"
    """Which layers of a block have adapters (lora only)."""
    new_tokens: int | None = None
    """Rows of the embedding, counted from the last, that train where the rest of it is
    frozen (lora and last_blocks only); null takes those of the special tokens that the
    run adds. The run keeps it."""

    def __post_init__(self) -> None:
        read = {"what", *_READ.get(self.what, ())}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in read and value != field.default:
                raise ConfigError(
                    f"{field.name} must be left out where what is {self.what}, "
                    f"got {value}"
                )
        if self.new_tokens is not None and self.new_tokens < 0:
            raise ConfigError(f"new_tokens must be >= 0, got {self.new_tokens}")
        for name in ("blocks", "rank"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        if self.alpha <= 0:
            raise ConfigError(f"alpha must be > 0, got {self.alpha}")

    def with_new_tokens(self, count: int | None) -> "TrainableConfig":
        """Fill in what the run adds, where new_tokens is null and read."""
        if self.new_tokens is not None or "new_tokens" not in _READ.get(self.what, ()):
            return self
        return dataclasses.replace(self, new_tokens=count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A whole finetuning run: everything that, with base and code, decides its bits."""

    task: Literal["classify", "instruct", "preference"] = "classify"
    """What is learnt."""
    run_dir: str = "runs/finetuned"
    """Folder that the run writes, and everything it writes."""
    seed: int = 0
    """Decides the split, the order of examples, dropout, and what is drawn anew."""
    base: BaseConfig = dataclasses.field(default_factory=BaseConfig)
    """The model that the run starts from."""
    model: GPTConfig = dataclasses.field(default_factory=GPTConfig)
    """The model, where there is no base; a run writes its base's here."""
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    """The tokenizer, where there is no base."""
    data: ExamplesConfig = dataclasses.field(default_factory=ExamplesConfig)
    """The examples and their batches."""
    classify: ClassifyConfig = dataclasses.field(default_factory=ClassifyConfig)
    """The task of telling the class of a text."""
    instruct: InstructConfig = dataclasses.field(default_factory=InstructConfig)
    """The task of answering instructions, and how they are written."""
    preference: PreferenceConfig = dataclasses.field(default_factory=PreferenceConfig)
    """The task of preferring one answer to another (DPO)."""
    trainable: TrainableConfig = dataclasses.field(default_factory=TrainableConfig)
    """What of the model trains."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """The optimizer."""
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    """The training loop."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """The devices."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.loop.steps_per_dispatch > 1:  # Their batches have to have one width.
            if self.task == "classify" and self.classify.pad_to == "batch":
                raise ConfigError(
                    "classify.pad_to must be longest or max_length where "
                    "loop.steps_per_dispatch > 1, got batch"
                )
            if self.task == "instruct" and self.instruct.batches != "packed":
                raise ConfigError(
                    "instruct.batches must be packed where loop.steps_per_dispatch > "
                    f"1, got {self.instruct.batches}"
                )
