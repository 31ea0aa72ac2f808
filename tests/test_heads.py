"""Heads: a classifier from any model, what trains of it, and padding unread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CFG, random_params

from jaxllm.config import GPTConfig, gpt2_config
from jaxllm.errors import ConfigError
from jaxllm.finetuning import heads, trainable
from jaxllm.models import gpt

POOLINGS = ("last", "first", "mean")


def shapes_of(cfg, n_classes):
    """The shapes of a classifier's parameters, without making them."""

    def create(key):
        params = gpt.init_params(key, cfg)
        return heads.attach_classifier(params, cfg, n_classes, key=key)

    return jax.eval_shape(create, jax.random.key(0))


@pytest.fixture(scope="module")
def params():
    return heads.attach_classifier(random_params(), CFG, 3, key=jax.random.key(1))


@jax.jit
def classify(params, tokens, lengths):
    """The logits by each pooling: compiled at once, for each shape of tokens."""
    return [
        heads.classify(params, tokens, lengths, CFG, pooling=pooling)
        for pooling in POOLINGS
    ]


# Heads.


@pytest.mark.parametrize("tied_head", [True, False])
def test_a_head_takes_the_place_of_the_one_for_tokens(tied_head):
    cfg = GPTConfig(**(vars(CFG) | {"tied_head": tied_head}))
    base = random_params(cfg)
    params = heads.attach_classifier(base, cfg, 3, key=jax.random.key(0))
    assert "head" not in params
    assert params["classifier"]["kernel"].shape == (16, 3)
    assert params["classifier"]["bias"].shape == (3,)
    assert heads.count_classes(params) == 3
    for name in params.keys() - {"classifier"}:
        assert params[name] is base[name]
    assert ("head" in base) is not tied_head


def test_a_head_is_drawn_as_the_config_says():
    for init, largest in (("pytorch", 0.25), ("gpt2", 0.1)):
        cfg = GPTConfig(**(vars(CFG) | {"init": init}))
        head = heads.attach_classifier({}, cfg, 50, key=jax.random.key(0))["classifier"]
        assert 0 < float(jnp.abs(head["kernel"]).max()) <= largest
        assert bool((head["bias"] == 0).all()) is (init == "gpt2")


def test_a_model_becomes_a_classifier_again_with_other_classes(params):
    again = heads.attach_classifier(params, CFG, 2, key=jax.random.key(0))
    assert heads.count_classes(again) == 2


def test_one_class_and_a_model_without_a_head_are_errors():
    with pytest.raises(ConfigError, match="at least 2 classes, got 1"):
        heads.attach_classifier({}, CFG, 1, key=jax.random.key(0))
    with pytest.raises(ConfigError, match="classifier's head, got blocks"):
        heads.count_classes({"blocks": {}})
    with pytest.raises(ConfigError, match="got 'median'"):
        heads.pool(jnp.zeros((1, 2, 3)), jnp.array([1]), "median")  # pyright: ignore


# Pooling.


def test_a_padded_batch_is_its_texts_alone(params):
    lengths = np.array([8, 1, 5])
    tokens = np.random.default_rng(0).integers(0, 16, (3, 8), np.int32)
    together = np.array(classify(params, tokens, lengths))
    assert together.shape == (len(POOLINGS), 3, 3)
    assert together.dtype == jnp.float32
    padded = np.where(np.arange(8) < lengths[:, None], tokens, 7)
    np.testing.assert_array_equal(together, classify(params, padded, lengths))
    for row, length in enumerate(lengths):
        alone = np.array(classify(params, tokens[[row], :length], lengths[[row]]))
        np.testing.assert_allclose(together[:, row], alone[:, 0], atol=1e-5)


def test_the_order_of_a_batch_does_not_matter(params):
    tokens = np.random.default_rng(1).integers(0, 16, (3, 8), np.int32)
    lengths, order = np.array([8, 2, 5]), np.array([2, 0, 1])
    logits = np.array(classify(params, tokens, lengths))
    shuffled = classify(params, tokens[order], lengths[order])
    np.testing.assert_allclose(shuffled, logits[:, order], atol=1e-6)


def test_pooling_takes_what_its_name_says():
    hidden = jnp.arange(12.0).reshape(2, 3, 2)
    lengths = jnp.array([2, 3])
    assert heads.pool(hidden, lengths, "last").tolist() == [[2, 3], [10, 11]]
    assert heads.pool(hidden, lengths, "first").tolist() == [[0, 1], [6, 7]]
    assert heads.pool(hidden, lengths, "mean").tolist() == [[1, 2], [8, 9]]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_row_that_fills_up_a_batch_is_no_nan(pooling):
    hidden = jnp.arange(6.0).reshape(1, 3, 2)
    assert heads.pool(hidden, jnp.array([0]), pooling).tolist() == [[0, 1]]


def test_a_mean_in_bfloat16_is_summed_in_float32():
    hidden = jnp.ones((1, 1000, 1), jnp.bfloat16)
    assert heads.pool(hidden, jnp.array([1000]), "mean").item() == 1


def test_classes_are_scored_at_every_position(params):
    hidden = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, 16)), jnp.float32)
    scores = heads.score_classes(params, hidden, CFG)
    assert scores.shape == (2, 5, 3)
    np.testing.assert_allclose(
        scores[1, 4], heads.score_classes(params, hidden[1, 4], CFG), atol=1e-6
    )


# What trains.


def sizes(rules, params):
    """How many numbers train, and how many are frozen."""
    parted = jax.eval_shape(lambda params: trainable.split(params, rules), params)
    return [sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parted]


def test_the_books_classifier_trains_its_last_block_norm_and_head():
    shapes = shapes_of(gpt2_config("124M"), 2)
    assert sizes(trainable.ALL, shapes) == [124_441_346, 0]
    last, frozen = sizes(trainable.last_blocks(1), shapes)
    assert (last, frozen) == (7_090_946, 124_441_346 - 7_090_946)
    assert sizes(trainable.HEAD, shapes)[0] == 768 * 2 + 2
    assert sizes(trainable.last_blocks(2), shapes)[0] - last == 7_087_872
    tokens = (*trainable.last_tokens(3), *trainable.last_blocks(1))
    assert sizes(tokens, shapes)[0] - last == 3 * 768


def bits(leaf):
    return np.asarray(leaf).view(np.uint32)


@pytest.mark.parametrize(
    "rules",
    [
        trainable.ALL,
        trainable.HEAD,
        trainable.last_blocks(1),
        (*trainable.last_tokens(3), *trainable.last_blocks(1)),
    ],
    ids=["all", "head", "last block", "last block and tokens"],
)
def test_what_is_frozen_does_not_move_by_a_bit(params, rules):
    # Also a negative zero, to which adding zero would be a change of sign.
    params = jax.tree.map(lambda leaf: np.array(leaf), params)
    for leaf in jax.tree.leaves(params):
        leaf[..., 0] = -0.0
    trained, frozen = trainable.split(params, rules)
    moved = jax.tree.map(lambda leaf: leaf + 1, trained)
    for one, same in ((trained, True), (moved, False)):
        whole = jax.tree.map(np.asarray, jax.jit(trainable.join)(one, frozen))
        back = trainable.split(whole, rules)
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(bits(a), bits(b)),
            back,
            (one, frozen),
        )
        equal = jax.tree.map(lambda a, b: (bits(a) == bits(b)).all(), whole, params)
        assert all(jax.tree.leaves(equal)) == same


def test_a_path_without_a_rule_and_no_block_are_errors(params):
    with pytest.raises(ConfigError, match="no rule matches"):
        trainable.split(params, [("^classifier/", True)])
    with pytest.raises(ConfigError, match="must be its last, got slice"):
        trainable.split(params, [("^blocks/", slice(0, 1)), ("", False)])
    with pytest.raises(ConfigError, match="count must be >= 1, got 0"):
        trainable.last_blocks(0)
