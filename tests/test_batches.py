"""Batches: laws of order, shares and resumption, and the notes' first batches."""

import itertools
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.config import DataConfig
from jaxllm.data import batch_plan, batches, windows
from jaxllm.errors import DataError
from jaxllm.types import Batch

IDS = np.arange(1000, 1101, dtype=np.uint16)  # 101 ids: 25 windows of 4


def _all(ids, max_length, cfg, **options):
    with batches.training_batches(ids, max_length, cfg, **options) as iterator:
        return list(iterator)


def _joined(parts):
    return Batch(
        *(
            None if field[0] is None else np.concatenate(field)
            for field in zip(*parts, strict=True)
        )
    )


def _plan(**changes):
    plan = {
        "n_tokens": 101,
        "max_length": 4,
        "stride": 4,
        "batch_size": 4,
        "seed": 0,
        "shuffle": True,
        "drop_last": True,
        "epochs": None,
    }
    return batch_plan.BatchPlan(**(plan | changes))


def _equal(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(a, b) for a, b in zip(one, other, strict=True) if a is not None
    )


def test_batches_are_the_windows_in_order():
    cfg = DataConfig(batch_size=4, shuffle=False)
    got = _all(IDS, 4, cfg, epochs=1)
    inputs, targets = windows.sliding_windows(IDS, 4)
    assert len(got) == 6  # the 25th window is left out
    np.testing.assert_array_equal(np.concatenate([b.inputs for b in got]), inputs[:24])
    np.testing.assert_array_equal(
        np.concatenate([b.targets for b in got]), targets[:24]
    )
    for batch in got:
        assert batch.inputs.dtype == batch.targets.dtype == np.int32
        assert batch.inputs.flags.c_contiguous
        assert batch.targets.flags.c_contiguous
        assert batch.mask is None


@given(
    n_tokens=st.integers(6, 300),
    max_length=st.integers(1, 5),
    stride=st.integers(1, 7),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 10**6),
)
def test_a_shuffled_epoch_visits_every_window_once(
    n_tokens, max_length, stride, batch_size, seed, epoch
):
    plan = _plan(
        n_tokens=n_tokens,
        max_length=max_length,
        stride=stride,
        batch_size=batch_size,
        seed=seed,
        drop_last=False,
    )
    n = plan.batches_per_epoch
    index = batch_plan.window_indices(plan, np.arange(epoch * n, (epoch + 1) * n))
    counted = index[index >= 0]
    assert sorted(counted) == list(
        range(windows.window_count(n_tokens, max_length, stride))
    )
    assert (index < 0).sum() == n * batch_size - len(counted)


@given(n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permute_is_one_to_one(n, key):
    index = batch_plan.permute(np.arange(n), n, np.array([key], np.uint64))
    assert sorted(index) == list(range(n))


def test_permute_reaches_indices_beyond_32_bits():
    n = 2**40 + 7
    index = batch_plan.permute(np.arange(n - 1000, n), n, np.array([1], np.uint64))
    assert len(set(index.tolist())) == 1000
    assert index.min() >= 0
    assert 2**38 < index.max() < n


def test_every_place_in_an_epoch_is_as_likely_for_every_window():
    keys = np.arange(20_000, dtype=np.uint64)[:, None] << np.uint64(20)
    positions = np.broadcast_to(np.arange(10), (20_000, 10))
    index = batch_plan.permute(positions, 10, keys)
    counts = np.stack([np.bincount(column, minlength=10) for column in index.T])
    chi_square = ((counts - 2000) ** 2 / 2000).sum()  # 81 degrees of freedom
    assert chi_square < 81 + 6 * np.sqrt(2 * 81)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        (seed, epoch): tuple(
            batch_plan.window_indices(
                _plan(seed=seed), np.arange(epoch * 6, (epoch + 1) * 6)
            ).ravel()
        )
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(set(orders.values())) == len(orders)


def test_the_same_seed_gives_the_same_batches():
    cfg = DataConfig(batch_size=4)
    one, other = (_all(IDS, 4, cfg, seed=3, epochs=3) for _ in range(2))
    assert len(one) == 18
    assert all(map(_equal, one, other))
    assert not all(map(_equal, one, _all(IDS, 4, cfg, seed=4, epochs=3)))


def test_batches_without_an_end_go_on_into_the_next_epochs():
    cfg = DataConfig(batch_size=4)
    with batches.training_batches(IDS, 4, cfg) as endless:
        first = list(itertools.islice(endless, 20))
    assert all(map(_equal, first, _all(IDS, 4, cfg, epochs=4)))


def test_the_last_batch_is_filled_up_and_masked_where_it_is_kept():
    cfg = DataConfig(batch_size=4, drop_last=False)
    got = _all(IDS, 4, cfg, epochs=1)
    assert [int(batch.mask.sum()) for batch in got] == [16] * 6 + [4]
    assert all(batch.inputs.shape == batch.mask.shape == (4, 4) for batch in got)
    starts = [batch.inputs[batch.mask[:, 0], 0] for batch in got]
    assert sorted(np.concatenate(starts)) == list(range(1000, 1100, 4))
    assert (got[-1].inputs[~got[-1].mask] == 0).all()


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("process_count", [1, 2, 3, 6])
def test_processes_share_out_the_global_batch(process_count, drop_last):
    cfg = DataConfig(batch_size=6, drop_last=drop_last)
    whole = _all(IDS, 4, cfg, seed=1, epochs=2)
    shares = [
        _all(
            IDS,
            4,
            cfg,
            seed=1,
            epochs=2,
            process_index=index,
            process_count=process_count,
        )
        for index in range(process_count)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = _joined(parts)
        assert _equal(joined, batch)


@settings(max_examples=20, deadline=None)
@given(stop=st.integers(0, 18), drop_last=st.booleans(), batch_size=st.integers(1, 5))
def test_resumed_batches_equal_uninterrupted_ones(stop, drop_last, batch_size):
    cfg = DataConfig(batch_size=batch_size, drop_last=drop_last)
    whole = _all(IDS, 4, cfg, epochs=4)
    with batches.training_batches(IDS, 4, cfg, epochs=4) as first:
        begun = list(itertools.islice(first, stop))
        state = json.loads(json.dumps(first.state()))
    with batches.training_batches(IDS, 4, cfg, epochs=4) as second:
        next(second)
        second.restore(state)
        rest = list(second)
    assert len(begun) + len(rest) == len(whole)
    assert all(map(_equal, begun + rest, whole))


def test_resumption_is_exact_where_chunks_are_smaller_than_an_epoch(monkeypatch):
    monkeypatch.setattr(batches, "CHUNK_TOKENS", 50)
    test_resumed_batches_equal_uninterrupted_ones()


def test_worker_processes_give_the_same_batches_whatever_signals_come(monkeypatch):
    monkeypatch.setattr(batches, "CHUNK_TOKENS", 50)  # two batches at a time
    cfg = DataConfig(batch_size=4, drop_last=False)
    whole = _all(IDS, 4, cfg, epochs=2)
    with_workers = DataConfig(batch_size=4, drop_last=False, workers=2)
    with batches.training_batches(IDS, 4, with_workers, epochs=2) as iterator:
        begun = list(itertools.islice(iterator, 5))
        state = iterator.state()
    assert all(map(_equal, begun, whole))
    before = multiprocessing.active_children()
    with batches.training_batches(IDS, 4, with_workers, epochs=2) as iterator:
        iterator.restore(state)
        rest = list(itertools.islice(iterator, 4))  # some of each worker
        # As a terminal and a scheduler send them, to the workers of a run, too.
        for worker in set(multiprocessing.active_children()) - set(before):
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        rest += iterator
    assert len(begun) + len(rest) == len(whole)
    assert all(map(_equal, begun + rest, whole))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"batch_size": 5}, "batch_size"),
        ({"shuffle": False}, "shuffle"),
        ({"stride": 2}, "stride"),
    ],
)
def test_a_position_in_other_batches_is_refused(change, name):
    state = batches.training_batches(IDS, 4, DataConfig(batch_size=4)).state()
    other = DataConfig(**({"batch_size": 4} | change))
    with pytest.raises(DataError, match=f"only with the same {name}: saved .*, now"):
        batches.training_batches(IDS, 4, other).restore(state)
    with pytest.raises(DataError, match="only with the same seed: saved 0, now 1"):
        batches.training_batches(IDS, 4, DataConfig(batch_size=4), seed=1).restore(
            state
        )


def test_a_position_in_another_text_is_refused_where_the_text_is_known():
    def here(text):
        return batches.training_batches(IDS, 4, DataConfig(batch_size=4), text=text)

    state = here("abc").state()
    here("abc").restore(state)
    with pytest.raises(DataError, match="the same text: saved 'abc', now 'abd'"):
        here("abd").restore(state)
    here("abd").restore({k: v for k, v in state.items() if k != "text"})


def test_an_order_from_outside_is_followed():
    order = [20, 3, 3, 0, 7, 1]
    got = _all(IDS, 4, DataConfig(batch_size=2), order=order, epochs=2)
    starts = [int(start) for batch in got for start in batch.inputs[:, 0]]
    assert starts == [1000 + 4 * index for index in order] * 2
    narrow = np.array(order, np.uint8)
    again = _all(IDS, 4, DataConfig(batch_size=2), order=narrow, epochs=2)
    assert all(map(_equal, got, again))


@pytest.mark.parametrize("order", [[0, 25], [-1, 0], [], [[0, 1]], [0.5, 1.0]])
def test_an_order_outside_the_windows_is_an_error(order):
    with pytest.raises(DataError, match="order must"):
        batches.training_batches(IDS, 4, DataConfig(batch_size=1), order=order)


def test_a_text_shorter_than_one_window_is_an_error():
    with pytest.raises(DataError, match=r"needs 5 tokens .* the text has 4"):
        batches.training_batches(np.arange(4), 4, DataConfig())
    with pytest.raises(DataError, match=r"needs 5 tokens .* the text has 4"):
        next(batches.evaluation_batches(np.arange(4), 4, 2))


@pytest.mark.parametrize(
    ("cfg", "options", "message"),
    [
        ({"batch_size": 26}, {}, "26 windows needs as many, there are 25"),
        ({"batch_size": 4}, {"process_count": 3}, "process_count=3 and batch_size=4"),
        (
            {"batch_size": 4},
            {"process_count": 2, "process_index": 2},
            r"process_index must be in \[0, 2\), got 2",
        ),
        ({"batch_size": 4}, {"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"batch_size": 4}, {"seed": -1}, r"seed must be in \[0, 2\*\*64\), got -1"),
    ],
)
def test_batches_that_cannot_be_made_are_errors(cfg, options, message):
    with pytest.raises(DataError, match=message):
        batches.training_batches(IDS, 4, DataConfig(**cfg), **options)


@given(
    n=st.integers(2, 200),
    max_length=st.integers(1, 20),
    batch_size=st.integers(1, 6),
    tail=st.booleans(),
)
def test_evaluation_counts_every_target_of_the_windows_once(
    n, max_length, batch_size, tail
):
    n_windows = windows.window_count(n, max_length)
    if not (n_windows or tail):
        return
    ids = np.arange(n) + 1
    got = list(batches.evaluation_batches(ids, max_length, batch_size, tail=tail))
    targets = np.concatenate([batch.targets[batch.mask] for batch in got])
    inputs = np.concatenate([batch.inputs[batch.mask] for batch in got])
    end = n if tail else n_windows * max_length + 1
    np.testing.assert_array_equal(targets, ids[1:end])
    np.testing.assert_array_equal(inputs, ids[: end - 1])
    assert {batch.inputs.shape for batch in got} == {(batch_size, max_length)}
    assert got[0].inputs.dtype == got[0].targets.dtype == np.int32


def test_evaluation_takes_the_first_batches_and_shares_them_out():
    whole = list(batches.evaluation_batches(IDS, 4, 4))
    assert len(whole) == 7
    assert all(map(_equal, whole, batches.evaluation_batches(IDS, 4, 4, count=3)))
    assert len(list(batches.evaluation_batches(IDS, 4, 4, count=3))) == 3
    shares = [
        batches.evaluation_batches(IDS, 4, 4, process_index=i, process_count=2)
        for i in range(2)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = _joined(parts)
        assert _equal(joined, batch)


def test_first_batches_of_the_verdict(real_file):
    tokenizers = pytest.importorskip("jaxllm.data.tokenizers")
    text = real_file("the-verdict.txt").read_text(encoding="utf-8")
    ids = tokenizers.load("gpt2").encode(text)
    cfg = DataConfig(batch_size=8, stride=4, shuffle=False)
    with batches.training_batches(ids, 4, cfg) as iterator:
        batch = next(iterator)
    assert batch.inputs[:2].tolist() == [[40, 367, 2885, 1464], [1807, 3619, 402, 271]]
    assert batch.targets[-1].tolist() == [3285, 326, 11, 287]


def test_numbers_from_0_to_1000_end_as_in_the_book():
    cfg = DataConfig(batch_size=2, shuffle=False)
    last = _all(np.arange(1001), 4, cfg, epochs=1)[-1]
    assert last.inputs.tolist() == [[992, 993, 994, 995], [996, 997, 998, 999]]


def test_the_books_split_has_5120_tokens_in_whole_windows():
    cfg = DataConfig(batch_size=2)
    train = _all(np.arange(4612), 256, cfg, epochs=1)
    validation = list(batches.evaluation_batches(np.arange(534), 256, 2))
    assert [batch.inputs.shape for batch in train] == [(2, 256)] * 9
    assert [batch.inputs.shape for batch in validation] == [(2, 256)]
    counted = sum(batch.inputs.size for batch in train)
    assert counted == 4608
    assert sum(batch.mask.sum() for batch in validation) == 512


def test_a_context_of_12_makes_192_steps_and_39_evaluations_an_epoch():
    cfg = DataConfig(batch_size=2)
    train = _all(np.arange(4612), 12, cfg, epochs=1)
    assert windows.window_count(4612, 12) == 384
    assert len(train) == 192
    assert len(train[::5]) == 39
