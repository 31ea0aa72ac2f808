"""Instructions: the book's tensors and batches, and the lengths as a law."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data import instructions, records, tokenizers
from jaxllm.data.instructions import ALPACA, PHI_3, Example, Template
from jaxllm.data.text_tokenizers import CharTokenizer
from jaxllm.errors import ConfigError, DataError, TokenizerError
from jaxllm.notes import book, stream

END = 50256


@pytest.fixture(scope="module")
def data(real_file):
    """The book's 1,100 instruction records."""
    return records.read_records(real_file("instruction-data.json"))


@pytest.fixture(scope="module")
def gpt2():
    return tokenizers.load("gpt2")


def ignored(batch):
    """Targets in the book's form, where -100 does not count."""
    return np.where(batch.mask, batch.targets, -100).tolist()


def test_the_books_records_and_their_split(data):
    assert len(data) == 1100
    assert data[50]["instruction"].startswith("Identify the correct spelling")
    assert data[50]["input"] == "Ocassion"
    assert data[999]["instruction"] == "What is an antonym of 'complicated'?"
    parts = records.split(data, (0.85, 0.1, 0.05))
    assert [len(part) for part in parts] == [935, 110, 55]


def test_the_books_batch_of_three():
    rows = [Example(np.array(ids), 0) for ids in ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])]
    batch, truncated = instructions.collate(rows, END)
    assert truncated == 0
    assert batch.inputs.tolist() == [
        [0, 1, 2, 3, 4],
        [5, 6, END, END, END],
        [7, 8, 9, END, END],
    ]
    assert batch.targets.tolist() == [
        [1, 2, 3, 4, END],
        [6, END, END, END, END],
        [8, 9, END, END, END],
    ]
    assert ignored(batch) == [
        [1, 2, 3, 4, END],
        [6, END, -100, -100, -100],
        [8, 9, END, -100, -100],
    ]


def test_the_books_batches_in_its_order(data, gpt2):
    train, _, _ = records.split(data, (0.85, 0.1, 0.05))
    examples = [instructions.encode_record(row, ALPACA, gpt2) for row in train]
    assert max(len(example.ids) for example in examples) == 91
    order = stream.seed(123).loader_order(len(train))
    batches = records.batch_rows(order, 8, drop_last=True)
    assert len(batches) == 116
    widths = [
        instructions.collate([examples[i] for i in rows], END)[0].inputs.shape[1]
        for rows in batches
    ]
    assert widths[:10] == [61, 76, 73, 68, 65, 72, 80, 67, 62, 75]
    first_of_last = train[batches[-1][0]]
    assert first_of_last["instruction"] == "Rewrite the sentence using a simile."
    assert first_of_last["input"] == "The baby is very cute."


def test_the_books_mask_of_instructions(gpt2):
    template = book.heading_in_response(ALPACA)
    examples = [
        instructions.encode_record(row, template, gpt2)
        for row in book.THREE_INSTRUCTIONS
    ]
    batch, _ = instructions.collate(examples, END, response_only=True)
    assert batch.inputs.shape == (3, 64)
    answer = "198 198 21017 18261 25 198 34 12204 375 576 11 42651 11 1168 37052 50256"
    assert ignored(batch)[1] == [-100] * 46 + [*map(int, answer.split())] + [-100] * 2


def test_prompt_and_response_have_the_ids_of_the_whole_text(data, gpt2):
    for row in data:
        example = instructions.encode_record(row, ALPACA, gpt2)
        prompt = instructions.write_prompt(row, ALPACA)
        text = prompt + instructions.write_response(row, ALPACA)
        np.testing.assert_array_equal(example.ids, gpt2.encode(text))
        assert example.prompt_length == len(gpt2.encode(prompt))


def test_a_template_leaves_out_an_input_that_is_empty():
    row = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
    prompt = instructions.write_prompt(row, ALPACA)
    assert prompt.endswith(
        "### Instruction:\nAdd.\n\n### Input:\n1 + 1\n\n### Response:\n"
    )
    for empty in ("", None):
        prompt = instructions.write_prompt(row | {"input": empty}, ALPACA)
        assert prompt.endswith("### Instruction:\nAdd.\n\n### Response:\n")


# Laws.

IDS = st.lists(st.integers(0, 9), max_size=9)
EXAMPLES = st.lists(
    IDS.flatmap(
        lambda ids: st.integers(0, len(ids)).map(
            lambda length: Example(np.array(ids, np.int32), length)
        )
    ),
    min_size=1,
    max_size=5,
)
OPTIONS = st.fixed_dictionaries(
    {"max_length": st.none() | st.integers(1, 12), "response_only": st.booleans()}
)


@given(examples=EXAMPLES, options=OPTIONS)
def test_a_collated_row_is_the_row_alone_and_the_rest_does_not_count(examples, options):
    batch, truncated = instructions.collate(examples, 0, **options)
    width = batch.inputs.shape[1]
    total = 0
    for row, example in enumerate(examples):
        alone, cut = instructions.collate([example], 0, **options)
        total += cut
        n = alone.inputs.shape[1]
        for together, single in zip(batch, alone, strict=True):
            np.testing.assert_array_equal(together[row, :n], single[0])
        assert not batch.mask[row, n:].any()
        assert (batch.inputs[row, n:] == 0).all()
    assert truncated == total
    assert width == max(min(len(e.ids), options["max_length"] or 12) for e in examples)


@given(examples=EXAMPLES, max_length=st.none() | st.integers(1, 12))
def test_the_mask_is_the_lengths_whatever_the_ids_are(examples, max_length):
    batch, _ = instructions.collate(examples, 0, max_length=max_length)
    lengths = [min(len(e.ids), max_length or 12) for e in examples]
    np.testing.assert_array_equal(batch.mask.sum(1), lengths)
    np.testing.assert_array_equal(
        batch.mask, np.arange(batch.inputs.shape[1]) < np.array(lengths)[:, None]
    )


@given(examples=EXAMPLES)
def test_targets_of_the_response_are_its_tokens_and_the_end(examples):
    batch, _ = instructions.collate(examples, 99, response_only=True)
    for targets, mask, (ids, prompt) in zip(
        batch.targets, batch.mask, examples, strict=True
    ):
        # The first token of a row is nobody's target.
        learnt = [*ids, 99][max(prompt, 1) :] if len(ids) else []
        assert targets[mask].tolist() == learnt


def test_batches_are_int32_with_a_boolean_mask():
    batch, _ = instructions.collate([Example(np.array([1, 2]), 0)], 0)
    assert batch.inputs.dtype == batch.targets.dtype == np.int32
    assert batch.mask.dtype == bool
    assert batch.inputs.flags.c_contiguous


def test_a_batch_with_no_target_is_one_that_counts_nothing():
    long_prompt = Example(np.arange(10, dtype=np.int32), 9)
    batch, truncated = instructions.collate(
        [long_prompt], 0, max_length=4, response_only=True
    )
    assert batch.inputs.shape == (1, 4)
    assert truncated == 1
    assert not batch.mask.any()


# Templates and records that do not fit.


@pytest.mark.parametrize(
    "text", ["{", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}"]
)
def test_a_template_whose_field_has_no_plain_name_is_an_error(text):
    with pytest.raises(ConfigError, match=r"must name its fields, .* got '\{"):
        Template(instruction="x", heading=text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instruction": "{instructoin}"}, "field 'instructoin', it has 'instruction'"),
        ({"input": "{context}"}, "field 'context'"),
        ({"response": "{answer}"}, "field 'answer'"),
    ],
)
def test_a_field_that_a_record_does_not_have_is_an_error(changes, words, gpt2):
    template = dataclasses.replace(PHI_3, **changes)
    row = {"instruction": "Add.", "input": "", "output": "2"}
    with pytest.raises(DataError, match=words):
        instructions.encode_record(row, template, gpt2)


def test_a_field_that_is_not_text_is_an_error():
    with pytest.raises(DataError, match="'instruction' of a record must hold text"):
        instructions.write_prompt({"instruction": 3, "input": ""}, PHI_3)


def test_braces_in_a_record_are_its_own():
    row = {"instruction": "What is {input}?", "input": "{x}", "output": "{{"}
    assert "What is {input}?\n{x}" in instructions.write_prompt(row, PHI_3)
    assert instructions.write_response(row, PHI_3) == "{{"


def test_a_special_token_in_a_text_must_be_allowed_and_is_then_learnt():
    tokenizer = CharTokenizer(characters="ab", special_tokens={"<|endoftext|>": 2})
    template = Template(instruction="{a}", heading="", response="{b}")
    row = {"a": "a", "b": "<|endoftext|>b"}
    with pytest.raises(TokenizerError, match="must be allowed"):
        instructions.encode_record(row, template, tokenizer)
    example = instructions.encode_record(row, template, tokenizer, allow_special=True)
    batch, _ = instructions.collate([example], 2)
    assert batch.targets.tolist() == [[2, 1, 2]]
    assert batch.mask.all()


def test_a_width_of_none_is_an_error():
    with pytest.raises(DataError, match="max_length must be >= 1, got 0"):
        instructions.collate([], 0, max_length=0)
