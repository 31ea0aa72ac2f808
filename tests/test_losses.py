"""The loss is the mean over the targets that count, whatever their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import quick
from small_models import CFG, random_batch, random_params

from jaxllm.models import gpt
from jaxllm.training import losses

jitted_loss = jax.jit(losses.next_token_loss, static_argnums=2)


@pytest.fixture(scope="module")
def params():
    return random_params()


def test_the_books_three_worked_examples():
    logits = jnp.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])
    targets = jnp.array([0, 1, 1])
    two, _ = losses.cross_entropy(logits[:2], targets[:2])
    three, _ = losses.cross_entropy(logits, targets)
    ignored, count = losses.cross_entropy(logits, targets, jnp.array([1, 1, 0], bool))
    np.testing.assert_allclose([two, three, ignored], [1.1269, 0.7936, 1.1269], 1e-4)
    assert int(count) == 2


def test_it_is_minus_the_mean_log_probability_of_the_targets():
    # The six target probabilities that the book prints for two rows of three tokens.
    probabilities = np.array(
        [[7.4541e-05, 3.1061e-05, 1.1563e-05], [1.0337e-05, 5.6776e-05, 4.7559e-06]]
    )
    logits = np.log(np.stack([probabilities, 1 - probabilities], axis=-1))
    loss, _ = losses.cross_entropy(jnp.array(logits), jnp.zeros((2, 3), jnp.int32))
    np.testing.assert_allclose(loss, 10.7940, rtol=1e-5)


def test_large_logits_do_not_overflow():
    logits = jnp.array([[1e4, 0.0, -1e4]])
    loss, _ = losses.cross_entropy(logits, jnp.array([2]))
    np.testing.assert_allclose(loss, 2e4)


def test_bfloat16_logits_are_summed_in_float32():
    logits = jnp.zeros((4096, 2), jnp.bfloat16)
    total, _ = losses.cross_entropy_sum(logits, jnp.zeros(4096, jnp.int32))
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, 4096 * np.log(2), rtol=1e-5)


def test_a_batch_without_targets_has_loss_and_gradient_zero(params):
    batch = random_batch(2, 4)._replace(mask=np.zeros((2, 4), bool))
    differentiate = jax.value_and_grad(losses.next_token_loss, has_aux=True)
    (loss, metrics), gradient = jax.jit(differentiate, static_argnums=2)(
        params, batch, CFG
    )
    assert float(loss) == 0
    assert int(metrics["tokens"]) == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_masking_a_row_equals_leaving_it_out(params):
    batch = random_batch(3, 5)
    mask = np.ones((3, 5), bool)
    mask[1] = False
    masked, metrics = jitted_loss(params, batch._replace(mask=mask), CFG)
    kept = jax.tree.map(lambda rows: rows[[0, 2]], batch)
    alone, _ = jitted_loss(params, kept, CFG)
    np.testing.assert_allclose(masked, alone, rtol=1e-5)
    assert int(metrics["tokens"]) == 10


def test_every_token_weighs_the_same_however_rows_are_filled(params):
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
    batch = random_batch(2, 5)._replace(mask=mask)
    loss, _ = jitted_loss(params, batch, CFG)
    logits = jax.jit(gpt.apply, static_argnums=2)(params, batch.inputs, CFG)
    per_token = -jax.nn.log_softmax(logits)[
        np.arange(2)[:, None], np.arange(5)[None], batch.targets
    ]
    np.testing.assert_allclose(loss, per_token[mask].mean(), rtol=1e-5)


def test_an_all_true_mask_changes_nothing(params):
    batch = random_batch(2, 4)
    plain, _ = jitted_loss(params, batch, CFG)
    masked, _ = jitted_loss(params, batch._replace(mask=np.ones((2, 4), bool)), CFG)
    assert float(plain) == float(masked)


@pytest.mark.parametrize(("B", "T"), quick([(3, 8), (1, 1)]))
def test_jit_equals_eager(B, T, params):
    batch = random_batch(B, T)
    eager, _ = losses.next_token_loss(params, batch, CFG)
    compiled, _ = jitted_loss(params, batch, CFG)
    np.testing.assert_allclose(compiled, eager, rtol=1e-6)
    assert compiled.dtype == jnp.float32
