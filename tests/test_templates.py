"""Templates: what is written around words, and what is refused."""

import dataclasses

import pytest

from jaxllm.data import layouts, templates
from jaxllm.data.templates import ALPACA, CHAT, PHI_3, ChatTemplate, Template, Turn
from jaxllm.errors import ConfigError, DataError

ROW = {"instruction": "Add.", "input": "1 + 1", "output": "2"}


def said(role, content):
    return {"role": role, "content": content}


def laid_out(messages, template):
    pieces = layouts.conversation_pieces(messages, template)
    return "".join(piece.text for piece in pieces)


def test_a_template_leaves_out_an_input_that_is_empty():
    prompt = layouts.write_prompt(ROW, ALPACA)
    assert prompt.endswith(
        "### Instruction:\nAdd.\n\n### Input:\n1 + 1\n\n### Response:\n"
    )
    for empty in ("", None):
        prompt = layouts.write_prompt(ROW | {"input": empty}, ALPACA)
        assert prompt.endswith("### Instruction:\nAdd.\n\n### Response:\n")
    without = {"instruction": "Add.", "output": "2"}
    assert layouts.write_prompt(without, ALPACA) == prompt
    assert layouts.write_prompt(without, PHI_3) == "<|user|>\nAdd.\n<|assistant|>:\n"


def test_a_conversation_by_a_template_for_records_is_one_request_after_another():
    talk = [said("user", "Hi"), said("assistant", "Hello."), said("user", "Bye")]
    assert laid_out(talk, PHI_3) == (
        "<|user|>\nHi\n<|assistant|>:\nHello.<|endoftext|>"
        "<|user|>\nBye\n<|assistant|>:\n"
    )
    assert laid_out(talk[:1], ALPACA) == layouts.write_prompt(
        {"instruction": "Hi", "input": ""}, ALPACA
    )


def test_the_separators_of_a_chat_template_are_its_own():
    chatml = ChatTemplate(
        system=Turn(before="<|im_start|>system\n"),
        user=Turn(before="<|im_start|>user\n", after="<|im_end|>\n"),
        assistant=Turn(before="<|im_start|>assistant\n"),
        end="<|im_end|>",
    )
    talk = [said("user", "Hi"), said("assistant", "Hello."), said("user", "Bye")]
    assert laid_out(talk, chatml) == (
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "template",
    [ALPACA, PHI_3, CHAT, dataclasses.replace(CHAT, user=Turn(before="é: "))],
)
def test_a_template_that_was_saved_is_the_same(template, tmp_path):
    templates.save(template, tmp_path / "template.yaml")
    assert templates.load(tmp_path / "template.yaml") == template


def test_a_few_shot_prompt_ends_like_a_zero_shot_one():
    shown = [ROW | {"input": "2 + 2", "output": "4"}]
    prompt = layouts.write_few_shot_prompt(ROW, shown, PHI_3)
    none = layouts.write_few_shot_prompt(ROW, [], PHI_3)
    assert none == layouts.write_prompt(ROW, PHI_3)
    assert prompt == f"<|user|>\nAdd.\n2 + 2\n<|assistant|>:\n4\n\n{none}"


def test_braces_in_a_record_are_its_own():
    row = {"instruction": "What is {input}?", "input": "{x}", "output": "{{"}
    assert "What is {input}?\n{x}" in layouts.write_prompt(row, PHI_3)
    assert layouts.write_response(row, PHI_3) == "{{"


# What is refused.


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
def test_a_field_that_a_record_does_not_have_is_an_error(changes, words):
    template = dataclasses.replace(PHI_3, **changes)
    write = layouts.write_response if "response" in changes else layouts.write_prompt
    with pytest.raises(DataError, match=words):
        write(ROW, template)


def test_a_field_that_is_not_text_is_an_error():
    with pytest.raises(DataError, match="'instruction' of a record must hold text"):
        layouts.write_prompt({"instruction": 3, "input": ""}, PHI_3)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], r"must be a list, got \[\]"),
        ("hello", "must be a list, got 'hello'"),
        (["hello"], "must have a role and content, got 'hello'"),
        ([{"role": "user"}], "field 'content', it has 'role'"),
        ([said("user", "Hi")], "must end with an answer, not of user"),
        ([said("bot", "Hi")], "must be system, user or assistant, got 'bot'"),
        (
            [said("user", "Hi"), said("system", "Be brief."), said("assistant", "Yes")],
            "a system prompt must come first, got it as message 1",
        ),
    ],
)
def test_messages_that_are_no_conversation_are_an_error(messages, words):
    with pytest.raises(DataError, match=words):
        layouts.write_prompt({"messages": messages}, CHAT)


def test_a_template_for_records_has_no_place_for_a_system_prompt():
    with pytest.raises(ConfigError, match="no place for a system prompt"):
        laid_out([said("system", "Be brief."), said("user", "Hi")], ALPACA)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("instruction: '{a}'\nheadng: x", "unknown key 'headng'; .* 'heading'"),
        ("instruction: '{a}'", "heading must be given"),
        ("user: {befor: x}", "unknown key 'user.befor'; .* 'user.before'"),
        ("user: {}", "user.before must be given"),
        ("[]", "a config is a mapping"),
    ],
)
def test_a_file_that_is_no_template_is_an_error(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"mine.yaml: {words}"):
        templates.load(path)
