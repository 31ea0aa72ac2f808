"""Low-rank adaptation: nothing at the start, merged as if beside, and small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CFG, random_batch, random_params

from jaxllm.config import GPTConfig, gpt2_config
from jaxllm.errors import ConfigError
from jaxllm.finetuning import heads, lora
from jaxllm.models import gpt
from jaxllm.training import losses

UNTIED = GPTConfig(**(vars(CFG) | {"tied_head": False}))


@pytest.fixture(scope="module")
def params():
    """Parameters with every linear layer there is, and both kinds of head."""
    head = heads.attach_classifier({}, UNTIED, 3, key=jax.random.key(1))
    return random_params(UNTIED) | head


def trained(adapter, seed=0):
    """The adapter as training might leave it: no factor is zero."""
    normal = np.random.default_rng(seed).normal
    return jax.tree.map(
        lambda leaf: jnp.asarray(normal(size=leaf.shape), leaf.dtype), adapter
    )


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_books_adapter_has_its_number_of_parameters():
    def create(key):
        cfg = gpt2_config("124M")
        params = gpt.init_params(key, cfg)
        params = heads.attach_classifier(params, cfg, 2, key=key)
        return lora.init_lora(key, params, rank=16, alpha=16)

    assert size(jax.eval_shape(create, jax.random.key(0))) == 2_666_528


def test_an_adapter_changes_nothing_at_the_start(params, new_key):
    adapter = lora.init_lora(new_key(), params, rank=4)
    merged = lora.merge_lora(params, adapter)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    tokens = random_batch(2).inputs
    apply = jax.jit(gpt.apply, static_argnums=2)
    np.testing.assert_array_equal(
        apply(merged, tokens, UNTIED), apply(params, tokens, UNTIED)
    )


def test_every_linear_layer_has_a_pair_and_nothing_else_has(params, new_key):
    adapter = lora.init_lora(new_key(), params, rank=4)
    merged = lora.merge_lora(params, trained(adapter))
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, before), after in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(merged),
            strict=True,
        )
        if (np.asarray(before) != np.asarray(after)).any()
    }
    attention = {f"attention/{name}" for name in ("query", "key", "value", "out")}
    linear = {f"blocks/{n}/kernel" for n in attention | {"mlp/up", "mlp/down"}}
    assert changed == linear | {"head/embedding", "classifier/kernel"}


def test_a_merged_kernel_is_the_kernel_with_the_pair_beside_it(params, new_key):
    adapter = trained(lora.init_lora(new_key(), params, rank=3, alpha=6))
    merged = lora.merge_lora(params, adapter)
    assert adapter.scale == 2
    rng = np.random.default_rng(0)
    for layer in range(CFG.n_layers):
        for part, name, inputs in [
            ("attention", "query", 1),
            ("attention", "out", 2),
            ("mlp", "up", 1),
            ("mlp", "down", 1),
        ]:
            trees = (tree["blocks"][part][name] for tree in (params, merged))
            kernel, whole = (tree["kernel"][layer] for tree in trees)
            pair = adapter.adapters["blocks"][part][name]["kernel"]
            a, b = pair["a"][layer], pair["b"][layer]
            x = rng.normal(size=(5, *kernel.shape[:inputs])).astype(np.float32)
            beside = np.tensordot(x, kernel, inputs) + 2 * np.tensordot(
                np.tensordot(x, a, inputs), b, 1
            )
            np.testing.assert_allclose(
                np.tensordot(x, whole, inputs), beside, rtol=1e-4, atol=1e-4
            )


def test_a_change_has_the_rank_that_was_asked_for(params, new_key):
    adapter = trained(lora.init_lora(new_key(), params, rank=2))
    merged = lora.merge_lora(params, adapter)
    for name in ("query", "out"):
        path = [
            tree["blocks"]["attention"][name]["kernel"] for tree in (merged, params)
        ]
        change = np.asarray(path[0] - path[1])[0].reshape(16, 16)
        assert np.linalg.matrix_rank(change, tol=1e-4) == 2
    change = np.asarray(merged["head"]["embedding"] - params["head"]["embedding"])
    assert np.linalg.matrix_rank(change, tol=1e-4) == 2


def test_only_the_second_factor_has_a_gradient_at_the_start(params, new_key):
    adapter = lora.init_lora(new_key(), params, lora.QUERY_AND_VALUE, rank=2)

    @jax.jit
    def gradient(adapter):
        def loss(adapter):
            merged = lora.merge_lora(params, adapter)
            return losses.next_token_loss(merged, random_batch(2), UNTIED)[0]

        return jax.grad(loss)(adapter)

    pair = gradient(adapter).adapters["blocks"]["attention"]["query"]["kernel"]
    assert not pair["a"].any()
    assert pair["b"].any()


def test_a_pair_starts_the_same_whatever_else_is_adapted(params, new_key):
    key = new_key()
    few = lora.init_lora(key, params, lora.QUERY_AND_VALUE, rank=2)
    many = lora.init_lora(key, params, lora.ALL_LINEAR, rank=2)

    def pair(adapter, name):
        return adapter.adapters["blocks"]["attention"][name]["kernel"]

    np.testing.assert_array_equal(pair(few, "value")["a"], pair(many, "value")["a"])
    assert (pair(many, "query")["a"] != pair(many, "value")["a"]).all()
    assert "key" not in few.adapters["blocks"]["attention"]
    limit = 1 / np.sqrt(CFG.emb_dim)
    assert 0.9 * limit < np.abs(pair(many, "value")["a"]).max() <= limit


def test_an_adapter_is_a_pytree_of_its_arrays(params, new_key):
    adapter = lora.init_lora(new_key(), params, lora.QUERY_AND_VALUE, rank=2)
    leaves, structure = jax.tree.flatten(adapter)
    assert len(leaves) == 4
    again = jax.tree.unflatten(structure, leaves)
    assert (again.rules, again.scale) == (lora.QUERY_AND_VALUE, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"rules": (("gate", "dr,rf->df"), ("", None))}, "none matches gate"),
        ({"rules": (("gate", None),)}, "no rule matches"),
        (
            {"rules": (("mlp/up/kernel$", "dr,rf->df"), ("", None))},
            r"blocks/mlp/up/kernel must have the axes df .* got shape \(2, 16, 64\)",
        ),
    ],
)
def test_ranks_and_rules_that_do_not_fit_are_errors(params, changes, words):
    with pytest.raises(ConfigError, match=words):
        lora.init_lora(jax.random.key(0), params, **changes)
