"""Chapter 6: a classifier."""

from jaxllm.notes.figure import Figure, LeftOut, Printed

_FROM_WEIGHTS = "needs GPT-2's weights; configs/spam_gpt2.yaml is the run for it"

# The book's reader samples with pandas, which draws as NumPy's first generator does.
_BALANCED = (
    "spam = book.spam_messages()\n"
    "rows = labelled.balanced_rows(\n"
    "    spam.labels, np.random.RandomState(123).permutation)\n"
)
_SPLIT = (
    _BALANCED + "order = np.random.RandomState(123).permutation(len(rows))\n"
    "train, validation, test = records.split(rows[order], (0.7, 0.1, 0.2))\n"
)
_HEAD = (
    'params, cfg, gpt2 = book.published("124M")\n'
    "weight, bias = stream.seed(123).linear(768, 2)\n"
    'params = params | {"classifier": {"kernel": weight.T, "bias": bias}}\n'
)
_SHAPES = (
    'key, cfg = jax.random.key(0), gpt2_config("124M")\n'
    "shapes = jax.eval_shape(lambda: heads.attach_classifier(\n"
    "    gpt.init_params(key, cfg), cfg, 2, key=key))\n"
)

FIGURES = (
    Figure(
        "spam-messages",
        "E",
        "ch06; rows in all, ham and spam",
        "spam = book.spam_messages()\nlen(spam.texts), np.bincount(spam.labels)",
        [5572, [4825, 747]],
        "The file holds 5,574 messages and quotes nothing. The book's reader takes a "
        "quotation mark that begins a message for quoting, and merges rows; "
        "book.spam_messages(quoted=False) reads them all.",
    ),
    Figure(
        "spam-balanced",
        "E",
        "ch06; as many ham messages as spam",
        _BALANCED + "len(rows)",
        1494,
    ),
    Figure(
        "spam-sample",
        "E",
        "ch06; the numbers of the first and last rows",
        _BALANCED + "rows[:5], rows[-5:]",
        [[4307, 4138, 4831, 4461, 5440], [5537, 5540, 5547, 5566, 5567]],
    ),
    Figure(
        "spam-split",
        "E",
        "ch06",
        _SPLIT + "len(train), len(validation), len(test)",
        [1045, 149, 300],
    ),
    Figure(
        "spam-longest",
        "E",
        "ch06; messages to train on, and tokens of the longest",
        _SPLIT + 'gpt2 = tokenizers.load("gpt2")\n'
        "labelled.encode_texts(labelled.take(spam, train).texts, gpt2).ids.shape",
        [1045, 120],
    ),
    Figure(
        "spam-batches",
        "E",
        "ch06; batches of 8",
        _SPLIT + "len(records.batch_rows(train, 8, drop_last=True)), \\\n"
        "    len(records.batch_rows(validation, 8)), len(records.batch_rows(test, 8))",
        [130, 19, 38],
    ),
    Figure(
        "classifier-parameters",
        "E",
        "appendix E; two outputs on GPT-2",
        _SHAPES + "sum(leaf.size for leaf in jax.tree.leaves(shapes))",
        124_441_346,
    ),
    Figure(
        "classifier-trainable-parameters",
        "E",
        "ch06; last block, final norm and head",
        _SHAPES + "trained, frozen = jax.eval_shape(\n"
        "    lambda tree: trainable.split(tree, trainable.last_blocks(1)), shapes)\n"
        "sum(leaf.size for leaf in jax.tree.leaves(trained))",
        7_090_946,
    ),
    Figure(
        "lora-parameters",
        "E",
        "appendix E; rank 16 on every linear layer and the head",
        _SHAPES + "adapter = jax.eval_shape(\n"
        "    lambda: lora.init_lora(key, shapes, lora.ALL_LINEAR, rank=16, alpha=16))\n"
        "sum(leaf.size for leaf in jax.tree.leaves(adapter))",
        2_666_528,
    ),
    Figure(
        "classifier-before-training",
        "W",
        "ch06; the scores of a head drawn after seed 123, at every token",
        _HEAD + 'tokens = gpt2.encode("Do you have time")[None]\n'
        "hidden, _ = gpt.hidden_states(params, tokens, cfg)\n"
        "heads.score_classes(params, hidden, cfg)",
        Printed(
            "-1.5854 0.9904 | -3.7235 7.4548 | -2.2661 6.6049 | -3.5983 3.9902",
        ),
        weights="124M",
    ),
)

LEFT_OUT = (
    LeftOut(
        "spam-before-training",
        "W",
        "ch06: 46.25, 45.00 and 48.75 %; losses 2.453, 2.583 and 2.322",
        _FROM_WEIGHTS,
    ),
    LeftOut(
        "spam-classification",
        "W",
        "ch06: losses 2.153/2.392 ... 0.083/0.074; 97.21, 97.32 and 95.67 %",
        _FROM_WEIGHTS,
    ),
    LeftOut(
        "spam-variants",
        "W",
        "ch06/02 and ch06/03: accuracies of 19 variants, and on film reviews",
        _FROM_WEIGHTS,
    ),
    LeftOut(
        "lora-classification",
        "W",
        "appendix E: 99.81, 97.99 and 96.67 %",
        _FROM_WEIGHTS,
    ),
)
