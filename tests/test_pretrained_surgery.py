"""A model that grows by a few tokens, or by biases of zero, stays the model it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import apply, random_params

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError
from jaxllm.finetuning import heads
from jaxllm.models import gpt
from jaxllm.pretrained import surgery

TOKENS = jnp.array([[3, 1, 4, 1, 5]])


def make(n_layers=1, **changes):
    shape = {"vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 2}
    cfg = GPTConfig(n_layers=n_layers, **(shape | changes))
    return random_params(cfg), cfg


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_leave_the_logits_of_the_others(new_key, tied):
    params, cfg = make(tied_head=tied)
    grown, larger = surgery.resize_vocabulary(params, cfg, 14, key=new_key())
    assert larger.vocab_size == 14
    before, after = apply(params, TOKENS, cfg), apply(grown, TOKENS, larger)
    assert after.shape == (1, 5, 14)
    np.testing.assert_allclose(after[..., :11], before, atol=1e-6)


def test_an_added_token_is_no_likelier_than_the_others_on_average(new_key):
    params, cfg = make()
    # Logits far below zero, among which a row of zeros would win.
    params["token_embedding"]["embedding"] += 3.0
    params["final_norm"]["bias"] -= 2.0
    grown, larger = surgery.resize_vocabulary(params, cfg, 14, key=new_key())
    logits = apply(grown, TOKENS, larger)
    assert logits.max() < 0
    shares = jax.nn.softmax(logits)
    assert (shares[..., 11:] < 1.1 / 11).all()


def test_added_rows_differ_from_each_other(new_key):
    params, cfg = make()
    grown, _ = surgery.resize_vocabulary(params, cfg, 13, key=new_key())
    added = grown["token_embedding"]["embedding"][11:]
    assert (added[0] != added[1]).any()


def test_growing_and_cutting_back_is_lossless(new_key):
    params, cfg = make(tied_head=False)
    grown, larger = surgery.resize_vocabulary(params, cfg, 20, key=new_key())
    again, same = surgery.resize_vocabulary(grown, larger, 11, key=new_key())
    assert same == cfg
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_vocabulary_of_nothing_is_an_error(new_key):
    params, cfg = make()
    with pytest.raises(ConfigError, match="got 0"):
        surgery.resize_vocabulary(params, cfg, 0, key=new_key())


def test_biases_of_zero_change_no_logit(new_key):
    params, cfg = make(n_layers=2, qkv_bias=False)
    biased, biased_cfg = surgery.add_qkv_bias(params, cfg)
    assert biased_cfg.qkv_bias
    shapes = jax.eval_shape(lambda key: gpt.init_params(key, biased_cfg), new_key())
    assert jax.tree.map(jnp.shape, biased) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_array_equal(
        apply(biased, TOKENS, biased_cfg), apply(params, TOKENS, cfg)
    )
    assert "bias" not in params["blocks"]["attention"]["query"]


def test_a_heads_bias_in_the_final_norm_is_the_same_classifier(new_key):
    params, cfg = make()
    params = heads.attach_classifier(params, cfg, 3, key=new_key())
    head = params["classifier"] | {"bias": jnp.array([0.5, -2.0, 0.25])}
    params = params | {"classifier": head}
    folded = surgery.fold_head_bias(params)
    assert not folded["classifier"]["bias"].any()
    classify = jax.jit(heads.classify, static_argnums=3)
    before, after = (
        classify(tree, TOKENS, jnp.array([4]), cfg) for tree in (params, folded)
    )
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_bias_that_no_shift_can_give_is_an_error(new_key):
    head = {"kernel": jnp.ones((4, 2)), "bias": jnp.array([0.0, 1.0])}
    params = {"classifier": head, "final_norm": {"bias": jnp.zeros(4)}}
    with pytest.raises(ConfigError, match="2 columns of rank 1"):
        surgery.fold_head_bias(params)
