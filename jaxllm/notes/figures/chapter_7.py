"""Chapter 7: an assistant that follows instructions."""

from jaxllm.notes.figure import Figure, LeftOut, Printed, ids

_FROM_WEIGHTS = "needs GPT-2's weights; configs/assistant_gpt2.yaml is the run for it"
_LOGITS = (
    "logits = np.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])\n"
    "targets = np.array([0, 1, 1])\n"
)
_SPLIT = (
    "data = book.instruction_records()\n"
    "train, test, validation = records.split(data, (0.85, 0.1, 0.05))\n"
)
_ENCODED = (
    _SPLIT + 'gpt2 = tokenizers.load("gpt2")\n'
    "examples = [\n"
    "    instructions.encode_record(record, templates.ALPACA, gpt2)\n"
    "    for record in train]\n"
)
_BATCHES = (
    "order = stream.seed(123).loader_order(len(train))\n"
    "rows = records.batch_rows(order, 8, drop_last=True)\n"
)
_THREE = (
    "texts = [0, 1, 2, 3, 4, 50256], [5, 6, 50256], [7, 8, 9, 50256]\n"
    "examples = [instructions.Example(np.array(text), np.ones(len(text), bool))\n"
    "    for text in texts]\n"
    "batch = instructions.collate(examples, 50256)\n"
)

FIGURES = (
    Figure(
        "instruction-bytes",
        "E",
        "ch07",
        'book.example_file("instruction-data.json").stat().st_size',
        203_524,
    ),
    Figure(
        "instruction-records",
        "E",
        "ch07",
        "len(book.instruction_records())",
        1100,
    ),
    Figure(
        "instruction-record-50",
        "E",
        "ch07",
        "record = book.instruction_records()[50]\n"
        'record["instruction"], record["input"]',
        ["Identify the correct spelling of the following word.", "Ocassion"],
    ),
    Figure(
        "instruction-record-999",
        "E",
        "ch07",
        'book.instruction_records()[999]["instruction"]',
        "What is an antonym of 'complicated'?",
    ),
    Figure(
        "instruction-split",
        "E",
        "ch07; training, test, validation, in the order of the file",
        _SPLIT + "len(train), len(test), len(validation)",
        [935, 110, 55],
    ),
    Figure(
        "instruction-longest",
        "E",
        "ch07; tokens of the longest example to train on",
        _ENCODED + "max(len(example.ids) - 1 for example in examples)",
        91,
    ),
    Figure(
        "collated-inputs",
        "E",
        "ch07",
        _THREE + "batch.inputs",
        [
            [0, 1, 2, 3, 4],
            [5, 6, 50256, 50256, 50256],
            [7, 8, 9, 50256, 50256],
        ],
    ),
    Figure(
        "collated-targets-unmasked",
        "E",
        "ch07; the second draft",
        _THREE + "batch.targets",
        [
            [1, 2, 3, 4, 50256],
            [6, 50256, 50256, 50256, 50256],
            [8, 9, 50256, 50256, 50256],
        ],
    ),
    Figure(
        "collated-targets",
        "E",
        "ch07",
        _THREE + "np.where(batch.mask, batch.targets, -100)",
        [
            [1, 2, 3, 4, 50256],
            [6, 50256, -100, -100, -100],
            [8, 9, 50256, -100, -100],
        ],
        "The book finds padding by its id, and so would mask a real end of text within "
        "an example; jaxllm knows padding by the lengths.",
    ),
    Figure(
        "instruction-batches",
        "R",
        "ch07; batches of 8",
        _SPLIT + _BATCHES + "len(rows)",
        116,
    ),
    Figure(
        "instruction-widths",
        "R",
        "ch07; the first ten batches",
        _ENCODED + _BATCHES + "first_ten = [\n"
        "    instructions.collate([examples[i] for i in batch], 50256)\n"
        "    for batch in rows[:10]]\n"
        "[batch.inputs.shape[1] for batch in first_ten]",
        [61, 76, 73, 68, 65, 72, 80, 67, 62, 75],
    ),
    Figure(
        "instruction-last-batch",
        "R",
        "ch07; its first text",
        _SPLIT + _BATCHES + "record = train[rows[-1][0]]\n"
        'record["instruction"], record["input"]',
        ["Rewrite the sentence using a simile.", "The baby is very cute."],
    ),
    Figure(
        "instruction-mask",
        "E",
        "ch07 exercise 7.2; targets of the second of three texts, 64 wide",
        "template = book.heading_in_response(templates.ALPACA)\n"
        'gpt2 = tokenizers.load("gpt2")\n'
        "examples = [instructions.encode_record(record, template, gpt2)\n"
        "    for record in book.THREE_INSTRUCTIONS]\n"
        "batch = instructions.collate(examples, 50256, response_only=True)\n"
        "np.where(batch.mask, batch.targets, -100)[1]",
        [-100] * 46
        + ids("198 198 21017 18261 25 198 34 12204 375 576 11 42651 11 1168 37052")
        + [50256, -100, -100],
        "The book's mask ends before the heading of the response, which the model then "
        "learns to write; jaxllm's prompts end behind it.",
    ),
    Figure(
        "phi-3-prompt",
        "E",
        "ch07 exercise 7.1; without the heading of the response",
        "template = book.heading_in_response(templates.PHI_3)\n"
        "layouts.write_prompt(book.instruction_records()[50], template)",
        "<|user|>\nIdentify the correct spelling of the following word.\nOcassion",
    ),
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
    Figure(
        "preference-loss",
        "E",
        "ch07/04; before training, when the model is its own reference",
        "same = preference.PairScores(np.array([-20.0]), np.array([-25.0]))\n"
        "preference.preference_loss(same, same)[0]",
        Printed("0.693147"),
    ),
)

LEFT_OUT = (
    LeftOut(
        "instruction-finetuning",
        "W",
        "ch07: losses 3.8259/3.7619 before, 2.637/2.626 ... 0.300/0.659",
        _FROM_WEIGHTS,
    ),
    LeftOut(
        "instruction-answers",
        "W",
        "ch07: three answers, the judges' scores, the exercises",
        _FROM_WEIGHTS,
    ),
    LeftOut(
        "preference-tuning",
        "W",
        "ch07/04: 0.606/0.610, margins 2.008/1.975",
        "needs GPT-2's weights; configs/preference.yaml is such a run",
    ),
    LeftOut(
        "parameters-of-other-families",
        "E",
        "ch05/07 on: Llama, Qwen, Gemma",
        "models of another architecture",
    ),
)
