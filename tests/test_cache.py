"""The cache: what is written stands where it was asked to, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models import cache


def test_writing_to_the_cache_touches_the_asked_slots_only(new_key):
    empty = cache.Cache(
        jnp.zeros((2, 3, 1, 5, 4)), jnp.zeros((2, 3, 1, 5, 4)), jnp.array([0, 2, 3])
    )
    key, value = (1 + jax.random.uniform(new_key(), (3, 2, 1, 4)) for _ in range(2))
    written = cache.write_cache(empty, jnp.int32(1), key, value)
    for row, start in enumerate([0, 2, 3]):
        np.testing.assert_array_equal(
            written.key[1, row, 0, start : start + 2], key[row, :, 0]
        )
        np.testing.assert_array_equal(
            written.value[1, row, 0, start : start + 2], value[row, :, 0]
        )
    assert int((written.key != 0).sum()) == 3 * 2 * 4
    assert not written.key[0].any()
