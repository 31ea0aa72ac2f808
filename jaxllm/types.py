"""The letters of the shapes, and the one record that crosses every layer.

| letter | axis                          | letter | axis                     |
|--------|-------------------------------|--------|--------------------------|
| B      | batch                         | H      | head_dim                 |
| T      | tokens (queries)              | F      | hidden width of the mlp  |
| S      | source tokens (keys, slots)   | V      | vocabulary               |
| D      | emb_dim                       | L      | layers                   |
| N      | heads                         | C      | context_length           |
| K      | heads of keys and values      |        |                          |

Token ids are int32. Masks are boolean, True = may attend, or counts in the loss.
"""

from typing import Any, NamedTuple

# A NumPy array, a JAX array, or a tracer of one.
Array = Any

# Nested dicts of arrays whose keys, joined by "/", are the parameter's path.
Params = dict[str, Any]


class Batch(NamedTuple):
    """Windows of text to learn from: predict targets[b, t] from inputs[b, :t + 1].

    A pytree, so it goes through jit, grad and device_put as it is.
    """

    inputs: Array  # (B, T) int32
    targets: Array  # (B, T) int32
    mask: Array | None = None  # (B, T) bool; None counts every target
    # (B, T) int32: the text that each input belongs to, where a row holds several, each
    # in one piece; 0 is padding, whose targets never count. None: a row is one text.
    segments: Array | None = None
