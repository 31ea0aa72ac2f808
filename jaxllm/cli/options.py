"""The options that several commands share; free of jax, so that help is quick."""

import dataclasses


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
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only."""
    top_p: float | None = None
    """Draw among the fewest tokens whose probabilities sum to p or more."""
    seed: int = 0
    """Decides what is drawn."""
