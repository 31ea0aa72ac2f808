"""Chapter 2, first part: the text, and its words."""

from jaxllm.notes.figure import Figure, ids

_VOCABULARY = "vocabulary = words.build_vocabulary(words.split(book.verdict()))\n"
_WITH_SPECIALS = (
    "specials = [words.END_OF_TEXT, words.UNKNOWN]\n"
    "vocabulary = words.build_vocabulary(words.split(book.verdict()), specials)\n"
)
_TEA = '"Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace."'
_TEA_IDS = ids("1131 5 355 1126 628 975 10 1130 55 988 956 984 722 988 1131 7")

FIGURES = (
    Figure("verdict-characters", "E", "ch02/01", "len(book.verdict())", 20479),
    Figure(
        "verdict-sha256",
        "E",
        "ch02/01",
        "hashlib.sha256(book.verdict().encode()).hexdigest()",
        "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
    Figure(
        "verdict-beginning",
        "E",
        "ch02 cell 18; seeds 000, 004",
        "book.verdict()[:99]",
        "I HAD always thought Jack Gisburn rather a cheap genius--though a good fellow "
        "enough--so it was no ",
        "Seed 004 calls these the first 100 characters, and prints `genius-though` and "
        "`enough-so` where the text has two hyphens.",
    ),
    Figure(
        "verdict-end",
        "E",
        "ch05 cell 56",
        "book.verdict()[-99:]",
        "it for me! The Strouds stand alone, and happen once--but there's no "
        'exterminating our kind of art."',
    ),
    Figure(
        "split-at-blanks",
        "E",
        "ch02",
        'words.split("Hello, world. This, is a test.", pattern=r"(\\s)", '
        "keep_space=True)",
        "Hello,_ _world._ _This,_ _is_ _a_ _test.".split("_"),
    ),
    Figure(
        "split-at-marks",
        "E",
        "ch02",
        'words.split("Hello, world. This, is a test.", pattern=r"([,.]|\\s)")',
        "Hello , world . This , is a test .".split(),
        "Python's re.split gives 19 items, blanks and empty strings among them; these "
        "are the 10 that the book keeps.",
    ),
    Figure(
        "split-without-period",
        "E",
        "seed 000",
        'words.split("Hello, world. This, is a text")',
        "Hello , world . This , is a text".split(),
    ),
    Figure(
        "split-dashes",
        "E",
        "seed 000",
        'words.split("Hello, world. This, is-- a text?")',
        "Hello , world . This , is -- a text ?".split(),
    ),
    Figure(
        "split-all-marks",
        "E",
        "ch02",
        'words.split("Hello, world. Is this-- a test?")',
        "Hello , world . Is this -- a test ?".split(),
    ),
    Figure(
        "verdict-words", "E", "ch02; seed 001", "len(words.split(book.verdict()))", 4690
    ),
    Figure(
        "verdict-first-words",
        "E",
        "ch02",
        "words.split(book.verdict())[:30]",
        "I HAD always thought Jack Gisburn rather a cheap genius -- though a good "
        "fellow enough -- so it was no great surprise to me to hear that , in".split(),
    ),
    Figure(
        "verdict-vocabulary",
        "E",
        "ch02",
        "len(words.build_vocabulary(words.split(book.verdict())))",
        1130,
    ),
    Figure(
        "verdict-words-seed-001",
        "E",
        "seed 001, its first tokenizer",
        'tokens = words.split(book.verdict(), pattern=r"""([,.?_!"()\']|--|\\s)""")\n'
        "len(tokens), len(set(tokens))",
        ids("4649 1159"),
        "The seed's pattern lacks `:` and `;`, so that `Carlo;` is a word, and a "
        "vocabulary built with the book's pattern fails on it. Here one pattern serves "
        "vocabulary, encoding and decoding: 4690 and 1130.",
    ),
    Figure(
        "vocabulary-marks",
        "E",
        "ch02 cell 39",
        _VOCABULARY + "list(vocabulary)[:11]",
        "! \" ' ( ) , -- . : ; ?".split(),
    ),
    Figure(
        "vocabulary-ids",
        "E",
        "ch02 cell 39",
        _VOCABULARY
        + 'words.encode("A Ah Burlington Gisburn HAD Her Hermia".split(), vocabulary)',
        ids("11 12 21 38 44 49 50"),
    ),
    Figure(
        "vocabulary-with-specials",
        "E",
        "ch02",
        _WITH_SPECIALS + "len(vocabulary)",
        1132,
    ),
    Figure(
        "vocabulary-last-five",
        "E",
        "ch02",
        _WITH_SPECIALS + "list(vocabulary.items())[-5:]",
        [
            ("younger", 1127),
            ("your", 1128),
            ("yourself", 1129),
            ("<|endoftext|>", 1130),
            ("<|unk|>", 1131),
        ],
        "The notes' prose spells `<| unk |>` and `<| end of text |>`; only the "
        "spelling without blanks is a token.",
    ),
    Figure(
        "tokenizer-v1-encode",
        "E",
        "ch02",
        _VOCABULARY
        + "line = '''\"It's the last he painted, you know,\" Mrs. Gisburn said with "
        "pardonable pride.'''\n"
        "words.encode(words.split(line), vocabulary)",
        ids("1 56 2 850 988 602 533 746 5 1126 596 5 1 67 7 38 851 1108 754 793 7"),
    ),
    Figure(
        "tokenizer-v1-decode",
        "E",
        "ch02",
        "line = '''\"It's the last he painted, you know,\" Mrs. Gisburn said with "
        "pardonable pride.'''\n"
        "words.decode(words.split(line))",
        '" It\' s the last he painted, you know," Mrs. Gisburn said with pardonable '
        "pride.",
        "Decoding does not undo encoding: quotes and apostrophes come out as `\" It' "
        "s`, as in the book. split and decode with keep_space=True give the text back.",
    ),
    Figure(
        "decoded-text-splits-alike",
        "E",
        "ch02",
        "tokens = words.split(book.verdict())\n"
        "words.split(words.decode(tokens)) == tokens",
        True,
        "The notes' decoders leave a blank before `:`, `;` or `_`; here the marks that "
        "are split off are the marks that are joined again.",
    ),
    Figure(
        "tokenizer-v1-unknown",
        "E",
        "ch02",
        _VOCABULARY + "try:\n"
        '    words.encode(words.split("Hello, do you like tea?"), vocabulary)\n'
        "except KeyError as error:\n"
        "    unknown = error.tokens\n"
        "unknown",
        ["Hello"],
    ),
    Figure(
        "tokenizer-v2-encode",
        "E",
        "ch02; seeds 000, 001",
        _WITH_SPECIALS
        + f"line = {_TEA}\n"
        + "words.encode(words.split(line, special_tokens=specials), vocabulary)",
        _TEA_IDS,
        "The seed ends with `places`, another unknown word: the ids are the same.",
    ),
    Figure(
        "tokenizer-v2-decode",
        "E",
        "ch02",
        _WITH_SPECIALS
        + "tokens = list(vocabulary)\n"
        + f"words.decode(tokens[i] for i in {_TEA_IDS})",
        "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the "
        "<|unk|>.",
    ),
    Figure(
        "tokenizer-v1-blank-at-the-end",
        "E",
        "seed 000",
        'words.decode(words.split("This is "))',
        "This is",
    ),
)
