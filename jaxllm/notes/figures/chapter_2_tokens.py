"""Chapter 2, second part: byte-pair encoding."""

from jaxllm.notes.figure import Figure, LeftOut, ids

_IDS = 'ids = tokenizers.load("gpt2").encode(book.verdict())\n'
_TEA = ids("15496 11 466 345 588 8887 30 220 50256")
_TERRACES = ids("554 262 4252 18250 8812 2114 1659 617 34680 27271")


def _encode(text: str) -> str:
    return f'tokenizers.load("gpt2").encode({text})'


FIGURES = (
    Figure(
        "gpt2-merges-bytes",
        "E",
        "ch02/02, vocab.bpe",
        "len(gpt2_merges.find_merges().encode())",
        456318,
    ),
    Figure(
        "gpt2-merges-sha256",
        "E",
        "ch02/02, vocab.bpe",
        "hashlib.sha256(gpt2_merges.find_merges().encode()).hexdigest()",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
    Figure("gpt2-vocabulary", "E", "ch02", 'tokenizers.load("gpt2").vocab_size', 50257),
    Figure(
        "gpt2-end-of-text", "E", "ch02", 'tokenizers.load("gpt2").end_of_text', 50256
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
        ids("33901 86 343 86 220 959"),
    ),
    Figure(
        "bpe-hello-world",
        "E",
        "ch02/02",
        _encode('"Hello, world. Is this-- a test?"'),
        ids("15496 11 995 13 1148 428 438 257 1332 30"),
    ),
    Figure(
        "bpe-implementations",
        "E",
        "ch02/05",
        _encode('"Implementations"'),
        ids("3546 26908 602"),
    ),
    Figure(
        "bpe-some-text",
        "E",
        "ch02/05",
        _encode('"This is some text"'),
        ids("1212 318 617 2420"),
    ),
    Figure(
        "bpe-some-text-bytes",
        "E",
        "ch02/05",
        'list("This is some text".encode())',
        ids("84 104 105 115 32 105 115 32 115 111 109 101 32 116 101 120 116"),
    ),
    Figure(
        "bpe-every-effort",
        "E",
        "ch04",
        _encode('"Every effort moves you"'),
        ids("6109 3626 6100 345"),
    ),
    Figure(
        "bpe-every-day",
        "E",
        "ch04",
        _encode('"Every day holds a"'),
        ids("6109 1110 6622 257"),
    ),
    Figure(
        "bpe-hello-i-am", "E", "ch04", _encode('"Hello, I am"'), ids("15496 11 314 716")
    ),
    Figure(
        "bpe-do-you-have-time",
        "E",
        "ch06",
        _encode('"Do you have time"'),
        ids("5211 345 423 640"),
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
    Figure("bpe-new-line-id", "E", "ch02/05 tests", _encode('"a\\nb"') + "[1]", 198),
    Figure(
        "bpe-text-of-new-tokens",
        "E",
        "ch05/09",
        'text = "Hello, MyNewToken_1 is a new token. <|endoftext|>"\n'
        'tokenizers.load("gpt2").encode(text, allow_special=True)',
        ids("15496 11 2011 3791 30642 62 16 318 257 649 11241 13 220 50256"),
    ),
    Figure(
        "bpe-new-tokens",
        "E",
        "ch05/09",
        'new = ["MyNewToken_1", "MyNewToken_2"]\n'
        'longer = tokenizers.add_special_tokens(tokenizers.load("gpt2"), new)\n'
        'text = "Sample text with MyNewToken_1 and MyNewToken_2. <|endoftext|>"\n'
        "longer.encode(text, allow_special=True)",
        ids("36674 2420 351 220 50257 290 220 50258 13 220 50256"),
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
        ids("290 4920 2241 287 257"),
        "Seed 000 prints these from `enc_sample`, a name that it never sets.",
    ),
)

LEFT_OUT = (
    LeftOut(
        "gpt2-encoder-json",
        "E",
        "ch02/02: encoder.json, 1,042,301 bytes",
        "not needed: the merges alone decide every id",
    ),
    LeftOut(
        "book-trainer",
        "E",
        "ch02/05: 742 merges of the verdict, and ids 74, 361, 310, ...",
        "the book's trainer merges characters, across words, and breaks ties by place; "
        "ours merges bytes within words, as GPT-2's did (see verdict-tokens)",
    ),
)
