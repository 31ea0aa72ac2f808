"""The options that several commands share; free of jax, so that help is quick."""

import dataclasses
from typing import Literal

from jaxllm.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model is asked."""

    run: str
    """Run directory, or a folder with a GPT-2 of Hugging Face or OpenAI."""
    checkpoint: str = "last"
    """last, best, or the step of a checkpoint."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions(ModelOptions):
    """How a model goes on from a text."""

    max_new_tokens: int = 200
    """Tokens to add at most; the end of the text ends it before."""
    min_new_tokens: int = 0
    """Tokens before which the text does not end; a stop string counts behind them."""
    stop: tuple[str, ...] = ()
    """Strings that end the text, and are not shown."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only, and those that tie with the last."""
    top_p: float | None = None
    """Draw among the fewest tokens whose probabilities sum to p or more, and those that
    tie with the last."""
    min_p: float | None = None
    """Draw among tokens at least p times as probable as the likeliest one."""
    typical_p: float | None = None
    """Draw among the fewest tokens of expected surprise that sum to p or more, and
    those that tie with the last."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens of the text so far; above 1 against repetition."""
    presence_penalty: float = 0.0
    """Is taken off the logits of tokens that were drawn before."""
    frequency_penalty: float = 0.0
    """Is taken off the logits of a token once for each time that it was drawn."""
    ban: tuple[str, ...] = ()
    """Tokens that are never drawn: ids, or the text of one token each."""
    bias: tuple[str, ...] = ()
    """Is added to the logits of tokens: 198=-2.5, or the text of one token for 198."""
    lookahead: int = 0
    """Tokens that a step guesses ahead: the same text, sooner where it repeats itself;
    needs temperature 0."""
    seed: int = 0
    """Decides what is drawn."""
    weights: Literal["float32", "bfloat16", "int8"] | None = None
    """Bits in which the matrices are read for each token: fewer are faster, and round;
    null takes the model's own, int8 from a folder of them. `jaxllm evaluate --weights`
    says what they cost."""
    template: str | None = None
    """alpaca, phi_3, chat, or a YAML file: what is written around your words; null
    takes the run's own, where it has one."""
    raw: bool = False
    """Write nothing around your words."""

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise ConfigError("stop strings must not be empty, got ''")
