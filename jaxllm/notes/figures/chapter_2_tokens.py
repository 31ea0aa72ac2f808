"""Chapter 2, second half: byte pairs, windows, embeddings."""

from jaxllm.notes.figure import Figure, LeftOut, Printed

_IDS = 'ids = tokenizers.load("gpt2").encode(book.verdict())\n'
_TEA = [15496, 11, 466, 345, 588, 8887, 30, 220, 50256]
_TERRACES = [554, 262, 4252, 18250, 8812, 2114, 1659, 617, 34680, 27271]


def _encode(text: str) -> str:
    return f'tokenizers.load("gpt2").encode({text})'


def _count(max_length: int, stride: int, n_ids: int = 5145) -> str:
    return f"windows.window_count({n_ids}, {max_length}, {stride})"


FIGURES = (
    Figure(
        "gpt2-vocabulary",
        "E",
        "ch02",
        'tokenizers.load("gpt2").vocab_size',
        50257,
    ),
    Figure(
        "gpt2-end-of-text",
        "E",
        "ch02",
        'tokenizers.load("gpt2").end_of_text',
        50256,
    ),
    Figure(
        "verdict-tokens",
        "E",
        "ch02",
        _IDS + "len(ids)",
        5145,
        "The book's own BPE class gives 5149 ids and fails on an emoji: it merges "
        "characters, cuts at blanks only and knows no byte fallback.",
    ),
    Figure(
        "bpe-tea",
        "E",
        "ch02",
        'text = ("Hello, do you like tea? <|endoftext|> In the sunlit terraces"\n'
        '        "of someunknownPlace.")\n'
        'tokenizers.load("gpt2").encode(text, allow_special=True)',
        _TEA + _TERRACES + [13],
        "Seed 001 calls encode without allowed_special, which refuses this text; see "
        "bpe-refuses-special-text.",
    ),
    Figure(
        "bpe-tea-seed-000",
        "E",
        "seed 000",
        'text = (" Hello, do you like tea? <|endoftext|> In the sunlit terraces"\n'
        '        "of someunknownPlace")\n'
        'tokenizers.load("gpt2").encode(text, allow_special=True)',
        [18435, *_TEA[1:], *_TERRACES],
    ),
    Figure(
        "bpe-refuses-special-text",
        "E",
        "ch02/05 tests",
        "try:\n"
        '    tokenizers.load("gpt2").encode("Hello <|endoftext|>")\n'
        "except ValueError:\n"
        "    refused = True\n"
        "refused",
        True,
    ),
    Figure(
        "bpe-unknown-words",
        "E",
        "ch02 exercise 2.1",
        _encode('"Akwirw ier"'),
        [33901, 86, 343, 86, 220, 959],
    ),
    Figure(
        "bpe-hello-world",
        "E",
        "ch02/02",
        _encode('"Hello, world. Is this-- a test?"'),
        [15496, 11, 995, 13, 1148, 428, 438, 257, 1332, 30],
    ),
    Figure(
        "bpe-implementations",
        "E",
        "ch02/05",
        _encode('"Implementations"'),
        [3546, 26908, 602],
    ),
    Figure(
        "bpe-some-text",
        "E",
        "ch02/05",
        _encode('"This is some text"'),
        [1212, 318, 617, 2420],
    ),
    Figure(
        "bpe-some-text-bytes",
        "E",
        "ch02/05",
        'list("This is some text".encode())',
        [*b"This is some text"],
    ),
    Figure(
        "bpe-every-effort",
        "E",
        "ch04",
        _encode('"Every effort moves you"'),
        [6109, 3626, 6100, 345],
    ),
    Figure(
        "bpe-every-day",
        "E",
        "ch04",
        _encode('"Every day holds a"'),
        [6109, 1110, 6622, 257],
    ),
    Figure(
        "bpe-hello-i-am",
        "E",
        "ch04",
        _encode('"Hello, I am"'),
        [15496, 11, 314, 716],
    ),
    Figure(
        "bpe-do-you-have-time",
        "E",
        "ch06",
        _encode('"Do you have time"'),
        [5211, 345, 423, 640],
    ),
    Figure(
        "bpe-boys",
        "E",
        "seed 000",
        'gpt2 = tokenizers.load("gpt2")\n'
        '[gpt2.encode("boys").tolist(), gpt2.encode(" boys").tolist()]',
        [[13202], [6510]],
        "The seed's rule `boys -> boy + s` does not hold in GPT-2's vocabulary: both "
        "are single tokens.",
    ),
    Figure(
        "bpe-new-lines",
        "E",
        "ch02/05 tests",
        'gpt2 = tokenizers.load("gpt2")\n'
        'texts = ["a\\nb", "a\\n\\nb", "\\nHello", "Hello\\n", "a\\r\\nb", '
        '"Hello \\nworld",\n         "Hello\\n world", "  two blanks"]\n'
        "[gpt2.decode(gpt2.encode(text)) == text for text in texts]",
        [True] * 8,
    ),
    Figure(
        "bpe-new-line-id",
        "E",
        "ch02/05 tests",
        _encode('"a\\nb"') + "[1]",
        198,
    ),
    Figure(
        "bpe-text-of-new-tokens",
        "E",
        "ch05/09",
        'text = "Hello, MyNewToken_1 is a new token. <|endoftext|>"\n'
        'tokenizers.load("gpt2").encode(text, allow_special=True)',
        [15496, 11, 2011, 3791, 30642, 62, 16, 318, 257, 649, 11241, 13, 220, 50256],
    ),
    Figure(
        "bpe-new-tokens",
        "E",
        "ch05/09",
        'new = ["MyNewToken_1", "MyNewToken_2"]\n'
        'longer = tokenizers.add_special_tokens(tokenizers.load("gpt2"), new)\n'
        'text = "Sample text with MyNewToken_1 and MyNewToken_2. <|endoftext|>"\n'
        "longer.encode(text, allow_special=True)",
        [36674, 2420, 351, 220, 50257, 290, 220, 50258, 13, 220, 50256],
    ),
    Figure(
        "bpe-new-tokens-vocabulary",
        "E",
        "ch05/09",
        'new = ["MyNewToken_1", "MyNewToken_2"]\n'
        'tokenizers.add_special_tokens(tokenizers.load("gpt2"), new).vocab_size',
        50259,
    ),
    Figure(
        "ids-50-to-55",
        "E",
        "ch02",
        _IDS + "ids[50:55]",
        [290, 4920, 2241, 287, 257],
        "Seed 000 prints these from `enc_sample`, a name that it never sets.",
    ),
    Figure(
        "window-first",
        "E",
        "ch02",
        _IDS + "inputs, targets = windows.sliding_windows(ids, 4, 1)\n"
        "inputs[0], targets[0]",
        [[40, 367, 2885, 1464], [367, 2885, 1464, 1807]],
    ),
    Figure(
        "window-second",
        "E",
        "ch02",
        _IDS + "inputs, targets = windows.sliding_windows(ids, 4, 1)\n"
        "inputs[1], targets[1]",
        [[367, 2885, 1464, 1807], [2885, 1464, 1807, 3619]],
    ),
    Figure(
        "windows-4-4-inputs",
        "E",
        "ch02",
        _IDS + "windows.sliding_windows(ids, 4, 4)[0][:8]",
        [
            [40, 367, 2885, 1464],
            [1807, 3619, 402, 271],
            [10899, 2138, 257, 7026],
            [15632, 438, 2016, 257],
            [922, 5891, 1576, 438],
            [568, 340, 373, 645],
            [1049, 5975, 284, 502],
            [284, 3285, 326, 11],
        ],
    ),
    Figure(
        "windows-4-4-targets",
        "E",
        "ch02",
        _IDS + "windows.sliding_windows(ids, 4, 4)[1][:8]",
        [
            [367, 2885, 1464, 1807],
            [3619, 402, 271, 10899],
            [2138, 257, 7026, 15632],
            [438, 2016, 257, 922],
            [5891, 1576, 438, 568],
            [340, 373, 645, 1049],
            [5975, 284, 502, 284],
            [3285, 326, 11, 287],
        ],
        "With stride = max_length no two inputs overlap, but the last target of a "
        "window is the first input of the next.",
    ),
    Figure(
        "windows-2-2",
        "E",
        "ch02 exercise 2.2",
        _IDS + "windows.sliding_windows(ids, 2, 2)[0][:4]",
        [[40, 367], [2885, 1464], [1807, 3619], [402, 271]],
    ),
    Figure(
        "windows-8-2",
        "E",
        "ch02 exercise 2.2",
        _IDS + "windows.sliding_windows(ids, 8, 2)[0][:4, 0]",
        [40, 2885, 1807, 402],
    ),
    *(
        Figure(f"window-count-{length}-{stride}", "E", "ch02", call, count)
        for length, stride, count in [
            (4, 1, 5141),
            (4, 4, 1286),
            (2, 2, 2572),
            (8, 2, 2569),
            (256, 128, 39),
            (256, 256, 20),
            (6, 128, 41),
        ]
        for call in [_count(length, stride)]
    ),
    Figure(
        "window-lengths-seed-001",
        "E",
        "seed 001",
        _IDS + "[len(ids[i : 1 + 4]) for i in range(7)]",
        [5, 4, 3, 2, 1, 0, 0],
        "The seed cuts its inputs at `1 + max_length`, a one in place of an i: the "
        "first is one too long, and all from the sixth on are empty. sliding_windows "
        "gives 4 ids each.",
    ),
    Figure(
        "window-starts-seed-000",
        "E",
        "seed 000",
        _IDS + "inputs, targets = windows.sliding_windows(ids, 6, 128)\n"
        "starts = [2304, 1280, 2944, 128, 4864, 640, 2048, 3968, 2176, 1536]\n"
        "all((inputs[s // 128] == ids[s : s + 6]).all() for s in starts)",
        True,
        "The seed's targets run to `i + 1 + max_length + 1`: 7 targets for 6 inputs, "
        "on which the loss fails. Its order cannot be matched: it sets no seed.",
    ),
    Figure(
        "window-numbers-last",
        "E",
        "ch02/04",
        "inputs, targets = windows.sliding_windows(np.arange(1001), 4, 1)\n"
        "inputs[-1], targets[-1]",
        [[996, 997, 998, 999], [997, 998, 999, 1000]],
    ),
    Figure(
        "window-numbers-last-batch",
        "E",
        "ch02/04",
        "windows.sliding_windows(np.arange(1001), 4, 4)[0][-2:]",
        [[992, 993, 994, 995], [996, 997, 998, 999]],
    ),
    Figure(
        "embedding-6-3",
        "R",
        "ch02; seed 000",
        "stream.seed(123).embedding(6, 3)",
        Printed(
            "[ 0.3374 -0.1778 -0.1690]\n[ 0.9178  1.5810  1.3010]\n"
            "[ 1.2753 -0.2010 -0.1606]\n[-0.4015  0.9666 -1.1481]\n"
            "[-1.1589  0.3255 -0.6315]\n[-2.8400 -0.7849 -1.4096]"
        ),
    ),
    Figure(
        "embedding-lookup",
        "R",
        "ch02",
        "stream.seed(123).embedding(6, 3)[np.array([2, 3, 5, 1])]",
        Printed(
            "[ 1.2753 -0.2010 -0.1606]\n[-0.4015  0.9666 -1.1481]\n"
            "[-2.8400 -0.7849 -1.4096]\n[ 0.9178  1.5810  1.3010]"
        ),
    ),
    Figure(
        "embedding-4-5",
        "R",
        "ch02/03",
        "stream.seed(123).embedding(4, 5)",
        Printed(
            "[ 0.3374 -0.1778 -0.3035 -0.5880  1.5810]\n"
            "[ 1.3010  1.2753 -0.2010 -0.1606 -0.4015]\n"
            "[ 0.6957 -1.8061 -1.1589  0.3255 -0.6315]\n"
            "[-2.8400 -0.7849 -1.4096 -0.4076  0.7953]"
        ),
    ),
    Figure(
        "embedding-is-a-matrix-product",
        "E",
        "ch02/03",
        "table = stream.seed(123).embedding(4, 5)\n"
        "ids = np.array([2, 3, 1])\n"
        "np.array_equal(np.eye(4)[ids] @ table, table[ids])",
        True,
    ),
    Figure(
        "linear-4-5",
        "R",
        "ch02/03",
        "stream.seed(123).linear(4, 5, bias=False)[0][0]",
        Printed("-0.2039  0.0166 -0.2483  0.1886"),
    ),
    Figure(
        "embedding-shapes",
        "E",
        "ch02",
        _IDS + "source = stream.seed(123)\n"
        "inputs = windows.sliding_windows(ids, 4)[0][:8]\n"
        "tokens = source.embedding(50257, 256)[inputs]\n"
        "positions = source.embedding(4, 256)\n"
        "tokens.shape, positions.shape, (tokens + positions).shape",
        [[8, 4, 256], [4, 256], [8, 4, 256]],
    ),
)

LEFT_OUT = (
    LeftOut(
        "book-trainer",
        "E",
        "ch02/05: 742 merges of the verdict, and ids 74, 361, 310, ...",
        "the book's trainer merges characters, across words, and breaks ties by place; "
        "ours merges bytes within words, as GPT-2's did (see verdict-tokens)",
    ),
    LeftOut(
        "word2vec-google-news-300",
        "E",
        "seed 000: laptop, queen 0.4827, similarities",
        "needs a file of 1.6 GB",
    ),
)
