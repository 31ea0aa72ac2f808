"""Conversations that outgrow a context, token by token."""

import pytest

from jaxllm.data import conversations, tokenizers
from jaxllm.data.templates import ALPACA, CHAT
from jaxllm.errors import DataError

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def gpt2():
    return tokenizers.load("gpt2")


def talk(n):
    """n questions with their answers, and one question more."""
    turns = []
    for i in range(n):
        turns.append({"role": "user", "content": f"Question {i}?"})
        turns.append({"role": "assistant", "content": f"Answer {i}."})
    return [*turns, {"role": "user", "content": "Last one?"}]


def test_the_oldest_turns_leave_and_the_system_prompt_stays(gpt2):
    messages = [SYSTEM, *talk(4)]
    whole = conversations.remember(messages, CHAT, gpt2, 1000)
    assert whole.messages == messages
    head = gpt2.encode("<|system|>\nBe brief.\n").tolist()
    assert whole.ids[: len(head)].tolist() == head
    for forgotten in range(1, 5):
        rest = messages[1 + 2 * forgotten :]
        tail = "".join(
            f"<|user|>\nQuestion {i}?\n<|assistant|>\nAnswer {i}.<|endoftext|>\n"
            for i in range(forgotten, 4)
        )
        tail += "<|user|>\nLast one?\n<|assistant|>\n"
        expected = head + gpt2.encode(tail, allow_special=True).tolist()
        for room in (len(expected), len(expected) + 1):
            kept = conversations.remember(messages, CHAT, gpt2, room)
            assert kept.messages == [SYSTEM, *rest]
            assert kept.ids.tolist() == expected


def test_every_length_is_kept_to(gpt2):
    messages = [SYSTEM, *talk(3)]
    shortest = conversations.remember([SYSTEM, *talk(0)], CHAT, gpt2, 999).ids
    for room in range(len(shortest), 120):
        kept = conversations.remember(messages, CHAT, gpt2, room)
        assert len(kept.ids) <= room
        assert kept.messages[0] == SYSTEM
        assert kept.messages[1]["role"] == "user"
        assert kept.messages[-1]["content"] == "Last one?"
    with pytest.raises(DataError, match=f"at most {len(shortest) - 1} tokens, got"):
        conversations.remember(messages, CHAT, gpt2, len(shortest) - 1)


def test_a_template_for_records_forgets_as_well(gpt2):
    alone = conversations.remember(talk(0), ALPACA, gpt2, 999).ids
    kept = conversations.remember(talk(3), ALPACA, gpt2, len(alone) + 5)
    assert kept.ids.tolist() == alone.tolist()


def test_an_answer_has_the_room_that_was_asked_for_up_to_half():
    assert conversations.split_context(100, 10) == 90
    assert conversations.split_context(100, 500) == 50
    assert conversations.split_context(1, 500) == 1
