"""What a run is: frozen dataclasses in, YAML out, and the presets of the papers.

Every field carries its gloss and is checked when the value is made, so a config that
exists is a config that can run.
"""

import dataclasses
from typing import Any, Literal

from jaxllm.errors import ConfigError


def _require(ok: bool, rule: str, value: object) -> None:
    if not ok:
        raise ConfigError(f"{rule}, got {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT: its shape, and how it is computed.

    >>> GPTConfig(vocab_size=65, context_length=64, emb_dim=128, n_heads=4,
    ...           n_layers=4).head_dim
    32
    """

    vocab_size: int = 50257
    """Number of token ids; in the config of a run, 0 stands for the tokenizer's."""
    context_length: int = 1024
    """Longest sequence, in tokens."""
    emb_dim: int = 768
    """Width of the residual stream."""
    n_heads: int = 12
    """Attention heads per block; they share the width evenly."""
    n_kv_heads: int | None = None
    """Heads of keys and values, each for n_heads / n_kv_heads heads of queries (grouped
    queries, Ainslie et al. 2023); as many as n_heads if null."""
    n_layers: int = 12
    """Transformer blocks."""
    drop_rate: float = 0.0
    """Probability that dropout zeroes a value, in [0, 1)."""
    qkv_bias: bool = True
    """Whether the query, key and value projections add a bias."""
    tied_head: bool = True
    """Whether the output head is the token embedding itself."""
    positions: Literal["learned", "sinusoidal", "rotary", "alibi"] = "learned"
    """How the model knows the order of tokens."""
    causal: bool = True
    """Whether a token sees only itself and what precedes it."""
    attention_window: int | None = None
    """Tokens that each token sees, itself included (on either side, where attention is
    not causal); all if null."""
    mlp_ratio: int = 4
    """Hidden width of the feed-forward network, in multiples of emb_dim."""
    activation: Literal["gelu_tanh", "gelu_erf"] = "gelu_tanh"
    """The feed-forward network's non-linearity; GPT-2 uses the tanh form."""
    norm_eps: float = 1e-5
    """Added to the variance in layer normalisation."""
    init: Literal["gpt2", "pytorch"] = "gpt2"
    """gpt2: N(0, 0.02), residual projections / sqrt(2 n_layers);
    pytorch: the defaults of torch.nn, which the notes use."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products; parameters, norms and softmax stay float32."""
    attention: Literal["auto", "plain", "blocked", "cudnn"] = "auto"
    """How attention is computed; auto takes what is fastest here and can do it. plain
    keeps all weights; blocked goes by blocks of queries and has its gradient written by
    hand; cudnn is NVIDIA's kernel."""
    gradients: Literal["written", "derived"] = "written"
    """written: by hand, with the loss in chunks: less memory and time, in reverse mode
    only; derived: by JAX from the plain forms."""
    remat: Literal["none", "block", "dots"] = "none"
    """What the backward pass recomputes: block, all of a block but its input; dots, all
    but the results of matrix products."""
    unroll: int | None = None
    """Blocks per iteration of the compiled loop over layers; if null, up to 12, which
    is faster, unless they are recomputed; 1 on a TPU."""

    def __post_init__(self) -> None:
        for name in ("context_length emb_dim n_heads n_layers mlp_ratio").split():
            _require(
                getattr(self, name) >= 1, f"{name} must be >= 1", getattr(self, name)
            )
        _require(self.vocab_size >= 0, "vocab_size must be >= 0", self.vocab_size)
        if self.emb_dim % self.n_heads:
            raise ConfigError(
                "n_heads must divide emb_dim, "
                f"got n_heads={self.n_heads} and emb_dim={self.emb_dim}"
            )
        for name in "n_kv_heads attention_window unroll".split():
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be >= 1", value)
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                "n_kv_heads must divide n_heads, "
                f"got n_kv_heads={self.n_kv_heads} and n_heads={self.n_heads}"
            )
        if self.positions == "rotary":
            _require(
                self.head_dim % 2 == 0,
                "rotary positions need an even head_dim (emb_dim / n_heads)",
                self.head_dim,
            )
        if self.attention == "cudnn" and not self.fits_cudnn:
            raise ConfigError(
                "attention=cudnn needs dtype=bfloat16, a head_dim (emb_dim / n_heads) "
                "of at most 128 in steps of 8, positions other than alibi, and either "
                "causal=true or no attention_window"
            )
        _require(0 <= self.drop_rate < 1, "drop_rate must be in [0, 1)", self.drop_rate)
        _require(self.norm_eps > 0, "norm_eps must be > 0", self.norm_eps)

    @property
    def head_dim(self) -> int:
        return self.emb_dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def fits_cudnn(self) -> bool:
        """Whether NVIDIA's kernel can compute this attention; it looks back only."""
        shape = self.head_dim % 8 == 0 and self.head_dim <= 128
        mask = self.causal or self.attention_window is None
        return self.dtype == "bfloat16" and shape and mask and self.positions != "alibi"

    @property
    def mlp_dim(self) -> int:
        return self.emb_dim * self.mlp_ratio


# Radford et al. 2019, table 2: emb_dim, n_layers, n_heads.
_GPT2 = {
    "124M": (768, 12, 12),
    "355M": (1024, 24, 16),
    "774M": (1280, 36, 20),
    "1558M": (1600, 48, 25),
}

# Brown et al. 2020, table 2.1: emb_dim, n_layers, n_heads; context 2,048. The table
# prints a width of 5140 for 13B and 24 heads for 1.3B; heads of 128 mean 5120 and 16.
_GPT3 = {
    "125M": (768, 12, 12),
    "350M": (1024, 24, 16),
    "760M": (1536, 24, 16),
    "1.3B": (2048, 24, 16),
    "2.7B": (2560, 32, 32),
    "6.7B": (4096, 32, 32),
    "13B": (5120, 40, 40),
    "175B": (12288, 96, 96),
}


def gpt2_config(size: str = "124M", **changes: Any) -> GPTConfig:
    """Describe GPT-2 as published: tied head, QKV bias, 1,024 tokens of context.

    >>> gpt2_config("355M").n_layers
    24
    >>> gpt2_config("124M", tied_head=False, qkv_bias=False).qkv_bias
    False
    """
    return _sized("gpt2", _GPT2, size, 1024, changes)


def gpt3_config(size: str = "125M", **changes: Any) -> GPTConfig:
    """Describe a model of the GPT-3 paper's table 2.1, with dense attention.

    >>> gpt3_config("175B").emb_dim
    12288
    """
    return _sized("gpt3", _GPT3, size, 2048, changes)


def _sized(
    family: str,
    sizes: dict[str, tuple[int, int, int]],
    size: str,
    context_length: int,
    changes: dict[str, Any],
) -> GPTConfig:
    if size not in sizes:
        raise ConfigError(f"{family} comes in {', '.join(sizes)}; got {size!r}")
    emb_dim, n_layers, n_heads = sizes[size]
    shape: dict[str, Any] = {
        "context_length": context_length,
        "emb_dim": emb_dim,
        "n_layers": n_layers,
        "n_heads": n_heads,
    }
    return GPTConfig(**(shape | changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Where the tokenizer comes from."""

    kind: str = "gpt2"
    """bpe, char or word to learn one from the corpus; gpt2 or another name that
    tiktoken knows; or the path of a saved tokenizer.json."""
    vocab_size: int = 8192
    """Tokens to learn, special tokens included (bpe only)."""

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 1, "vocab_size must be >= 1", self.vocab_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text a run learns from, and how it is cut into batches."""

    corpus: str = "python-stdlib"
    """A named corpus, a text, JSON lines or Parquet file, a folder of them, or a
    token store made by `jaxllm prepare`."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    validation_fraction: float = 0.1
    """Share of the corpus that is held out, in (0, 1); a token store has its own."""
    split: Literal["tokens", "documents"] = "tokens"
    """tokens: the last part of the corpus is held out, cut between two tokens;
    documents: whole documents, chosen by their hash, are held out."""
    stride: int | None = None
    """Tokens between the starts of two training windows; the context length if null."""
    batch_size: int = 8
    """Windows per training step, over all devices and accumulation steps."""
    shuffle: bool = True
    """Whether each epoch visits the windows in an order of its own."""
    drop_last: bool = True
    """Whether a last batch that is not full is left out."""
    workers: int = 0
    """Processes that read ahead; 0 reads in a thread of this process."""

    def __post_init__(self) -> None:
        _require(
            0 < self.validation_fraction < 1,
            "validation_fraction must be in (0, 1)",
            self.validation_fraction,
        )
        _require(self.batch_size >= 1, "batch_size must be >= 1", self.batch_size)
        _require(self.workers >= 0, "workers must be >= 0", self.workers)
        if self.stride is not None:
            _require(self.stride >= 1, "stride must be >= 1", self.stride)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How gradients become steps."""

    name: Literal["adamw", "muon"] = "adamw"
    """The update rule; muon turns the blocks' matrices and leaves the rest to AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """What follows the warm-up; wsd is warm-up, stable, decay."""
    warmup_steps: int = 100
    """Steps over which the rate rises linearly."""
    initial_learning_rate: float = 0.0
    """Rate at step 0 of the warm-up."""
    min_learning_rate: float = 1e-4
    """Rate that the decay would reach one step after the last."""
    decay_fraction: float = 0.2
    """Share of all steps over which wsd decays, in (0, 1]."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    momentum: float = 0.95
    """Decay of Muon's mean of gradients."""
    weight_decay: float = 0.1
    """Decoupled weight decay, times the learning rate."""
    decay: Literal["matrices", "all"] = "matrices"
    """Which parameters decay: matrices spares biases, norms and scales."""
    grad_clip: float | None = 1.0
    """Largest global norm of the gradient; null for no clipping."""
    accumulation_steps: int = 1
    """Slices into which a batch is cut to save memory; the result is the same."""

    def __post_init__(self) -> None:
        for name in "learning_rate eps".split():
            _require(
                getattr(self, name) > 0, f"{name} must be > 0", getattr(self, name)
            )
        for name in (
            "warmup_steps initial_learning_rate min_learning_rate weight_decay"
        ).split():
            _require(
                getattr(self, name) >= 0, f"{name} must be >= 0", getattr(self, name)
            )
        if self.schedule != "constant":
            _require(
                self.min_learning_rate <= self.learning_rate,
                f"min_learning_rate must be <= learning_rate, {self.learning_rate}",
                self.min_learning_rate,
            )
        for name in "beta1 beta2 momentum".split():
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} must be in [0, 1)", value)
        _require(
            0 < self.decay_fraction <= 1,
            "decay_fraction must be in (0, 1]",
            self.decay_fraction,
        )
        if self.grad_clip is not None:
            _require(self.grad_clip > 0, "grad_clip must be > 0", self.grad_clip)
        _require(
            self.accumulation_steps >= 1,
            "accumulation_steps must be >= 1",
            self.accumulation_steps,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a run trains, and what it does on the way."""

    steps: int | None = None
    """Optimizer steps in all, in place of epochs."""
    epochs: int | None = None
    """Passes over the training windows; one if neither is given."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    steps_per_dispatch: int = 1
    """Steps that are one compiled program, where each takes a few milliseconds; what
    happens every so many steps happens on time."""
    eval_every: int = 250
    """Steps between two evaluations; the last step is always evaluated."""
    eval_batches: int | None = 50
    """Validation batches per evaluation, always the same ones; null for all."""
    eval_batch_size: int | None = None
    """Windows per validation batch; the training batch size if null."""
    sample_every: int | None = None
    """Steps between two samples; as often as evaluations if null."""
    sample_prompts: tuple[str, ...] = ("\n",)
    """Prompts that are continued in each sample."""
    sample_tokens: int = 100
    """Tokens per sample."""
    sample_temperature: float = 0.8
    """Temperature of the samples; 0 is greedy."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; the last step is always saved."""
    keep_last: int = 2
    """Most recent checkpoints that are kept."""
    keep_best: bool = True
    """Whether a step with the lowest validation loss so far is saved, and kept too."""
    tensorboard: bool = False
    """Whether metrics are also written as TensorBoard events."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(
                "give either steps or epochs, "
                f"got steps={self.steps} and epochs={self.epochs}"
            )
        for name in (
            "steps epochs log_every eval_every eval_batches eval_batch_size "
            "sample_every sample_tokens checkpoint_every keep_last steps_per_dispatch"
        ).split():
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be >= 1", value)
        for name in "steps eval_every sample_every checkpoint_every".split():
            value = getattr(self, name)
            if value is not None and self.steps_per_dispatch > value:
                raise ConfigError(
                    f"steps_per_dispatch must be <= {name}, {value}, which no dispatch "
                    f"goes past, got {self.steps_per_dispatch}"
                )
        _require(
            self.sample_temperature >= 0,
            "sample_temperature must be >= 0",
            self.sample_temperature,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices are arranged; -1 takes what the other axes leave."""

    data: int = -1
    """Copies of the model, each with its share of the batch."""
    fsdp: int = 1
    """Devices that share the batch and split every parameter between them."""
    sequence: int = 1
    """Devices that share the tokens of every row, for long contexts."""
    tensor: int = 1
    """Devices that split heads, hidden units and the vocabulary."""

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.sequence, self.tensor)
        names = ("data", "fsdp", "sequence", "tensor")
        for name, size in zip(names, sizes, strict=True):
            _require(size >= 1 or size == -1, f"{name} must be >= 1 or -1", size)
        _require(sizes.count(-1) <= 1, "at most one mesh axis may be -1", sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """How a process finds the others that train with it; mostly it need not be told."""

    coordinator_address: str | None = None
    """host:port of the first process; JAX_COORDINATOR_ADDRESS or the cluster's if
    null."""
    num_processes: int | None = None
    """Processes in all; JAX_NUM_PROCESSES or the cluster's if null."""
    process_id: int | None = None
    """Which of them this is, from 0; JAX_PROCESS_ID, the job's completion index in
    Kubernetes, or the cluster's if null."""
    detect: bool | None = None
    """Whether JAX asks the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU) for all
    that is not given; if null, where the environment shows several processes."""
    heartbeat_timeout: int = 30
    """Seconds without a sign of life after which a process counts as dead, and the
    others end."""
    start_timeout: int = 300
    """Seconds that a process waits for the others to start."""

    def __post_init__(self) -> None:
        for name in "num_processes heartbeat_timeout start_timeout".split():
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be >= 1", value)


def check_seed(seed: int) -> None:
    """Refuse a seed of which a random key of JAX would see a part only."""
    _require(0 <= seed < 2**32, "seed must be in [0, 2**32)", seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run: everything that, with the code, decides its bits."""

    run_dir: str = "runs/default"
    """Folder that the run writes, and everything it writes."""
    seed: int = 0
    """Decides initial parameters, the order of data, dropout and samples."""
    model: GPTConfig = dataclasses.field(default_factory=GPTConfig)
    """The model."""
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    """The tokenizer."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """The corpus and its batches."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """The optimizer."""
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    """The training loop."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """The devices."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
