"""Answers to instructions: what each has room for, and the ids that none can have."""

import dataclasses

import pytest
from small_models import CFG, random_params

from jaxllm.data import bpe, instructions, templates, tokenizers
from jaxllm.finetuning import answers

TOKENIZER = tokenizers.BPETokenizer(
    ranks=bpe.learn_ranks({}, 256), special_tokens={"<|endoftext|>": 258}
)
# Ids 256 and 257 are a gap, those from 259 on are padding.
MODEL = dataclasses.replace(CFG, vocab_size=1024, context_length=64)
SHORT, LONG, LONGEST = (
    {"instruction": "a" * n, "input": "", "output": ""} for n in (2, 25, 200)
)


@pytest.fixture(scope="module")
def answered():
    """A function from records to their answers, of at most 30 tokens."""
    params = random_params(MODEL)

    def answer(*records):
        return answers.answer(
            params, MODEL, TOKENIZER, templates.PHI_3, records, max_new_tokens=30
        )

    return answer


def room(record):
    ids = instructions.encode_prompt(record, templates.PHI_3, TOKENIZER)
    return MODEL.context_length - len(ids)


def test_an_answer_is_the_same_beside_others_and_alone(answered):
    assert 0 < room(LONG) < 16 < 30 < room(SHORT)
    alone = [answered(record)[0] for record in (SHORT, LONG, LONGEST)]
    assert answered(SHORT, LONG, LONGEST) == alone
    assert answered(LONG, SHORT) == [alone[1], alone[0]]
    assert alone[2] == ""


def test_only_ids_with_a_token_are_in_an_answer(answered):
    """Of 1,024 ids 257 have a token: the likeliest of all is one of them by chance."""
    said = answered(SHORT)[0]
    assert said
