"""What a classifier learns: texts that neither padding, order nor slices change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CFG, random_params

from jaxllm.config import MeshConfig
from jaxllm.data import example_batches
from jaxllm.data.labelled import TextBatch
from jaxllm.data.text_tokenizers import CharTokenizer
from jaxllm.distributed import mesh as meshes
from jaxllm.errors import DataError
from jaxllm.finetuning import classification, heads, scores, tasks
from jaxllm.finetuning.config import ClassifyConfig, ExamplesConfig, FinetuneConfig
from jaxllm.training import steps

PARAMS = heads.attach_classifier(random_params(), CFG, 3, key=jax.random.key(1))
SCORE = classification.scorer(ClassifyConfig())


@pytest.fixture
def batch():
    """Three texts and a row without any, of classes that weigh differently."""
    lengths = np.array([8, 1, 0, 5], np.int32)
    ids = np.random.default_rng(0).integers(0, 16, (4, 8), np.int32)
    labels, weights = np.array([0, 2, 0, 1], np.int32), np.array([0.5, 1, 3])
    there = (lengths > 0).astype(np.float32)
    return TextBatch(ids, lengths, labels, there * weights[labels].astype(np.float32))


@functools.partial(jax.jit, static_argnums=1)
def step(batch, slices=1):
    """The sum of losses, the number of texts, and the gradient of the sum."""
    return steps.summed_gradient(
        lambda params, rows, key: classification.loss_sum(
            params, rows, CFG, score=SCORE
        ),
        PARAMS,
        batch,
        None,
        slices,
    )


def assert_same_step(one, other):
    assert int(one[1]) == int(other[1]) == 3
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_loss_is_that_of_each_text_times_its_weight(batch):
    logits = np.random.default_rng(1).normal(size=(4, 3))
    total, count = classification.loss_sum(
        PARAMS, batch, CFG, score=lambda *given, key: jnp.asarray(logits)
    )
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = -np.log(shares[np.arange(4), batch.labels])
    np.testing.assert_allclose(total, (batch.weights * losses).sum(), rtol=1e-5)
    assert int(count) == 3


def test_what_pads_a_text_changes_no_loss_and_no_gradient(batch):
    padding = np.arange(8) >= batch.lengths[:, None]
    other = batch._replace(inputs=np.where(padding, 9, batch.inputs))
    assert_same_step(step(other), step(batch))


def test_the_order_of_texts_changes_no_step(batch):
    order = np.array([2, 0, 3, 1])
    assert_same_step(step(TextBatch(*(leaf[order] for leaf in batch))), step(batch))


def test_accumulated_texts_make_the_step_of_the_whole_batch(batch):
    # One of the slices holds the row without a text.
    assert_same_step(step(batch, 2), step(batch))


def test_a_batch_without_texts_has_loss_zero(batch):
    nothing = TextBatch(*(np.zeros_like(leaf) for leaf in batch))
    total, count, gradient = step(nothing)
    assert total == count == 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_processes_that_split_a_model_give_the_same_rows(batch, monkeypatch):
    # A second process would hold the other half of the model.
    mesh = meshes.make_mesh(MeshConfig(data=1, tensor=2), jax.devices()[:2])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    plan = example_batches.shuffled_plan(4, 4)
    cfg = FinetuneConfig(data=ExamplesConfig(file=__file__))
    learnt = tasks.training_batches(
        plan, lambda rows: TextBatch(*(leaf[rows] for leaf in batch)), cfg, mesh
    )
    judged = tasks.place_batch(batch, mesh)
    for one in (next(learnt), judged):
        assert sorted(np.asarray(one.lengths)) == [0, 1, 5, 8]


def test_a_rare_label_counts_like_any_other_in_the_macro_f1():
    figures = scores.report(np.array([[8, 0, 0], [2, 0, 0], [0, 0, 0]]), tuple("abc"))
    assert figures["accuracy"] == 0.8
    # Of b none is found; of c there is none, and none is found.
    np.testing.assert_allclose(figures["macro_f1"], (16 / 18 + 0) / 2)


def test_batches_go_on_with_the_same_examples_alone(tmp_path):
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    file = tmp_path / "texts.tsv"
    cfg = FinetuneConfig(data=ExamplesConfig(file=str(file)))

    def batches(text):
        file.write_text(text)
        plan = example_batches.shuffled_plan(4, 2)
        return tasks.training_batches(plan, lambda rows: (rows,), cfg, mesh)

    first = batches("ham\tgood\n")
    next(first)
    same, other = batches("ham\tgood\n"), batches("spam\tgood\n")
    same.restore(first.state())
    assert same.state() == first.state()
    with pytest.raises(DataError, match=r"texts\.tsv must hold the examples that"):
        other.restore(first.state())


@pytest.mark.parametrize("pad_to", ["longest", "max_length"])
def test_where_padding_is_read_a_text_has_one_label_wherever_it_is(pad_to, tmp_path):
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice([*"abcdef"], i % 7 + 1)) for i in range(42)]
    lines = [f"{'xyz'[i % 3]}\t{row}\n" for i, row in enumerate(rows)]
    (tmp_path / "texts.tsv").write_text("".join(lines))
    cfg = FinetuneConfig(
        model=CFG,
        data=ExamplesConfig(
            file=str(tmp_path / "texts.tsv"),
            columns=("label", "text"),
            batch_size=4,
            test_fraction=0.8,
        ),
        classify=ClassifyConfig(read_padding=True, pooling="mean", pad_to=pad_to),
    )
    cfg, examples = classification.read(cfg)
    tokenizer = CharTokenizer(characters="abcdefghijklmnop")
    cfg = classification.complete(cfg, examples, tokenizer)
    longest = max(map(len, examples.train.texts))
    assert longest < max(map(len, examples.test.texts))
    assert cfg.classify.width == (longest if pad_to == "longest" else 8)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    start = tasks.Start(lambda: PARAMS, CFG, tokenizer, mesh, lambda *event: None)
    test = classification.prepare(cfg, examples, start).test
    assert test
    tested = test(PARAMS)
    for size in (1, 5):
        answers = classification.classify_texts(
            PARAMS, CFG, tokenizer, cfg, examples.test.texts, batch_size=size
        )
        shares = np.stack([share for _, share, _ in answers])
        losses = -np.log(shares[np.arange(len(shares)), examples.test.labels])
        np.testing.assert_allclose(losses.mean(), tested["loss"], rtol=1e-5)


def test_no_text_that_judges_a_run_is_read_before_it(tmp_path):
    # Each text twice, so that copies are on both sides of the split.
    rows = [
        f"{kind}\t{kind} {i}\n" for i in range(20) for kind in ("ham", "ham", "spam")
    ]
    (tmp_path / "texts.tsv").write_text("".join(rows))
    cfg = FinetuneConfig(
        data=ExamplesConfig(
            file=str(tmp_path / "texts.tsv"), columns=("label", "text")
        ),
        classify=ClassifyConfig(balance="undersample"),
    )
    _, examples = classification.read(cfg)
    unjudged = {*classification.read_unjudged(cfg)}
    judges = {*examples.validation.texts, *examples.test.texts}
    assert not unjudged & judges
    assert unjudged | judges == {row.split("\t")[1].strip() for row in rows}
