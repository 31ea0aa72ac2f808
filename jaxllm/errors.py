"""What can go wrong, in words for the person who can put it right.

Every message states the rule and the value: "context_length must be >= 1, got 0".
The command line prints a JaxllmError as one line and exits with 2.
"""


class JaxllmError(Exception):
    """Says what is wrong with an input, and what would be right."""


class ConfigError(JaxllmError, ValueError):
    """A configuration breaks one of its own rules."""


class DataError(JaxllmError, ValueError):
    """A text, a corpus, a token store or a batch is not what was asked for."""


class TokenizerError(JaxllmError, ValueError):
    """A tokenizer cannot be found, read, trained, or used on this text."""


class CheckpointError(JaxllmError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class MisfitError(CheckpointError):
    """A checkpoint is whole, but of a model or an optimizer of other shapes."""


class DivergenceError(JaxllmError):
    """The loss became NaN or infinite."""


class ProcessLostError(JaxllmError):
    """Another process of the job is gone, and this one can't go on without it."""
