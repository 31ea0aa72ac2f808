"""Chapter 4: the model."""

from jaxllm.notes.figure import Figure, LeftOut, Printed, ids

_SIZES = {
    "small": ("124M", 163_009_536, 124_412_160, "621.83"),
    "medium": ("355M", 406_212_608, 354_749_440, "1549.58"),
    "large": ("774M", 838_220_800, 773_891_840, "3197.56"),
    "xl": ("1558M", 1_637_792_000, 1_557_380_800, "6247.68"),
}
_BIASED = {
    "small": (163_037_184, 124_439_808),
    "medium": (406_286_336, 354_823_168),
    "large": (838_359_040, 774_030_080),
    "xl": (1_638_022_400, 1_557_611_200),
}
_LAYER_NORM = (
    "source = stream.seed(123)\n"
    "x = source.normal((2, 5))\n"
    "weight, bias = source.linear(5, 6)\n"
    "outputs = jax.nn.relu(x @ weight.T + bias)\n"
)
_TRAINED_MODE = (
    "params, source = book.untrained(book.GPT_124M)\n"
    "keep = draws.dropout_masks(source, book.GPT_124M, 2, 4)\n"
    "apply = jax.jit(gpt.apply, static_argnums=2)\n"
    "logits = apply(params, book.TWO_TEXTS, book.GPT_124M, key=keep)\n"
)
_GREEDY = (
    "params, _ = book.untrained(book.GPT_124M)\n"
    'gpt2 = tokenizers.load("gpt2")\n'
    'prompt = gpt2.encode("Hello, I am")\n'
    "tokens = generate.generate(\n"
    "    params, prompt, book.GPT_124M, max_new_tokens=10, temperature=0)\n"
)


def _count(size: str, changes: str) -> str:
    return f'gpt.count_params(gpt2_config("{size}", {changes}))'


def _counts(name: str) -> tuple[Figure, ...]:
    size, untied, tied, megabytes = _SIZES[name]
    untied_biased, tied_biased = _BIASED[name]
    both = "qkv_bias=False, tied_head=False"
    return (
        Figure(f"parameters-{name}", "E", "ch04", _count(size, both), untied),
        Figure(
            f"parameters-{name}-tied", "E", "ch04", _count(size, "qkv_bias=False"), tied
        ),
        Figure(
            f"megabytes-{name}",
            "E",
            "ch04",
            _count(size, both) + " * 4 / 2**20",
            Printed(megabytes),
        ),
        Figure(
            f"parameters-{name}-biased",
            "E",
            "ch05",
            _count(size, "tied_head=False"),
            untied_biased,
        ),
        Figure(
            f"parameters-{name}-biased-tied",
            "E",
            "ch05",
            _count(size, "tied_head=True"),
            tied_biased,
            "The notes speak of 117M and 125M parameters; GPT-2's smallest has "
            "124,439,808."
            if name == "small"
            else "",
        ),
    )


def _flops(name: str, printed: str) -> Figure:
    size = _SIZES[name][0]
    return Figure(
        f"flops-{name}",
        "E",
        "ch04/02; forward pass of 2 texts of 1024 tokens",
        f'accounting.forward_flops(gpt2_config("{size}"))["linear"] * 2 * 1024',
        Printed(printed),
        "The notebook leaves out the products of attention; forward_flops counts them "
        "apart."
        if name == "small"
        else "",
    )


FIGURES = (
    *_counts("small"),
    *_counts("medium"),
    *_counts("large"),
    *_counts("xl"),
    Figure(
        "parameters-feed-forward",
        "E",
        "ch04 exercise 4.1",
        'accounting.count_by_part(gpt2_config("124M"))["feed-forward"] // 12',
        4_722_432,
    ),
    Figure(
        "parameters-attention",
        "E",
        "ch04 exercise 4.1",
        'cfg = gpt2_config("124M", qkv_bias=False)\n'
        'accounting.count_by_part(cfg)["attention"] // 12',
        2_360_064,
    ),
    Figure(
        "parameters-context-256",
        "E",
        "ch05",
        "gpt.count_params(book.GPT_256)",
        162_419_712,
    ),
    Figure(
        "parameters-context-256-tied",
        "E",
        "ch05",
        'gpt.count_params(gpt2_config("124M", context_length=256, qkv_bias=False))',
        123_822_336,
    ),
    Figure(
        "parameters-gpt3",
        "E",
        "ch04",
        'gpt.count_params(gpt3_config("175B"))',
        174_604_259_328,
    ),
    _flops("small", "5.1e+11"),
    _flops("medium", "1.4e+12"),
    _flops("large", "3.2e+12"),
    _flops("xl", "6.4e+12"),
    Figure(
        "cache-gigabytes",
        "E",
        "ch04/04; 32 layers, 4096 wide, 32,768 tokens in bfloat16",
        "cfg = GPTConfig(emb_dim=4096, n_heads=32, n_layers=32,\n"
        '                context_length=32768, dtype="bfloat16")\n'
        "accounting.cache_bytes(cfg) / 1e9",
        Printed("17.18"),
    ),
    Figure(
        "layer-norm-outputs",
        "R",
        "ch04",
        _LAYER_NORM + "outputs",
        Printed(
            "[0.2260 0.3470 0.0000 0.2216 0.0000 0.0000]\n"
            "[0.2133 0.2394 0.0000 0.5198 0.3297 0.0000]"
        ),
    ),
    Figure(
        "layer-norm-means",
        "R",
        "ch04",
        _LAYER_NORM + "outputs.mean(axis=-1)",
        Printed("0.1324 0.2170"),
    ),
    Figure(
        "layer-norm-variances",
        "R",
        "ch04",
        _LAYER_NORM + "outputs.var(axis=-1, ddof=1)",
        Printed("0.0231 0.0398"),
        "The book first divides by n - 1; its LayerNorm class, GPT-2 and jaxllm divide "
        "by n.",
    ),
    Figure(
        "layer-norm-normalised",
        "R",
        "ch04",
        _LAYER_NORM
        + "mean = outputs.mean(axis=-1, keepdims=True)\n"
        + "(outputs - mean) / outputs.std(axis=-1, ddof=1, keepdims=True)",
        Printed(
            "[ 0.6159 1.4126 -0.8719 0.5872 -0.8719 -0.8719]\n"
            "[-0.0189 0.1121 -1.0876 1.5173  0.5647 -1.0876]"
        ),
    ),
    Figure(
        "layer-norm-class-variances",
        "R",
        "ch04",
        _LAYER_NORM
        + "blocks.layer_norm(outputs, np.ones(6), np.zeros(6)).var(axis=-1)",
        Printed("0.9995 0.9997"),
    ),
    Figure(
        "gradients-without-shortcuts",
        "R",
        "ch04",
        "book.deep_gradients(shortcuts=False)",
        Printed("0.000201736 0.000120112 0.000715204 0.001398874 0.005049646"),
    ),
    Figure(
        "gradients-with-shortcuts",
        "R",
        "ch04",
        "book.deep_gradients(shortcuts=True)",
        Printed("0.221698 0.206941 0.328970 0.266573 1.325854"),
    ),
    Figure(
        "dummy-model-logits",
        "R",
        "ch04 cell 16",
        "book.dummy_logits()[0, 0, np.array([0, 1, 2, -3, -2, -1])]",
        Printed("-1.2034 0.3201 -0.7130 ... -1.5548 -0.2390 -0.4667"),
    ),
    Figure("logits-shape", "E", "ch04", _TRAINED_MODE + "logits.shape", [2, 4, 50257]),
    Figure(
        "logits-first",
        "R",
        "ch04",
        _TRAINED_MODE + "logits[0, 0, np.array([0, 1, 2, -3, -2, -1])]",
        Printed("0.3613 0.4222 -0.0711 ... 0.3483 0.4661 -0.2838"),
        "The book leaves dropout on here.",
    ),
    Figure(
        "logits-last",
        "R",
        "ch04",
        _TRAINED_MODE + "logits[1, 3, np.array([0, 1, 2, -3, -2, -1])]",
        Printed("-0.1565 0.3926 0.3288 ... 1.2630 -0.1858 0.0388"),
    ),
    Figure(
        "greedy-ids",
        "R",
        "ch04 tests",
        _GREEDY + "tokens[4:]",
        ids("27018 24086 47843 30961 42348 7267 49706 43231 47062 34657"),
        "With a cache of keys and values or without one, these are the tokens.",
    ),
    Figure(
        "greedy-text",
        "R",
        "ch04",
        _GREEDY + "gpt2.decode(tokens)",
        "Hello, I am Featureiman Byeswickattribute argue logger Normandy Compton "
        "analogous",
    ),
)

LEFT_OUT = (
    LeftOut(
        "other-caches",
        "E",
        "ch04/04-07: 4.29, 3.14, 0.78, 3.25, 0.81 GB; 308,338,688 parameters",
        "of grouped-query, sliding-window and latent attention and of experts, which "
        "GPT-2 and GPT-3 do without",
    ),
    LeftOut(
        "cache-speeds",
        "H",
        "ch04/03: 27, 144 and 166 tokens/s on an M4",
        "a timing of other programs on other machines",
    ),
)
