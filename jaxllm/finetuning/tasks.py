"""What a kind of finetuning has to say, as functions: the seam between run and task.

A run knows how to read a base, part it, train, save and go on. What the examples are,
how a model is made fit for them, what its loss is and how it is judged: that is the
task's. A kind of finetuning is a module with these functions in a `Kind`, registered in
`kinds.KINDS` under its name in a config.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from jax.sharding import Mesh

from jaxllm.config import GPTConfig
from jaxllm.data import example_batches, example_files
from jaxllm.data.example_batches import Collate, ExampleBatches, Plan
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.distributed import sharding
from jaxllm.errors import ConfigError
from jaxllm.finetuning.config import FinetuneConfig
from jaxllm.training.runs import OnEvent
from jaxllm.training.steps import LossSum
from jaxllm.types import Array, Params

Rows = TypeVar("Rows", bound=NamedTuple)


class Start(NamedTuple):
    """What a task is prepared with."""

    params: Callable[[], Params]
    """Gives the whole model as it was before the first step, also where a run goes
    on: by reading the base again."""
    model: GPTConfig
    tokenizer: Tokenizer
    mesh: Mesh
    on_event: OnEvent
    """Told ("warning", {"text": ...}) of what a person should know."""


class Task(NamedTuple):
    """What a run trains on, for what, and how it is judged.

    Parameters are those of the whole model, adapters merged.
    """

    batches: ExampleBatches
    loss_sum: LossSum
    """(params, batch, model, key=...) -> (sum of losses, number of targets)"""
    unit: str
    """What the targets are: tokens, texts, pairs."""
    evaluate: Callable[[Params], dict[str, float]]
    """Figures on the way; validation_loss, by which the best is chosen, among them."""
    facts: dict[str, Any]
    """To tell at the start: how many examples train, validation and test have."""
    test: Callable[[Params], dict[str, Any]] | None = None
    """Figures at the end, as JSON can hold them; written to test.json."""
    sample: Callable[[Params, Array], list[str]] | None = None
    """Texts to write down on the way, given a random key."""


class Fit(Protocol):
    """Makes a model fit for the task, from tree to tree, before anything trains.

    It must change nothing in a model that fits already. Usable in jax.eval_shape.
    """

    def __call__(
        self, params: Params, model: GPTConfig, cfg: FinetuneConfig, *, key: Array
    ) -> tuple[Params, GPTConfig]: ...


class Kind(NamedTuple):
    """A kind of finetuning."""

    read: Callable[[FinetuneConfig], tuple[FinetuneConfig, Any]]
    """Reads the examples; also returns the config with what followed from them."""
    texts: Callable[[Any], Iterable[str]]
    """Gives the texts from which a tokenizer is learned, where there is no base."""
    fit: Fit
    prepare: Callable[[FinetuneConfig, Any, Start], Task]
    """Prepares the task on what `read` gave."""
    special_tokens: Callable[[FinetuneConfig, Any], Sequence[str]] = (
        lambda cfg, examples: ()
    )
    """Names the special tokens that the tokenizer must have."""
    complete: Callable[[FinetuneConfig, Any, Tokenizer], FinetuneConfig] = (
        lambda cfg, examples, tokenizer: cfg
    )
    """Fills in the config what follows from the examples as tokens."""


def keep_writer(
    params: Params, model: GPTConfig, cfg: FinetuneConfig, *, key: Array
) -> tuple[Params, GPTConfig]:
    """Leave a model that writes text as it is: the `fit` of a task of writing."""
    if "classifier" in params:
        raise ConfigError(f"base must write text, {cfg.base.source} is a classifier")
    return params, model


def max_length(cfg: FinetuneConfig, model: GPTConfig) -> int:
    """Find the longest input of a run: the model's context, if it asks for no less."""
    bound = cfg.data.max_length or model.context_length
    if bound > model.context_length:
        raise ConfigError(
            f"data.max_length must be <= {model.context_length}, the context of the "
            f"model, got {bound}"
        )
    return bound


def training_batches(
    plan: Plan, collate: Collate, cfg: FinetuneConfig, mesh: Mesh
) -> ExampleBatches:
    """Give this process its share of the batches to learn from."""
    share = sharding.process_share(mesh)
    return ExampleBatches(
        plan,
        collate,
        file=example_files.find(cfg.data.file).path,
        process_index=share.part,
        process_count=share.parts,
    )


def place_batch(batch: Rows, mesh: Mesh) -> Rows:
    """Put a batch, which every process has whole, on the devices."""
    share = sharding.process_share(mesh)
    mine = example_batches.share_of(batch, share.part, share.parts)
    return sharding.place_batch(mine, mesh)
