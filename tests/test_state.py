"""A state is made of a key, and holds what a step changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_models import CFG, random_params

from jaxllm.models import gpt
from jaxllm.training import state as states


def test_a_state_has_the_shapes_of_its_parameters_twice_over_for_adam(new_key):
    shapes = jax.eval_shape(
        lambda key: states.init_train_state(key, CFG, optax.adam(0.1)), new_key()
    )
    n = gpt.count_params(CFG)
    sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.opt_state)]
    assert sum(sizes) == 2 * n + 1  # two moments, and a counter
    assert shapes.step.dtype == jnp.int32


def test_the_same_key_draws_the_same_state_and_another_key_another(new_key):
    draw = jax.jit(lambda key: states.init_train_state(key, CFG, optax.sgd(0.1)))
    key = new_key()
    first, again, other = draw(key), draw(key), draw(new_key())
    same = jax.tree.map(lambda a, b: (a == b).all(), first, again)
    assert all(jax.tree.leaves(same))
    embedding = first.params["token_embedding"]["embedding"]
    assert (embedding != other.params["token_embedding"]["embedding"]).any()


def test_a_state_is_made_of_parameters_that_are_there(new_key):
    params = random_params()
    state = states.train_state_of(params, optax.adam(0.1), new_key())
    assert state.params is params
    assert int(state.step) == 0
