"""Chapter 7: an assistant that follows instructions."""

from jaxllm.notes.figure import Figure, LeftOut, Printed

_NO_INSTRUCTIONS = "needs instruction records, which jaxllm does not read"
_NO_ASSISTANT = "needs finetuning on instructions, which jaxllm does not have"
_LOGITS = (
    "logits = np.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])\n"
    "targets = np.array([0, 1, 1])\n"
)

FIGURES = (
    Figure(
        "cross-entropy-of-two",
        "E",
        "ch07",
        _LOGITS + "losses.cross_entropy(logits[:2], targets[:2])[0]",
        Printed("1.1269"),
    ),
    Figure(
        "cross-entropy-of-three",
        "E",
        "ch07",
        _LOGITS + "losses.cross_entropy(logits, targets)[0]",
        Printed("0.7936"),
    ),
    Figure(
        "cross-entropy-with-one-ignored",
        "E",
        "ch07",
        _LOGITS + "counts = np.array([True, True, False])\n"
        "losses.cross_entropy(logits, targets, counts)[0]",
        Printed("1.1269"),
        "The book marks ignored targets with -100; jaxllm has a mask, which no token "
        "id can be mistaken for, and a loss of 0, not NaN, where nothing counts.",
    ),
)

LEFT_OUT = (
    LeftOut(
        "instruction-records",
        "E",
        "ch07: 203,524 bytes, 1100 records, split 935/55/110",
        _NO_INSTRUCTIONS,
    ),
    LeftOut(
        "instruction-collate",
        "E",
        "ch07: the padded batch of [0..4], [5, 6], [7, 8, 9], and its targets",
        _NO_INSTRUCTIONS,
    ),
    LeftOut(
        "instruction-batches",
        "R",
        "ch07: 116 batches of widths 61, 76, 73, ...; longest text 91 tokens",
        _NO_INSTRUCTIONS,
    ),
    LeftOut(
        "instruction-mask",
        "E",
        "ch07 exercise 7.2: 46 masked targets, then 198 198 21017 ...",
        _NO_INSTRUCTIONS,
    ),
    LeftOut(
        "instruction-prompts",
        "E",
        "ch07 exercise 7.1: the Phi-3 template",
        _NO_INSTRUCTIONS,
    ),
    LeftOut(
        "instruction-finetuning",
        "W",
        "ch07: losses 3.8259/3.7619 before, 2.637/2.626 ... 0.300/0.659",
        _NO_ASSISTANT,
    ),
    LeftOut(
        "instruction-answers",
        "W",
        "ch07: three answers, the judges' scores, the exercises",
        _NO_ASSISTANT,
    ),
    LeftOut(
        "preference-loss",
        "E",
        "ch07/04: 0.693147 before training",
        "needs preference tuning, which jaxllm does not have",
    ),
    LeftOut(
        "preference-tuning",
        "W",
        "ch07/04: 0.606/0.610, margins 2.008/1.975",
        "needs preference tuning, which jaxllm does not have",
    ),
    LeftOut(
        "parameters-of-other-families",
        "E",
        "ch05/07 on: Llama, Qwen, Gemma",
        "models of another architecture",
    ),
)
