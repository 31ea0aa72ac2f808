"""Chapter 5, second part: the log of ten epochs."""

from jaxllm.notes.figure import Figure, LeftOut, Printed

_PROMPT = (
    'gpt2 = tokenizers.load("gpt2")\nprompt = gpt2.encode("Every effort moves you")\n'
)

# Step, training loss, validation loss; printed on a CPU, in the book and by every
# version of its notebook up to PyTorch 2.6.
_LOG = """
 0 9.781 9.933
 5 8.111 8.339
10 6.661 7.048
15 5.961 6.616
20 5.726 6.600
25 5.201 6.348
30 4.417 6.278
35 4.069 6.226
40 3.732 6.160
45 2.850 6.179
50 2.427 6.141
55 2.104 6.134
60 1.882 6.233
65 1.320 6.238
70 0.985 6.242
75 0.717 6.293
80 0.541 6.393
85 0.391 6.452
""".strip().splitlines()

_REMARKS = {
    "0": "The notebook now shows a log made on Apple's GPU, whose dropout cannot be "
    "repeated; this is the CPU's.",
    "5": "The book decays every parameter, biases and norms too, as decay='all' does; "
    "jaxllm's default spares them.",
}

# Behind each epoch, line ends shown as blanks.
_SAMPLES = (
    ",,,,,,,,,,,,." + 37 * " ",
    22 * ", and" + ",, and, and,",
    ", and I had been." + 44 * " ",
    ' know the                          "I he had the donkey and I had the and I had '
    "the donkey and down the room, I had",
    " know it was not that the picture--I had the fact by the last I had been--his, "
    'and in the            "Oh, and he said, and down the room, and in',
    ' know," was one of the picture. The--I had a little of a little: "Yes, and in '
    "fact, and in the picture was, and I had been at my elbow and as his pictures, and "
    "down the room, I had",
    ' know," was one of the picture for nothing--I told Mrs.  "I was no--as! The '
    "women had been, in the moment--as Jack himself, as once one had been the donkey, "
    "and were, and in his",
    ' know," was one of the axioms he had been the tips of a self-confident moustache, '
    "I felt to see a smile behind his close grayish beard--as if he had the donkey. "
    '"strongest," as his',
    '?"  "Yes--quite insensible to the irony. She wanted him vindicated--and by '
    'me!"  He laughed again, and threw back the window-curtains, I had the donkey. '
    '"There were days when I',
    ' know," was one of the axioms he laid down across the Sevres and silver of an '
    "exquisitely appointed luncheon-table, when, on a later day, I had again run over "
    "from Monte Carlo; and Mrs. Gis",
)

FIGURES = (
    *(
        Figure(
            f"losses-step-{step}",
            "R",
            "ch05; book, printed for CPU",
            f"pretraining.losses({step})",
            Printed(f"{train} {validation}"),
            _REMARKS.get(step, ""),
            long=int(step) > 0,
        )
        for step, train, validation in map(str.split, _LOG)
    ),
    *(
        Figure(
            f"sample-epoch-{epoch}",
            "R",
            "ch05; book, printed for CPU",
            f"pretraining.sample({epoch})",
            "Every effort moves you" + text,
            long=True,
        )
        for epoch, text in enumerate(_SAMPLES, 1)
    ),
    Figure(
        "pretrained-greedy",
        "R",
        "ch05",
        _PROMPT + "gpt2.decode(generate.generate(\n"
        "    pretraining.pretrained(), prompt, book.GPT_256,\n"
        "    max_new_tokens=25, temperature=0))",
        'Every effort moves you know," was one of the axioms he laid down across the '
        "Sevres and silver of an exquisitely appointed lun",
        long=True,
    ),
    Figure(
        "pretrained-sampled",
        "R",
        "ch05",
        _PROMPT + "noise = stream.seed(123).gumbel((15, 1, 50257))\n"
        "gpt2.decode(generate.generate(\n"
        "    pretraining.pretrained(), prompt, book.GPT_256,\n"
        "    max_new_tokens=15, temperature=1.4, top_k=25, key=noise))",
        "Every effort moves you stand to work on surprise, a one of us had gone with "
        "random-",
        long=True,
    ),
)

LEFT_OUT = (
    LeftOut(
        "log-on-apple-gpu",
        "R",
        "ch05, the notebook of today: 9.817/9.924 ... 0.569/6.373",
        "dropout on Apple's GPU cannot be repeated, not even by PyTorch",
    ),
    LeftOut(
        "log-of-appendix-d",
        "R",
        "appendix D: 10.969/10.938 ... 1.312/6.158",
        "printed on Apple's GPU, whose dropout cannot be repeated",
    ),
)
