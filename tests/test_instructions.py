"""Instructions: the book's tensors and batches, and the lengths as a law."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data import instructions, layouts, records, tokenizers
from jaxllm.data.instructions import Example
from jaxllm.data.templates import ALPACA, CHAT, PHI_3, Template
from jaxllm.data.text_tokenizers import CharTokenizer
from jaxllm.errors import ConfigError, DataError
from jaxllm.notes import book, stream

END = 50256


@pytest.fixture(scope="module")
def data(real_file):
    """The book's 1,100 instruction records."""
    return records.read_records(real_file("instruction-data.json"))


@pytest.fixture(scope="module")
def gpt2():
    return tokenizers.load("gpt2")


def example(ids, prompt_length):
    """An example whose response begins behind its prompt."""
    return Example(np.array(ids, np.int32), np.arange(len(ids)) >= prompt_length)


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
    texts = [0, 1, 2, 3, 4], [5, 6], [7, 8, 9]
    batch = instructions.collate([example([*ids, END], 0) for ids in texts], END)
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
    assert max(len(example.ids) - 1 for example in examples) == 91
    order = stream.seed(123).loader_order(len(train))
    batches = records.batch_rows(order, 8, drop_last=True)
    assert len(batches) == 116
    widths = [
        instructions.collate([examples[i] for i in rows], END).inputs.shape[1]
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
    batch = instructions.collate(examples, END, response_only=True)
    assert batch.inputs.shape == (3, 64)
    answer = "198 198 21017 18261 25 198 34 12204 375 576 11 42651 11 1168 37052 50256"
    assert ignored(batch)[1] == [-100] * 46 + [*map(int, answer.split())] + [-100] * 2


def test_prompt_and_response_have_the_ids_of_the_whole_text(data, gpt2):
    for row in data:
        ids, is_response = instructions.encode_record(row, ALPACA, gpt2)
        prompt = layouts.write_prompt(row, ALPACA)
        text = prompt + layouts.write_response(row, ALPACA)
        np.testing.assert_array_equal(ids, [*gpt2.encode(text), END])
        prompt_ids = instructions.encode_prompt(row, ALPACA, gpt2)
        np.testing.assert_array_equal(prompt_ids, gpt2.encode(prompt))
        np.testing.assert_array_equal(
            is_response, np.arange(len(ids)) >= len(prompt_ids)
        )


# Laws.

IDS = st.lists(st.integers(0, 9), min_size=1, max_size=9)
EXAMPLES = st.lists(
    IDS.flatmap(
        lambda ids: st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)).map(
            lambda flags: Example(np.array(ids, np.int32), np.array(flags))
        )
    ),
    min_size=1,
    max_size=5,
)


@given(examples=EXAMPLES, response_only=st.booleans())
def test_a_collated_row_is_the_row_alone_and_the_rest_does_not_count(
    examples, response_only
):
    batch = instructions.collate(examples, 0, response_only=response_only)
    for row, one in enumerate(examples):
        alone = instructions.collate([one], 0, response_only=response_only)
        n = alone.inputs.shape[1]
        for together, single in zip(batch[:3], alone[:3], strict=True):
            np.testing.assert_array_equal(together[row, :n], single[0])
        assert not batch.mask[row, n:].any()
        assert (batch.inputs[row, n:] == 0).all()
    assert batch.inputs.shape[1] == max(len(one.ids) - 1 for one in examples)


@given(examples=EXAMPLES)
def test_the_mask_is_the_lengths_whatever_the_ids_are(examples):
    batch = instructions.collate(examples, 0)
    lengths = np.array([len(one.ids) - 1 for one in examples])
    np.testing.assert_array_equal(
        batch.mask, np.arange(batch.inputs.shape[1]) < lengths[:, None]
    )


@given(examples=EXAMPLES)
def test_targets_of_responses_are_their_tokens(examples):
    batch = instructions.collate(examples, 99, response_only=True)
    for targets, mask, (ids, is_response) in zip(*batch[1:3], examples, strict=True):
        # The first token of a row is nobody's target.
        assert targets[mask].tolist() == ids[1:][is_response[1:]].tolist()


@given(examples=EXAMPLES, max_length=st.integers(1, 12))
def test_what_fits_is_left_alone_and_what_does_not_loses_its_end(examples, max_length):
    fitted = instructions.fit(examples, max_length)
    truncated = 0
    for place, short in zip(fitted.kept, fitted.examples, strict=True):
        whole = examples[place]
        np.testing.assert_array_equal(short.ids, whole.ids[: max_length + 1])
        truncated += len(short.ids) < len(whole.ids)
        assert len(short.ids) == len(whole.ids) or short.is_response.any()
    assert fitted.truncated == truncated
    dropped = instructions.fit(examples, max_length, "drop")
    assert dropped.truncated == 0
    assert dropped.kept == [
        place for place, one in enumerate(examples) if len(one.ids) <= max_length + 1
    ]


def test_an_example_whose_whole_response_is_too_far_is_left_out():
    examples = [example(range(9), 7), example(range(9), 4)]
    fitted = instructions.fit(examples, 5)
    assert fitted.kept == [1]
    assert fitted.truncated == 1
    # The end of the text is not learnt where the response does not end.
    assert fitted.examples[0].ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_batches_are_int32_with_a_boolean_mask():
    batch = instructions.collate([example([1, 2], 0)], 0)
    assert batch.inputs.dtype == batch.targets.dtype == np.int32
    assert batch.mask.dtype == bool
    assert batch.inputs.flags.c_contiguous


def test_a_batch_can_be_wider_but_not_narrower_than_its_rows():
    rows = [example([1, 2, 3], 0)]
    assert instructions.collate(rows, 0, width=4).inputs.tolist() == [[1, 2, 0, 0]]
    with pytest.raises(DataError, match="must be as wide as 2 tokens, got 1"):
        instructions.collate(rows, 0, width=1)


# Special tokens.

PLAIN = Template(instruction="{a}", heading="", response="{b}")


def test_a_special_token_in_a_record_is_text_like_any_other(gpt2):
    row = {"instruction": "a<|endoftext|>b", "input": "", "output": "<|endoftext|>"}
    ids, is_response = instructions.encode_record(row, PHI_3, gpt2)
    assert ids.tolist().count(END) == 1
    assert ids[-1] == END
    text = gpt2.decode(ids[is_response])
    assert text == "<|endoftext|><|endoftext|>"
    allowed, _ = instructions.encode_record(row, PHI_3, gpt2, allow_special=True)
    assert allowed.tolist().count(END) == 3


def test_a_special_token_that_is_allowed_is_learnt_and_one_that_pads_is_not():
    tokenizer = CharTokenizer(characters="ab", special_tokens={"<|endoftext|>": 2})
    row = {"a": "a", "b": "<|endoftext|>b"}
    long = instructions.encode_record(row, PLAIN, tokenizer, allow_special=True)
    short = instructions.encode_record({"a": "a", "b": ""}, PLAIN, tokenizer)
    batch = instructions.collate([long, short], 2)
    assert batch.targets.tolist() == [[2, 1, 2], [2, 2, 2]]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]


def test_the_marks_of_a_template_are_special_tokens_where_the_tokenizer_has_them(gpt2):
    marked = tokenizers.add_special_tokens(gpt2, ["<|user|>", "<|assistant|>"])
    said = [{"role": "user", "content": "Say <|assistant|>!"}]
    ids = instructions.encode_conversation(said, CHAT, marked)
    user, assistant = (marked.special_tokens[m] for m in ("<|user|>", "<|assistant|>"))
    assert ids[0] == user
    # The one that the user wrote is text.
    assert ids.tolist().count(assistant) == 1
    text = "".join(piece.text for piece in layouts.conversation_pieces(said, CHAT))
    assert marked.decode(ids) == text
    plain = instructions.encode_conversation(said, CHAT, gpt2)
    assert gpt2.decode(plain) == text


# Conversations.

TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add 1 and 1."},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 1?"},
        {"role": "assistant", "content": "3"},
    ]
}


def test_every_answer_of_a_conversation_is_learnt_with_its_end(gpt2):
    ids, is_response = instructions.encode_record(TALK, CHAT, gpt2)
    assert gpt2.decode(ids) == (
        "<|system|>\nBe brief.\n<|user|>\nAdd 1 and 1.\n<|assistant|>\n2<|endoftext|>\n"
        "<|user|>\nAnd 1?\n<|assistant|>\n3<|endoftext|>"
    )
    assert gpt2.decode(ids[is_response]) == "2<|endoftext|>3<|endoftext|>"
    batch = instructions.collate([Example(ids, is_response)], END, response_only=True)
    assert batch.mask.sum() == is_response.sum() == 4


def test_the_prompt_of_a_conversation_is_what_a_model_is_asked_with(gpt2):
    ids, _ = instructions.encode_record(TALK, CHAT, gpt2)
    prompt = instructions.encode_conversation(TALK["messages"][:-1], CHAT, gpt2)
    np.testing.assert_array_equal(ids[: len(prompt)], prompt)
    assert gpt2.decode(ids[len(prompt) :]) == "3<|endoftext|>"


def test_an_instruction_is_a_conversation_of_one_turn(gpt2):
    row = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
    turns = [
        {"role": "user", "content": "Add.\n1 + 1"},
        {"role": "assistant", "content": "2"},
    ]
    for of_record, of_turns in zip(
        instructions.encode_record(row, CHAT, gpt2),
        instructions.encode_record({"messages": turns}, CHAT, gpt2),
        strict=True,
    ):
        np.testing.assert_array_equal(of_record, of_turns)


# Pairs.


def test_a_pair_has_one_prompt_and_two_answers(real_file, gpt2):
    pairs = records.read_records(real_file("instruction-data-with-preference.json"))
    for template in (ALPACA, CHAT):
        for row in pairs[:20]:
            prompt = instructions.encode_prompt(row, template, gpt2)
            both = instructions.encode_pair(row, template, gpt2)
            for one, name in zip(both, ("chosen", "rejected"), strict=True):
                np.testing.assert_array_equal(one.ids[: len(prompt)], prompt)
                answer = gpt2.decode(one.ids[one.is_response][:-1])
                assert answer == row[name]


def test_a_pair_without_one_of_its_answers_is_an_error(gpt2):
    row = {"instruction": "Add.", "input": "", "output": "2", "chosen": "2"}
    with pytest.raises(DataError, match="must have an answer 'rejected', got None"):
        instructions.encode_pair(row, ALPACA, gpt2)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "must be a list, got None"),
        ("hello", "must be a list, got 'hello'"),
        (["hello"], "must have a role and content, got 'hello'"),
        ([{"role": "user"}], "must have the template's field 'content'"),
    ],
)
def test_a_pair_of_no_conversation_is_an_error(gpt2, messages, words):
    row = {"messages": messages, "chosen": "2", "rejected": "3"}
    with pytest.raises(DataError, match=words):
        instructions.encode_pair(row, CHAT, gpt2)


# Templates and records that do not fit.


def test_an_end_that_the_tokenizer_does_not_have_is_an_error(gpt2):
    template = dataclasses.replace(PHI_3, end="<|end|>")
    row = {"instruction": "Add.", "input": "", "output": "2"}
    with pytest.raises(ConfigError, match=r"which has <.endoftext.>, got '<.end.>'"):
        instructions.encode_record(row, template, gpt2)


def test_a_width_of_none_is_an_error():
    with pytest.raises(DataError, match="max_length must be >= 1, got 0"):
        instructions.fit([], 0)
