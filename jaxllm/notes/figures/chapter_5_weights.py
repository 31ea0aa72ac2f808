"""Chapter 5, third part: GPT-2's published weights."""

from jaxllm.notes.figure import Figure, LeftOut, Printed

_SPLIT = (
    "train, validation = pretraining.split_ids()\n"
    "in_order = DataConfig(batch_size=2, shuffle=False)\n"
)


def _loss(size: str, part: str, printed: str) -> Figure:
    return Figure(
        f"gpt2-{size.lower()}-{part}-loss",
        "W",
        "ch05 exercise 5.5" if size == "1558M" else "ch05 exercise 5.4",
        f'params, cfg, _ = book.published("{size}")\n'
        + _SPLIT
        + f"each = batches.training_batches({part}, 256, in_order, epochs=1)\n"
        "pretraining.mean_loss(params, each, cfg)",
        Printed(printed),
        weights=size,
    )


def _continued(
    name: str, size: str, source: str, options: str, expected: str
) -> Figure:
    return Figure(
        name,
        "W",
        source,
        f'params, cfg, gpt2 = book.published("{size}")\n'
        'prompt = gpt2.encode("Every effort moves you")\n'
        f"tokens = generate.generate(params, prompt, cfg, {options})\n"
        "gpt2.decode(tokens)",
        expected,
        weights=size,
    )


_DRAWN = (
    "max_new_tokens=25,\n    temperature=1.5, top_k=50, "
    "key=stream.seed(123).gumbel((25, 1, 50257))"
)

FIGURES = (
    Figure(
        "gpt2-124m-settings",
        "W",
        "ch05",
        '_, cfg, _ = book.published("124M")\n'
        "cfg.vocab_size, cfg.context_length, cfg.emb_dim, cfg.n_heads, cfg.n_layers",
        [50257, 1024, 768, 12, 12],
        weights="124M",
    ),
    Figure(
        "gpt2-124m-embedding",
        "W",
        "ch05",
        'params, _, _ = book.published("124M")\n'
        'params["token_embedding"]["embedding"][0, np.array([0, 1, 2, -3, -2, -1])]',
        Printed("-0.11010301 -0.03926672 0.03310751 -0.1363697 0.01506208 0.04531523"),
        weights="124M",
    ),
    _loss("124M", "train", "3.75475"),
    _loss("124M", "validation", "3.55962"),
    _continued(
        "gpt2-124m-sampled",
        "124M",
        "ch05",
        _DRAWN,
        "Every effort moves you toward finding an ideal new way to practice something!"
        "\n\nWhat makes us want to be on top of that?",
    ),
    _continued(
        "gpt2-124m-greedy",
        "124M",
        "ch06",
        "max_new_tokens=15, temperature=0",
        "Every effort moves you forward.\n\nThe first step is to understand the "
        "importance of your work",
    ),
    _loss("1558M", "train", "3.30463"),
    _loss("1558M", "validation", "3.11951"),
    _continued(
        "gpt2-1558m-sampled",
        "1558M",
        "ch05 exercise 5.6",
        _DRAWN,
        "Every effort moves you toward finding an ideal life. You don't have to accept "
        "your current one at once, because if you do you'll never",
    ),
)

LEFT_OUT = (
    LeftOut(
        "gpt2-file-sizes",
        "E",
        "ch05 tests: sizes of the files of 124M and 355M",
        "of files that are fetched with the weights, which jaxllm does not do",
    ),
)
