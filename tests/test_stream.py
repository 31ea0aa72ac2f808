"""PyTorch's random stream: the notes' printed figures always, PyTorch where it is."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.notes import stream

SEEDS = st.integers(0, 2**64)
COUNTS = st.integers(0, 40) | st.integers(41, 5000)  # both sides of 16, odd and even
FEW_EXAMPLES = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def torch():
    reason = "PyTorch is not installed (pip install jaxllm[parity])"
    return pytest.importorskip("torch", reason=reason)


def assert_printed(got, printed, digits=4):
    np.testing.assert_allclose(got, printed, rtol=0, atol=1.01 * 10**-digits)


# The notes' figures, as printed.


def test_an_embedding_of_18_numbers_redraws_its_last_16():
    table = [
        [0.3374, -0.1778, -0.1690],
        [0.9178, 1.5810, 1.3010],
        [1.2753, -0.2010, -0.1606],
        [-0.4015, 0.9666, -1.1481],
        [-1.1589, 0.3255, -0.6315],
        [-2.8400, -0.7849, -1.4096],
    ]
    assert_printed(stream.seed(123).embedding(6, 3), table)


def test_linear_draws_outputs_by_inputs():
    weight, bias = stream.seed(123).linear(4, 5, bias=False)
    assert weight.shape == (5, 4)
    assert bias is None
    assert_printed(weight[0], [-0.2039, 0.0166, -0.2483, 0.1886])


def test_keep_masks_are_those_printed_on_an_apple_cpu():
    printed = "220220 000202 222202 022002 020202 022220"
    mask = stream.seed(123).keep_mask((6, 6), 0.5)
    assert mask.dtype == bool
    assert " ".join("".join(str(2 * k) for k in row) for row in mask) == printed


def test_a_thousand_choices_fall_as_printed():
    logits = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
    printed = {1.0: {0: 73, 3: 582, 4: 2, 7: 343}, 0.1: {3: 985, 7: 15}}
    for temperature, counts in printed.items():
        weights = np.exp(logits / temperature)
        chances = np.tile((weights / weights.sum()).astype(np.float32), (1000, 1))
        chosen = stream.seed(123).multinomial(chances)
        assert dict(zip(*np.unique(chosen, return_counts=True), strict=True)) == counts


def test_gumbel_noise_chooses_as_multinomial_does():
    logits = np.random.default_rng(0).normal(size=(500, 50)).astype(np.float32)
    weights = np.exp(logits)
    chances = weights / weights.sum(axis=-1, keepdims=True)
    chosen = (logits + stream.seed(7).gumbel(logits.shape)).argmax(axis=-1)
    np.testing.assert_array_equal(chosen, stream.seed(7).multinomial(chances))


# Laws of the stream.


def test_words_do_not_depend_on_how_many_are_drawn_at_once():
    whole, parts = stream.seed(5), stream.seed(5)
    pieces = [parts.words(n) for n in (0, 1, 623, 624, 625, 3)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole.words(1876))


def test_uniforms_are_the_same_in_one_piece_and_in_many():
    whole, parts = stream.seed(5), stream.seed(5)
    count = stream._PIECE + 1
    pieces = [parts.uniform(count) for _ in range(3)]
    np.testing.assert_array_equal(whole.uniform((3, count)), pieces)


def test_normals_past_one_piece_are_the_same_as_in_pieces():
    # Where 16 divides a piece, the blocks of 16 fall alike.
    whole, parts = stream.seed(5), stream.seed(5)
    pieces = [parts.normal(stream._PIECE // 2) for _ in range(6)]
    np.testing.assert_array_equal(whole.normal(3 * stream._PIECE), np.hstack(pieces))


def test_only_32_bits_of_the_seed_count():
    a, b = stream.seed(3), stream.seed(2**32 + 3)
    np.testing.assert_array_equal(a.words(4), b.words(4))


@FEW_EXAMPLES
@given(SEEDS, st.integers(0, 300))
def test_orders_hold_every_item_once(seed, count):
    draws = stream.seed(seed)
    for order in (draws.permutation(count), draws.loader_order(count)):
        np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_a_layer_of_gpt2_size_is_the_same_on_every_machine():
    # Hash of the float32 bytes of PyTorch 2.13's Linear(768, 768) after seed 123.
    weight, _ = stream.seed(123).linear(768, 768, bias=False)
    digest = hashlib.sha256(weight.astype("<f4").tobytes()).hexdigest()
    assert digest == "3e2275b2d7ddc209bacc10784b48a5bd299cd5b340b3430c028bc3f8ecf8bd95"


def test_the_stream_does_without_jax():
    code = (
        "import sys; from jaxllm.notes import stream; stream.seed(1).normal(20);"
        "sys.exit('jax' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# PyTorch itself, on the machine's own CPU.


@FEW_EXAMPLES
@given(SEEDS, COUNTS, st.floats(-3, 0, width=32), st.floats(0.125, 3, width=32))
def test_uniforms_equal_pytorch_to_the_bit(torch, seed, count, low, high):
    torch.manual_seed(seed % 2**64)
    draws = stream.seed(seed)
    for _ in range(2):
        theirs = torch.empty(count).uniform_(low, high).numpy()
        np.testing.assert_array_equal(draws.uniform(count, low, high), theirs)
        theirs = torch.rand(count, dtype=torch.float64).numpy()
        np.testing.assert_array_equal(draws.uniform64(count), theirs)


@FEW_EXAMPLES
@given(SEEDS, st.lists(COUNTS, min_size=1, max_size=5))
def test_normals_equal_pytorch_through_draws_of_few_and_many(torch, seed, counts):
    torch.manual_seed(seed % 2**64)
    draws = stream.seed(seed)
    for count in counts:
        theirs = torch.randn(count).numpy()
        np.testing.assert_allclose(draws.normal(count), theirs, rtol=1e-5, atol=1e-6)
    # Both streams stand at the same place, so nothing was drawn too few or too many.
    assert draws.uniform(1) == torch.rand(1).numpy()


@FEW_EXAMPLES
@given(SEEDS, COUNTS)
def test_exponentials_equal_pytorch(torch, seed, count):
    torch.manual_seed(seed % 2**64)
    theirs = torch.empty(count).exponential_().numpy()
    np.testing.assert_allclose(stream.seed(seed).exponential(count), theirs, rtol=1e-6)


@FEW_EXAMPLES
@given(SEEDS, st.integers(1, 3), st.integers(2, 3000))
def test_choices_equal_pytorch(torch, seed, rows, width):
    torch.manual_seed(seed % 2**64)
    draws = stream.seed(seed)
    chances = draws.uniform((rows, width))
    theirs = torch.multinomial(torch.rand(rows, width), 1)[:, 0].numpy()
    np.testing.assert_array_equal(draws.multinomial(chances), theirs)


@FEW_EXAMPLES
@given(SEEDS, COUNTS)
def test_permutations_equal_pytorch(torch, seed, count):
    torch.manual_seed(seed % 2**64)
    theirs = torch.randperm(count).numpy()
    np.testing.assert_array_equal(stream.seed(seed).permutation(count), theirs)


@FEW_EXAMPLES
@given(SEEDS, st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=4))
def test_loader_orders_equal_pytorch_pass_after_pass(torch, seed, passes):
    torch.manual_seed(seed % 2**64)
    draws = stream.seed(seed)
    for count, shuffle in passes:
        loader = torch.utils.data.DataLoader(
            range(count), batch_size=None, shuffle=shuffle
        )
        theirs = [int(item) for item in loader]
        assert draws.loader_order(count, shuffle=shuffle).tolist() == theirs


@FEW_EXAMPLES
@given(SEEDS, st.integers(1, 90), st.integers(1, 90), st.booleans())
def test_layers_start_as_in_pytorch(torch, seed, inputs, outputs, bias):
    torch.manual_seed(seed % 2**64)
    draws = stream.seed(seed)
    theirs = torch.nn.Linear(inputs, outputs, bias=bias)
    weight, ours_bias = draws.linear(inputs, outputs, bias=bias)
    np.testing.assert_array_equal(weight, theirs.weight.detach().numpy())
    if bias:
        np.testing.assert_array_equal(ours_bias, theirs.bias.detach().numpy())
    table = torch.nn.Embedding(outputs, inputs).weight.detach().numpy()
    np.testing.assert_allclose(
        draws.embedding(outputs, inputs), table, rtol=1e-5, atol=1e-6
    )
