"""Chapter 2, third part: windows over the ids, and embeddings of them."""

from jaxllm.notes.figure import Figure, LeftOut, Printed, ids

_IDS = 'ids = tokenizers.load("gpt2").encode(book.verdict())\n'


def _count(max_length: int, stride: int, n_ids: int = 5145) -> str:
    return f"windows.window_count({n_ids}, {max_length}, {stride})"


FIGURES = (
    Figure(
        "text-50-to-55",
        "E",
        "ch02",
        _IDS + '[tokenizers.load("gpt2").decode([i]) for i in ids[50:55]]',
        [" and", " established", " himself", " in", " a"],
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
        ids("40 2885 1807 402"),
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
        ids("5 4 3 2 1 0 0"),
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
        "word2vec-google-news-300",
        "E",
        "seed 000: laptop, queen 0.4827, similarities",
        "needs a file of 1.6 GB",
    ),
)
