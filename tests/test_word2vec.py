"""The steps of word2vec are the gradient of its loss, and its draws have its odds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.vectors import blocks, vocabulary, word2vec
from jaxllm.vectors.config import Word2VecConfig

V, D = 20, 6
ALGORITHMS = ("skipgram", "cbow")


def small_config(algorithm="skipgram", **changes):
    plan = {"emb_dim": D, "window": 2, "block_size": 4, "block_noise": 3}
    plan |= {"batch_size": 16, "chunk_size": 64, "subsample": 0.0}
    return Word2VecConfig(algorithm=algorithm, **(plan | changes))


def random_tables(seed=0):
    normal = np.random.default_rng(seed).normal
    return word2vec.Tables(*(jnp.asarray(normal(size=(V, D)), "float32") for _ in "io"))


def random_blocks(cfg, n=50, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, V, n).astype(np.int32)
    ids[[0, 17, 18, 30]] = -1
    noise = blocks.alias_table(np.full(V, 1 / V))
    drawn, n_updates = blocks.make_blocks(ids, np.ones(V + 1), noise, cfg, rng=rng)
    return drawn._replace(rate=np.full_like(drawn.rate, 0.1)), n_updates


def nth(drawn, n):
    return jax.tree.map(lambda x: jnp.asarray(x[n]), drawn)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_is_the_gradient_of_the_loss(algorithm):
    cfg, tables = small_config(algorithm), random_tables()
    block = nth(random_blocks(cfg)[0], 0)
    gradient = jax.jit(jax.grad(word2vec.loss), static_argnums=2)(tables, block, cfg)
    after = jax.jit(word2vec.update, static_argnums=2)(tables, block, cfg)
    for new, old, slope in zip(after, tables, gradient, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * slope, rtol=1e-5, atol=1e-5)


def brute_force_loss(tables, text, block, n_words, cfg):
    """Equation 4 of the paper, pair by pair, for a text of one block."""
    inputs, outputs = (np.asarray(x, np.float64) for x in tables)
    total = 0.0
    for t in range(n_words):
        low, high = t - int(block.before[0, t]), t + int(block.after[0, t])
        near = [c for c in range(low, high + 1) if c != t]
        if cfg.algorithm == "skipgram":
            questions = [(inputs[text[t]], text[c]) for c in near]
        else:
            mean = np.mean([inputs[text[c]] for c in near], 0)
            questions = [(mean, text[t])]
        for vector, answer in questions:
            total += np.log1p(np.exp(-vector @ outputs[answer]))
            noise = np.log1p(np.exp(outputs[np.asarray(block.noise[0])] @ vector))
            total += cfg.negatives * noise.mean()
    return total


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_loss_is_the_papers_pair_by_pair(algorithm):
    cfg, tables = small_config(algorithm, batch_size=4), random_tables(1)
    rng, text = np.random.default_rng(0), np.array([3, 1, 4, 1], np.int32)
    noise = blocks.alias_table(np.full(V, 1 / V))
    drawn, n_updates = blocks.make_blocks(text, np.ones(V + 1), noise, cfg, rng=rng)
    assert n_updates == 1
    block = nth(drawn, 0)
    expected = brute_force_loss(tables, text, block, 4, cfg)
    found = jax.jit(word2vec.loss, static_argnums=2)(tables, block, cfg)
    assert float(found) == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_compiled_chunk_is_its_updates_one_after_the_other(algorithm):
    cfg, tables = small_config(algorithm), random_tables()
    drawn, n_updates = random_blocks(cfg)
    assert 1 < n_updates < len(drawn.rate)
    step = word2vec.compile_chunk(cfg, None)
    result, loss = step(jax.tree.map(jnp.copy, tables), drawn, n_updates)
    assert 0 < float(loss) < 100
    update = jax.jit(word2vec.update, static_argnums=2)
    for n in range(n_updates):
        tables = update(tables, nth(drawn, n), cfg)
    for a, b in zip(result, tables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_devices_that_share_the_columns_learn_what_one_does(algorithm):
    cfg, tables = small_config(algorithm), random_tables()
    drawn, n_updates = random_blocks(cfg)
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((3,), ("columns",), axis_types, devices=jax.devices()[:3])
    results = [
        word2vec.compile_chunk(cfg, m)(jax.tree.map(jnp.copy, tables), drawn, n_updates)
        for m in (None, mesh)
    ]
    for a, b in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_words_past_the_end_of_a_text_teach_nothing():
    cfg, tables = small_config(), random_tables()
    drawn, n_updates = random_blocks(cfg)
    update = jax.jit(word2vec.update, static_argnums=2)
    after = update(tables, nth(drawn, n_updates), cfg)
    for new, old in zip(after, tables, strict=True):
        np.testing.assert_array_equal(new, old)


def test_no_window_leaves_its_unit_of_text():
    cfg = small_config(batch_size=4, window=3)
    ids = np.array([-1, 1, 2, -1, 3, -1, -1, 4, 5, 6, 7], np.int32)
    rng = np.random.default_rng(0)
    words, before, after = blocks.window_reach(ids, cfg.window, rng=rng)
    assert words.tolist() == [1, 2, 3, 4, 5, 6, 7]
    place, length = np.array([0, 1, 0, 0, 1, 2, 3]), np.array([2, 2, 1, 4, 4, 4, 4])
    assert (before <= place).all()
    assert (after <= length - 1 - place).all()


def test_windows_of_every_reach_are_equally_frequent():
    rng = np.random.default_rng(0)
    ids = np.zeros(40_000, np.int32)
    _, before, after = blocks.window_reach(ids, 5, rng=rng)
    counts = np.bincount(before[5:-5], minlength=6)
    assert counts[0] == 0
    assert chi_square(counts[1:], np.full(5, 0.2)) < 25  # 4 degrees: p = 5e-5
    assert (before[5:-5] == after[5:-5]).all()


def test_every_pair_of_neighbours_is_laid_out_once():
    # Blocks and halos must not lose or repeat a pair: with whole windows, each word
    # has two neighbours on either side.
    cfg = small_config(window=2)
    drawn, n_updates = random_blocks(cfg)
    rng = np.random.default_rng(0)
    noise = blocks.alias_table(np.full(V, 1 / V))
    text = rng.integers(0, V, 50).astype(np.int32)
    drawn, n_updates = blocks.make_blocks(text, np.ones(V + 1), noise, cfg, rng=rng)
    found = np.zeros((V, V), int)
    for n in range(n_updates):
        p = word2vec.pairs(nth(drawn, n), cfg)
        is_pair = np.asarray(p.weights) * np.asarray(p.labels)[None, None]
        for b, t, o in np.argwhere(is_pair):
            found[p.inputs[b, t], p.outputs[b, o]] += 1
    reach = np.random.default_rng(0)
    reach.integers(0, V, 50), reach.random(50, np.float32)
    words, before, after = blocks.window_reach(text, 2, rng=reach)
    expected = np.zeros((V, V), int)
    for t, (word, b, a) in enumerate(zip(words, before, after, strict=True)):
        for c in range(t - b, t + a + 1):
            expected[word, words[c]] += c != t
    np.testing.assert_array_equal(found, expected)


def chi_square(counts, probabilities):
    expected = counts.sum() * probabilities
    return ((counts - expected) ** 2 / expected).sum()


def test_noise_words_have_the_three_quarter_power_of_their_frequency():
    frequency = np.array([1000, 300, 100, 30, 10, 3, 1])
    odds = vocabulary.noise_distribution(frequency)
    np.testing.assert_allclose(odds, frequency**0.75 / (frequency**0.75).sum())
    table = blocks.alias_table(odds)
    drawn = blocks.draw(table, (300, 1000), np.random.default_rng(0))
    assert chi_square(np.bincount(drawn.ravel(), minlength=7), odds) < 30  # p = 4e-5


def test_an_alias_table_holds_its_distribution_exactly():
    odds = np.random.default_rng(0).dirichlet(np.full(1000, 0.1))
    table = blocks.alias_table(odds)
    held = np.zeros(1000)
    np.add.at(held, np.arange(1000), table.threshold)
    np.add.at(held, table.alias, 1 - table.threshold)
    np.testing.assert_allclose(held / 1000, odds, atol=1e-7)


def test_subsampling_keeps_the_expected_number_of_each_word():
    counts = np.array([50_000, 5_000, 500, 50])
    keep = vocabulary.keep_probability(counts, 1e-2)
    frequency = counts / counts.sum()
    ratio = 1e-2 / frequency
    np.testing.assert_allclose(keep, np.minimum(np.sqrt(ratio) + ratio, 1), rtol=1e-6)
    ids = np.repeat(np.arange(4, dtype=np.int32), counts)
    marked = np.append(ids, np.full(100, -1, np.int32))
    rng = np.random.default_rng(0)
    kept = blocks.subsample(marked, np.append(keep, 1), rng)
    assert (kept == -1).sum() == 100
    seen = np.bincount(kept[kept >= 0], minlength=4)
    spread = np.sqrt(counts * keep * (1 - keep))
    assert (np.abs(seen - counts * keep) <= 4 * spread).all()


def test_a_threshold_of_zero_keeps_every_word():
    assert vocabulary.keep_probability(np.array([10**9, 1]), 0).tolist() == [1, 1]


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("V", [2, 100, 20_000])
@pytest.mark.parametrize("subsample", [0, 1e-3])
def test_the_words_of_an_update_repeat_twice_on_average(power, V, subsample):
    counts = (1e9 * np.arange(1, V + 1.0) ** -power).astype(np.int64)
    cfg = Word2VecConfig(subsample=subsample)
    size = vocabulary.batch_size(counts, cfg)
    assert size % cfg.block_size == 0
    kept = counts * vocabulary.keep_probability(counts, subsample)
    words = np.random.default_rng(0).choice(V, (400, 1024), p=kept / kept.sum())
    # How often the first word of an update stands in the whole of it.
    repeats = (words[:, 1:size] == words[:, :1]).sum(1).mean()
    assert repeats < 2.2 or size == 16
    assert repeats > 1.5 or size in (16, 1024)


def test_a_chunk_holds_an_update():
    cfg = Word2VecConfig(chunk_size=100)
    assert vocabulary.batch_size(np.full(2000, 10), cfg) == 96


def test_rare_words_are_dropped_and_the_most_frequent_come_first():
    units = [["b", "a", "a", "c"], ["b", "a", "d", "d"]]
    found = vocabulary.count_words(units, min_count=2)
    assert found.words == ["a", "b", "d"]
    assert found.counts.tolist() == [3, 2, 2]
    assert vocabulary.count_words(units, max_words=2).words == ["a", "b"]


def test_counting_stays_within_a_bound_and_forgets_rare_words_only():
    units = [["often"] * 3 + [f"rare{n}", f"other{n}"] for n in range(105)]
    found = vocabulary.count_words(units, max_distinct=20)
    assert found.words[0] == "often"
    assert found.counts[0] == 315
    assert len(found.words) <= 20


@pytest.mark.parametrize("pattern", [r"(\w)(\w*)", r"\w*"])
def test_a_word_is_the_whole_match_of_a_pattern_and_never_empty(tmp_path, pattern):
    (tmp_path / "text.txt").write_text("One two, three")
    cfg = Word2VecConfig(corpus=str(tmp_path / "text.txt"), pattern=pattern)
    assert list(vocabulary.units(cfg)) == [(["one", "two", "three"], False)]


def test_windows_of_lines_and_documents(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("One two.\n\nThree")
    lines = Word2VecConfig(corpus=str(text), unit="line", lowercase=False)
    assert list(vocabulary.units(lines)) == [
        (["One", "two"], False),
        ([], False),
        (["Three"], False),
    ]
    whole = dataclasses.replace(lines, unit="document", lowercase=True)
    assert list(vocabulary.units(whole)) == [(["one", "two", "three"], False)]
