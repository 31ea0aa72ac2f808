"""Windows: the notes' counts and first batches, and the naive loop as a law."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data import windows
from jaxllm.errors import DataError


@pytest.fixture(scope="module")
def verdict(real_file):
    """The Verdict's 5,145 GPT-2 ids."""
    tokenizers = pytest.importorskip("jaxllm.data.tokenizers")
    text = real_file("the-verdict.txt").read_text(encoding="utf-8")
    return tokenizers.load("gpt2").encode(text)


@given(n=st.integers(0, 60), max_length=st.integers(1, 12), stride=st.integers(1, 15))
def test_windows_equal_the_naive_loop(n, max_length, stride):
    ids = np.arange(n) * 7
    starts = range(0, n - max_length, stride)
    assert windows.window_count(n, max_length, stride) == len(starts)
    if not starts:
        with pytest.raises(DataError):
            windows.sliding_windows(ids, max_length, stride)
        return
    inputs, targets = windows.sliding_windows(ids, max_length, stride)
    np.testing.assert_array_equal(inputs, [ids[i : i + max_length] for i in starts])
    np.testing.assert_array_equal(
        targets, [ids[i + 1 : i + 1 + max_length] for i in starts]
    )
    read = windows.read_windows(ids, np.array(starts), max_length + 1)
    np.testing.assert_array_equal(read[:, :-1], inputs)
    np.testing.assert_array_equal(read[:, 1:], targets)


@pytest.mark.parametrize("kind", [list, jnp.asarray])
def test_windows_of_any_row_of_ids_are_read(kind):
    read = windows.read_windows(kind(np.arange(10, 18)), np.array([4, 0]), 3)
    assert read.tolist() == [[14, 15, 16], [10, 11, 12]]
    with pytest.raises(DataError, match=r"one axis, got shape \(2, 3\)"):
        windows.read_windows(kind(np.ones((2, 3))), np.array([0]), 1)


def test_windows_share_the_memory_of_the_ids():
    ids = np.arange(100, dtype=np.int32)
    for view in windows.sliding_windows(ids, 8, 3):
        assert np.shares_memory(view, ids)
        assert view.dtype == np.int32


def test_windows_of_a_memory_map_are_views_of_the_file(tmp_path):
    np.arange(100, dtype="<u2").tofile(tmp_path / "ids.bin")
    ids = np.memmap(tmp_path / "ids.bin", dtype="<u2", mode="r")
    inputs, targets = windows.sliding_windows(ids, 8)
    assert np.shares_memory(inputs, ids)
    assert np.shares_memory(targets, ids)
    assert inputs.shape == targets.shape == (12, 8)
    np.testing.assert_array_equal(targets[-1], np.arange(89, 97))


def test_stride_is_the_window_length_by_default():
    inputs, _ = windows.sliding_windows(np.arange(13), 4)
    np.testing.assert_array_equal(inputs[:, 0], [0, 4, 8])


def test_windows_of_one_token():
    inputs, targets = windows.sliding_windows(np.array([5, 6, 7]), 1)
    np.testing.assert_array_equal(inputs, [[5], [6]])
    np.testing.assert_array_equal(targets, [[6], [7]])


@pytest.mark.parametrize("n", [0, 1, 4])
def test_a_text_shorter_than_one_window_is_an_error_with_both_numbers(n):
    with pytest.raises(DataError, match=rf"needs 5 tokens .* the text has {n}"):
        windows.sliding_windows(np.arange(n), 4)


@pytest.mark.parametrize(("max_length", "stride"), [(0, 1), (-3, 1), (4, 0)])
def test_lengths_and_strides_below_one_are_errors(max_length, stride):
    with pytest.raises(DataError, match=r"must be >= 1, got (0|-3)"):
        windows.sliding_windows(np.arange(9), max_length, stride)


def test_ids_with_two_axes_are_an_error():
    with pytest.raises(DataError, match=r"one axis, got shape \(3, 3\)"):
        windows.sliding_windows(np.zeros((3, 3), int), 2)


@pytest.mark.parametrize(
    ("max_length", "stride", "count"),
    [
        (4, 1, 5141),
        (4, 4, 1286),
        (2, 2, 2572),
        (8, 2, 2569),
        (256, 128, 39),
        (256, 256, 20),
        (6, 128, 41),
    ],
)
def test_window_counts_of_the_verdict(max_length, stride, count):
    assert windows.window_count(5145, max_length, stride) == count
    inputs, targets = windows.sliding_windows(np.arange(5145), max_length, stride)
    assert inputs.shape == targets.shape == (count, max_length)


def test_numbers_from_0_to_1000_end_as_in_the_book():
    numbers = np.arange(1001)
    inputs, targets = windows.sliding_windows(numbers, 4, 1)
    np.testing.assert_array_equal(inputs[-1], [996, 997, 998, 999])
    np.testing.assert_array_equal(targets[-1], [997, 998, 999, 1000])
    inputs, _ = windows.sliding_windows(numbers, 4, 4)
    np.testing.assert_array_equal(
        inputs[-2:], [[992, 993, 994, 995], [996, 997, 998, 999]]
    )


def test_first_batches_of_the_verdict(verdict):
    assert len(verdict) == 5145
    assert list(verdict[50:55]) == [290, 4920, 2241, 287, 257]

    inputs, targets = windows.sliding_windows(verdict, 4, 1)
    assert inputs[:2].tolist() == [[40, 367, 2885, 1464], [367, 2885, 1464, 1807]]
    assert targets[:2].tolist() == [[367, 2885, 1464, 1807], [2885, 1464, 1807, 3619]]

    inputs, targets = windows.sliding_windows(verdict, 4, 4)
    assert inputs[:8].tolist() == [
        [40, 367, 2885, 1464],
        [1807, 3619, 402, 271],
        [10899, 2138, 257, 7026],
        [15632, 438, 2016, 257],
        [922, 5891, 1576, 438],
        [568, 340, 373, 645],
        [1049, 5975, 284, 502],
        [284, 3285, 326, 11],
    ]
    assert targets[7].tolist() == [3285, 326, 11, 287]

    inputs, _ = windows.sliding_windows(verdict, 2, 2)
    assert inputs[:4].tolist() == [[40, 367], [2885, 1464], [1807, 3619], [402, 271]]
    inputs, _ = windows.sliding_windows(verdict, 8, 2)
    assert inputs[:4, 0].tolist() == [40, 2885, 1807, 402]


def test_the_notes_ten_windows_start_at_multiples_of_the_stride():
    inputs, targets = windows.sliding_windows(np.arange(5145), 6, 128)
    starts = [2304, 1280, 2944, 128, 4864, 640, 2048, 3968, 2176, 1536]
    rows = [start // 128 for start in starts]
    assert inputs[rows, 0].tolist() == starts
    assert targets.shape[1] == 6  # and not 7, which the notes print
