"""Vectors in, places in a plane out: principal components and t-SNE."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import ConfigError
from jaxllm.types import Array


def pca(vectors: Array, dims: int = 2) -> np.ndarray:
    """Project vectors on the directions in which they differ most.

    Args:
        vectors: (n, D).

    Returns:
        (n, dims) float32; the largest coordinate of each direction is positive, as a
        direction alone has no sign.

    >>> pca(np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 4.0]]), 1).tolist()
    [[-2.0], [0.0], [2.0]]
    """
    centred = np.asarray(vectors, np.float32)
    centred = centred - centred.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:dims]
    largest = np.abs(directions).argmax(1)
    directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
    places = centred @ directions.T
    return np.pad(places, ((0, 0), (0, dims - places.shape[1])))


def tsne(
    vectors: Array,
    *,
    perplexity: float = 30.0,
    steps: int = 1000,
    learning_rate: float = 50.0,
) -> np.ndarray:
    """Lay vectors out so that neighbours stay so (van der Maaten & Hinton 2008).

    Exact, in memory that grows with n squared, for the hundreds of words that a picture
    can hold. It starts at the principal components, so it has no chance in it.

    Args:
        vectors: (n, D).
        perplexity: how many neighbours each vector has, softly counted.

    Returns:
        (n, 2) float32.
    """
    vectors = np.asarray(vectors, np.float32)
    if not 1 <= perplexity < len(vectors) / 2:
        raise ConfigError(
            f"perplexity must be >= 1 and less than half of {len(vectors)} words, "
            f"got {perplexity:g}"
        )
    start = pca(vectors)
    start = 1e-4 * start / max(start[:, 0].std(), 1e-12)
    neighbours = joint_probabilities(jnp.asarray(vectors), perplexity)
    return np.asarray(_descend(neighbours, jnp.asarray(start), steps, learning_rate))


@functools.partial(jax.jit, static_argnames="steps")
def joint_probabilities(vectors: Array, perplexity: float, steps: int = 64) -> Array:
    """Turn distances into probabilities of being neighbours, (n, n), which sum to 1.

    A bisection finds, for each vector, the width of the Gaussian whose perplexity is
    the one asked for.
    """
    n = len(vectors)
    squares = _squared_distances(vectors)
    squares /= squares.mean()
    is_self = jnp.eye(n, dtype=bool)

    def conditional(log_precision: Array) -> Array:
        scores = -squares * jnp.exp(log_precision)[:, None]
        return jax.nn.softmax(jnp.where(is_self, -jnp.inf, scores), axis=1)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        p = conditional(middle)
        entropy = -jax.scipy.special.xlogy(p, p).sum(1)
        too_wide = entropy > jnp.log(perplexity)
        return jnp.where(too_wide, middle, low), jnp.where(too_wide, high, middle)

    bounds = jnp.full(n, -20.0), jnp.full(n, 20.0)
    p = conditional(jax.lax.fori_loop(0, steps, halve, bounds)[0])
    return (p + p.T) / (2 * n)


@functools.partial(jax.jit, static_argnames="steps")
def _descend(p: Array, start: Array, steps: int, learning_rate: float) -> Array:
    """Descend the divergence of the plane's neighbours from p, as in the paper.

    A quarter of the steps with p exaggerated, which lets clusters form; momentum, and a
    gain per coordinate.
    """
    early = steps // 4

    def step(n: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        places, velocity, gains = state
        slope = _tsne_gradient(places, p * jnp.where(n < early, 12.0, 1.0))
        against = jnp.sign(slope) != jnp.sign(velocity)
        gains = jnp.maximum(jnp.where(against, gains + 0.2, gains * 0.8), 0.01)
        momentum = jnp.where(n < early, 0.5, 0.8)
        velocity = momentum * velocity - learning_rate * gains * slope
        places = places + velocity
        return places - places.mean(0, keepdims=True), velocity, gains

    state = (start, jnp.zeros_like(start), jnp.ones_like(start))
    return jax.lax.fori_loop(0, steps, step, state)[0]


def _tsne_gradient(places: Array, p: Array) -> Array:
    """Compute the gradient of KL(p || q) with regard to the places: equation 5."""
    closeness = 1 / (1 + _squared_distances(places))
    closeness *= 1 - jnp.eye(len(places))
    q = closeness / closeness.sum()
    pull = (p - q) * closeness
    return 4 * (pull.sum(1, keepdims=True) * places - pull @ places)


def _squared_distances(vectors: Array) -> Array:
    squares = (vectors**2).sum(1)
    products = jnp.einsum("id,jd->ij", vectors, vectors, precision="highest")
    return jnp.maximum(squares[:, None] + squares[None] - 2 * products, 0)
