"""Chapter 5, first part: losses, and how a text is continued."""

from jaxllm.notes.figure import Figure, LeftOut, Printed

_UNTRAINED = "params, _ = book.untrained(book.GPT_256)\n"
_PROMPT = (
    'gpt2 = tokenizers.load("gpt2")\nprompt = gpt2.encode("Every effort moves you")\n'
)
_TOY = (
    _UNTRAINED
    + "inputs = np.array([[16833, 3626, 6100], [40, 1107, 588]])\n"
    + "targets = np.array([[3626, 6100, 345], [1107, 588, 11311]])\n"
    + "apply = jax.jit(gpt.apply, static_argnums=2)\n"
    + "logits = apply(params, inputs, book.GPT_256)\n"
)
_CHANCES = (
    _TOY + "chances = jnp.take_along_axis(jax.nn.softmax(logits), "
    "targets[..., None], axis=-1)\n"
)
_SPLIT = "train, validation = pretraining.split_ids()\n"
_IN_ORDER = "in_order = DataConfig(batch_size=2, shuffle=False)\n"
_SCHEDULE = (
    "cfg = OptimizerConfig(\n"
    "    learning_rate=1e-3, initial_learning_rate=1e-5, min_learning_rate=1e-5,\n"
    "    warmup_steps=27, schedule='cosine',\n"
    ")\n"
)


def _drawn(temperature: float) -> str:
    return (
        f"chances = jax.nn.softmax(book.NEXT_WORD / {temperature})\n"
        "drawn = stream.seed(123).multinomial(np.tile(chances, (1000, 1)))\n"
        "{book.NEXT_WORDS[i]: int(n) "
        "for i, n in zip(*np.unique(drawn, return_counts=True))}"
    )


FIGURES = (
    Figure(
        "untrained-greedy",
        "R",
        "ch05",
        _UNTRAINED + _PROMPT + "gpt2.decode(generate.generate(\n"
        "    params, prompt, book.GPT_256, max_new_tokens=10, temperature=0))",
        "Every effort moves you rentingetic wasnم refres RexMeCHicular stren",
    ),
    Figure(
        "toy-likeliest",
        "R",
        "ch05",
        _TOY + "logits.argmax(-1)",
        [[16657, 339, 42826], [49906, 29669, 41751]],
    ),
    Figure(
        "toy-likeliest-text",
        "R",
        "ch05",
        _TOY + 'tokenizers.load("gpt2").decode(logits[0].argmax(-1))',
        " Armed heNetflix",
    ),
    Figure(
        "toy-target-probabilities",
        "R",
        "ch05",
        _CHANCES + "chances[..., 0]",
        Printed(
            "[7.4541e-05 3.1061e-05 1.1563e-05]\n[1.0337e-05 5.6776e-05 4.7559e-06]"
        ),
    ),
    Figure(
        "toy-log-probabilities",
        "R",
        "ch05",
        _CHANCES + "jnp.log(chances)",
        Printed("-9.5042 -10.3796 -11.3677 -11.4798 -9.7764 -12.2561"),
    ),
    Figure(
        "toy-loss",
        "R",
        "ch05",
        _TOY + "losses.cross_entropy(logits, targets)[0]",
        Printed("10.7940"),
        "The book starts from PyTorch's initial values, with embeddings of variance 1; "
        "GPT-2 started from N(0, 0.02), jaxllm's default.",
    ),
    Figure(
        "toy-perplexity",
        "R",
        "ch05",
        _TOY + "evaluation.perplexity(losses.cross_entropy(logits, targets)[0])",
        Printed("48725.82"),
    ),
    Figure("split-characters", "E", "ch05", "int(0.9 * len(book.verdict()))", 18431),
    Figure(
        "split-tokens",
        "E",
        "ch05",
        _SPLIT + "len(train), len(validation)",
        [4612, 534],
        "The book cuts the text between characters, here inside a word: 5146 ids in "
        "all for a text of 5145. jaxllm cuts between tokens.",
    ),
    Figure(
        "split-batches",
        "E",
        "ch05",
        _SPLIT
        + _IN_ORDER
        + "[[batch.inputs.shape for batch in batches.training_batches(\n"
        "    ids, 256, in_order, epochs=1)] for ids in (train, validation)]",
        [[[2, 256]] * 9, [[2, 256]]],
        "A text shorter than the context has no batch: the book averages nothing, NaN; "
        "here it is an error.",
    ),
    Figure(
        "split-tokens-in-batches",
        "E",
        "ch05",
        _SPLIT + "[256 * windows.window_count(len(ids), 256) "
        "for ids in (train, validation)]",
        [4608, 512],
    ),
    Figure(
        "losses-of-a-small-run",
        "E",
        "ch05 tests",
        _SPLIT + "steps = windows.window_count(len(train), 12) // 2\n"
        "steps, len(range(0, steps, 5))",
        [192, 39],
    ),
    Figure(
        "initial-training-loss",
        "R",
        "ch05",
        _UNTRAINED
        + _SPLIT
        + _IN_ORDER
        + "each = batches.training_batches(train, 256, in_order, epochs=1)\n"
        "pretraining.mean_loss(params, each)",
        Printed("10.98758"),
    ),
    Figure(
        "initial-validation-loss",
        "R",
        "ch05",
        _UNTRAINED
        + _SPLIT
        + _IN_ORDER
        + "each = batches.training_batches(validation, 256, in_order, epochs=1)\n"
        "pretraining.mean_loss(params, each)",
        Printed("10.98111"),
    ),
    Figure(
        "next-word-greedy",
        "E",
        "ch05",
        "book.NEXT_WORDS[int(jnp.argmax(book.NEXT_WORD))]",
        "forward",
    ),
    Figure(
        "next-word-top-3",
        "E",
        "ch05",
        "jax.lax.top_k(book.NEXT_WORD, 3)",
        Printed("[6.75 6.28 4.51] [3 7 0]"),
    ),
    Figure(
        "next-word-top-3-probabilities",
        "E",
        "ch05",
        "jax.nn.softmax(filters.keep_top_k(book.NEXT_WORD, 3))",
        Printed("0.0615 0 0 0.5775 0 0 0 0.3610 0"),
        "The book's generate compares logits with a threshold of shape (B,), which is "
        "right for one row only; keep_top_k has a threshold per row.",
    ),
    Figure(
        "next-word-pizza-at-5",
        "E",
        "ch05",
        "chosen = sampling.Sampling(temperature=5.0)\n"
        "jax.nn.softmax(sampling.filtered(book.NEXT_WORD, chosen))"
        '[book.NEXT_WORDS.index("pizza")]',
        Printed("0.0430"),
    ),
    Figure(
        "next-word-drawn-1000-times",
        "R",
        "ch05",
        _drawn(1.0),
        {"closer": 73, "forward": 582, "inches": 2, "toward": 343},
    ),
    Figure(
        "next-word-drawn-at-0.1",
        "R",
        "ch05",
        _drawn(0.1),
        {"forward": 985, "toward": 15},
    ),
    Figure(
        "schedule-warmup-steps",
        "E",
        "appendix D",
        _SPLIT + "steps = 15 * (windows.window_count(len(train), 256) // 2)\n"
        "steps, int(0.2 * steps)",
        [135, 27],
    ),
    Figure(
        "schedule",
        "E",
        "appendix D",
        _SCHEDULE + "rate = optimizers.learning_rate_schedule(cfg, total_steps=135)\n"
        "[rate(step) for step in (0, 1, 26, 27, 81, 134)]",
        Printed("1e-05 4.667e-05 9.6333e-04 1e-03 5.05e-04 1.021e-05"),
        "The book clips gradients from the step behind the warm-up's end on; jaxllm "
        "always clips, or never.",
    ),
)

LEFT_OUT = (
    LeftOut(
        "grid-of-settings",
        "E",
        "ch05/05: 12,960 combinations",
        "counts the settings of another script",
    ),
)
