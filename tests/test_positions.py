"""Positions: what each kind promises about order and distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import positions


def test_sinusoids_start_at_zero_and_one_and_have_unit_pairs():
    table = positions.sinusoidal_table(50, 16)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table[0], np.tile([0, 1], 8))
    pairs = table.reshape(50, 8, 2)
    np.testing.assert_allclose(np.square(pairs).sum(-1), np.ones((50, 8)), rtol=1e-5)


def test_sinusoids_of_an_odd_width_keep_the_last_sine():
    np.testing.assert_array_equal(positions.sinusoidal_table(7, 5)[:, :4].shape, (7, 4))
    assert positions.sinusoidal_table(7, 5)[:, 4].any()


def test_a_shift_of_position_is_a_linear_map_of_sinusoids():
    # Vaswani et al. 2017, section 3.5: PE(pos + k) is a linear function of PE(pos).
    table = positions.sinusoidal_table(40, 8).astype(np.float64)
    shift, *_ = np.linalg.lstsq(table[:-3], table[3:], rcond=None)
    np.testing.assert_allclose(table[:-3] @ shift, table[3:], atol=1e-5)


def test_rotation_keeps_lengths_and_position_zero(new_key):
    x = jax.random.normal(new_key(), (2, 5, 3, 8))
    turned = positions.rotate(x, jnp.arange(5)[None])
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    np.testing.assert_allclose(
        jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5
    )


@pytest.mark.parametrize("shift", [1, 17])
def test_rotated_products_depend_on_distance_only(new_key, shift):
    query, key = (jax.random.normal(new_key(), (1, 6, 2, 8)) for _ in range(2))

    def scores(start):
        where = start + jnp.arange(6)[None]
        return jnp.einsum(
            "btnh,bsnh->bnts",
            positions.rotate(query, where),
            positions.rotate(key, where),
        )

    np.testing.assert_allclose(scores(0), scores(shift), rtol=1e-4, atol=1e-4)


def test_slopes_fall_geometrically_and_fill_up_for_other_head_counts():
    np.testing.assert_allclose(
        positions.alibi_slopes(4), [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    )
    twelve = positions.alibi_slopes(12)
    np.testing.assert_array_equal(twelve[:8], positions.alibi_slopes(8))
    np.testing.assert_array_equal(twelve[8:], positions.alibi_slopes(16)[0:8:2])


def test_bias_is_zero_at_the_present_and_falls_with_distance():
    bias = positions.alibi_bias(jnp.array([[2, 3]]), jnp.arange(4), 2)
    assert bias.shape == (1, 2, 2, 4)
    np.testing.assert_allclose(bias[0, 0, 0, :3], np.array([-2, -1, 0]) / 16)
    assert (jnp.diff(bias[0, :, 1], axis=-1) > 0).all()
