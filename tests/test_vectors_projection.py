"""Projections keep what they promise, and labels do not overlap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.data import tokenizers
from jaxllm.errors import ConfigError
from jaxllm.plots import scatter
from jaxllm.vectors import layers, projection


def clusters(n=20, D=10):
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, D) * 10, n, 0)
    return (centres + rng.normal(size=centres.shape)).astype(np.float32)


def test_principal_components_keep_the_most_variance():
    vectors = clusters()
    places = projection.pca(vectors)
    largest = np.linalg.eigvalsh(np.cov(vectors.T))[::-1][:2]
    np.testing.assert_allclose(places.var(0, ddof=1), largest, rtol=1e-4)
    assert projection.pca(np.ones((3, 1))).shape == (3, 2)


def test_neighbour_probabilities_have_the_perplexity_asked_for():
    p = np.asarray(projection.joint_probabilities(jnp.asarray(clusters()), 7.0))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(p, p.T, rtol=1e-5, atol=1e-30)
    assert (np.diag(p) == 0).all()


def test_the_gradient_of_tsne_is_that_of_its_divergence():
    p = projection.joint_probabilities(jnp.asarray(clusters(5)), 3.0)
    places = jnp.asarray(np.random.default_rng(0).normal(size=(15, 2)), "float32")

    def divergence(places):
        squares = projection._squared_distances(places)
        q = (1 - jnp.eye(15)) / (1 + squares)
        q /= q.sum()
        return jax.scipy.special.xlogy(p, p / jnp.where(q > 0, q, 1)).sum()

    expected = jax.grad(divergence)(places)
    found = projection._tsne_gradient(places, p)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tsne_puts_neighbours_together():
    places = projection.tsne(clusters(), perplexity=8)
    group = np.repeat(np.arange(3), 20)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(1)] == group).all()


def test_a_perplexity_that_the_words_do_not_have_is_refused():
    with pytest.raises(ConfigError, match="less than half of 60 words, got 40"):
        projection.tsne(clusters(), perplexity=40)


def test_labels_do_not_overlap_and_the_first_ones_are_kept():
    places = np.random.default_rng(0).normal(size=(120, 2))
    labels = [f"label {n} $x$" for n in range(120)]
    figure = scatter.scatter(places, labels, groups=[n % 3 for n in range(120)])
    notes = figure.axes[0].texts
    texts = [note for note in notes if note.get_text()]
    assert texts[0].get_text() == labels[0]
    assert 20 < len(texts) < 120
    boxes = [text.get_window_extent() for text in texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    # A name far from its point has a line to it.
    far = [text for text in texts if np.hypot(*text.get_position()) > 10]
    lines = [note for note in notes if not note.get_text()]
    assert [line.xy for line in lines] == [text.xy for text in far]
    assert far


def test_a_lookup_is_the_product_with_one_hot_vectors_also_in_its_gradient():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(7, 4)), "float32")
    ids = jnp.asarray(rng.integers(0, 7, (2, 5)))
    weights = jnp.asarray(rng.normal(size=(2, 5, 4)), "float32")
    ways = (layers.look_up, layers.one_hot_product)
    values = [way(table, ids) for way in ways]
    np.testing.assert_array_equal(*values)
    slopes = [jax.grad(lambda t, w=w: (w(t, ids) * weights).sum())(table) for w in ways]
    np.testing.assert_allclose(*slopes, atol=1e-6)
    summed = layers.token_and_position(table, values[0][0], ids)
    np.testing.assert_array_equal(summed, values[0] + values[0][:1])


def test_an_id_that_the_vocabulary_skips_has_an_empty_name():
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = tokenizers.BPETokenizer(
        ranks=ranks, special_tokens={"<|endoftext|>": 257}
    )
    params = {"token_embedding": {"embedding": jnp.ones((258, 2))}}
    names = layers.token_embeddings(params, tokenizer).words
    assert names[255:] == ["\\xff", "", "<|endoftext|>"]
