r"""A record or a conversation in, the text that a model reads and writes out.

Laid out by a template, a text is a list of pieces, each from one hand: so the words of
a person can't be taken for the special tokens that steer a model, and it is known what
the model itself is to write.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxllm.data import templates
from jaxllm.data.records import Record
from jaxllm.data.templates import (
    ASSISTANT,
    SYSTEM,
    USER,
    AnyTemplate,
    ChatTemplate,
    Template,
    Turn,
)
from jaxllm.errors import ConfigError, DataError


class Piece(NamedTuple):
    """A part of a text, all of it from one hand."""

    text: str
    is_content: bool  # somebody's own words, and none of the template's
    is_response: bool  # what the model is to write


def prompt_pieces(record: Record, template: AnyTemplate) -> list[Piece]:
    """Lay out what precedes a record's response.

    A field named input may be missing, and is empty then; any other is asked for. By a
    template of turns a record is a conversation up to its last answer: it has messages,
    or an instruction, perhaps an input, and an output.

    Raises:
      DataError: the record lacks a field of the template, or it holds no text.
    """
    if isinstance(template, ChatTemplate):
        return conversation_pieces(_messages(record)[:-1], template)
    given = _fill(template.input, {"input": ""} | record)
    parts = (template.instruction, template.heading)
    instruction, heading = (_fill(part, record) for part in parts)
    is_given = any(piece.text for piece in given if piece.is_content)
    return instruction + (given if is_given else []) + heading


def response_pieces(record: Record, template: AnyTemplate) -> list[Piece]:
    """Lay out what a model is to answer, without its end; errors as for the prompt."""
    if isinstance(template, ChatTemplate):
        return [Piece(_messages(record)[-1]["content"], True, True)]
    pieces = _fill(template.response, record)
    return [piece._replace(is_response=True) for piece in pieces]


def conversation_pieces(messages: Sequence[Record], template: AnyTemplate) -> list:
    r"""Lay out a conversation up to where the assistant is to speak.

    By a template for records each message of the user is an instruction of its own.

    Args:
      messages: each with a role (system, first if at all; user; assistant) and content.

    Raises:
      DataError: a message has another role, or no text, or stands in the wrong place.
      ConfigError: the template has no place for such a message.

    >>> messages = [{"role": "user", "content": "Hello"}]
    >>> "".join(piece.text for piece in conversation_pieces(messages, templates.CHAT))
    '<|user|>\nHello\n<|assistant|>\n'
    >>> "".join(piece.text for piece in conversation_pieces(messages, templates.PHI_3))
    '<|user|>\nHello\n<|assistant|>:\n'
    """
    pieces = []
    for place, message in enumerate(messages):
        role, content = _checked(message, place)
        answer = [Piece(content, True, True), Piece(template.end, False, True)]
        if isinstance(template, ChatTemplate):
            turn: Turn = getattr(template, role)
            said = answer if role == ASSISTANT else [Piece(content, True, False)]
            pieces += [_own(turn.before), *said, _own(turn.after)]
        elif role == SYSTEM:
            raise ConfigError("a template for records has no place for a system prompt")
        elif role == USER:
            pieces += prompt_pieces(_as_instruction(content, template), template)
        else:
            pieces += answer
    if isinstance(template, ChatTemplate):
        pieces.append(_own(template.assistant.before))
    return pieces


def write_prompt(record: Record, template: AnyTemplate) -> str:
    r"""Write the text behind which a model is to write its response.

    Raises:
      DataError: the record lacks a field of the template, or it holds no text.

    >>> record = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
    >>> write_prompt(record, templates.PHI_3)
    '<|user|>\nAdd.\n1 + 1\n<|assistant|>:\n'
    >>> write_prompt(record | {"input": ""}, templates.PHI_3)
    '<|user|>\nAdd.\n<|assistant|>:\n'
    >>> write_prompt({"question": "1 + 1?"}, templates.PHI_3)
    Traceback (most recent call last):
    jaxllm.errors.DataError: a record must have the template's field 'instruction', it
    has 'question'
    """
    return "".join(piece.text for piece in prompt_pieces(record, template))


def write_response(record: Record, template: AnyTemplate) -> str:
    """Write what a model is to answer.

    >>> write_response({"instruction": "Add 1 and 1.", "output": "2"}, templates.ALPACA)
    '2'
    """
    return "".join(piece.text for piece in response_pieces(record, template))


def write_few_shot_prompt(
    record: Record,
    examples: Sequence[Record],
    template: AnyTemplate,
    *,
    separator: str = "\n\n",
) -> str:
    r"""Write a prompt behind examples with their responses; none makes it zero-shot.

    It is for a model that was not finetuned, and has to see what is wanted of it.

    >>> question = Template(instruction="Q: {q}\n", heading="A:", response=" {a}")
    >>> shown = [{"q": "1 + 1", "a": "2"}]
    >>> write_few_shot_prompt({"q": "2 + 2"}, shown, question, separator="\n")
    'Q: 1 + 1\nA: 2\nQ: 2 + 2\nA:'
    """
    whole = [write_prompt(r, template) + write_response(r, template) for r in examples]
    return separator.join([*whole, write_prompt(record, template)])


def with_response(record: Record, answer: str, template: AnyTemplate) -> Record:
    """Give a record another response, such as one of a pair to choose from.

    Raises:
      DataError: the record has messages that are no conversation.

    >>> record = {"instruction": "Greet.", "output": "Hi."}
    >>> with_response(record, "Hello.", templates.ALPACA)
    {'instruction': 'Greet.', 'output': 'Hello.'}
    """
    if isinstance(template, Template):
        return record | {_only_field(template.response, "response"): answer}
    if "messages" not in record:
        return record | {"output": answer}
    messages = _some_messages(record)
    last, _ = _checked(messages[-1], len(messages) - 1)
    messages = messages[:-1] if last == ASSISTANT else messages
    return {"messages": [*messages, {"role": ASSISTANT, "content": answer}]}


def answered(record: Record, name: str, template: AnyTemplate) -> Record:
    """Give a record the answer of one of its fields for a response.

    >>> answered({"instruction": "Greet.", "bad": "Go."}, "bad", templates.ALPACA)
    {'instruction': 'Greet.', 'bad': 'Go.', 'output': 'Go.'}
    """
    if not isinstance(record.get(name), str):
        raise DataError(
            f"a pair must have an answer {name!r}, got {record.get(name)!r}"
        )
    return with_response(record, record[name], template)


def _fill(text: str, record: Record) -> list[Piece]:
    pieces = []
    for literal, name in templates.parts(text):
        pieces += [_own(literal)] if literal else []
        pieces += [Piece(_value(record, name), True, False)] if name else []
    return pieces


def _own(text: str) -> Piece:
    return Piece(text, False, False)


def _value(record: Record, name: str) -> str:
    """Return a field's text, where null is an empty one."""
    if name not in record:
        raise DataError(
            f"a record must have the template's field {name!r}, it has "
            f"{', '.join(map(repr, record)) or 'none'}"
        )
    value = "" if record[name] is None else record[name]
    if not isinstance(value, str):
        raise DataError(f"field {name!r} of a record must hold text, got {value!r}")
    return value


def _messages(record: Record) -> list[Record]:
    """Read a record as a conversation that ends with an answer."""
    if "messages" not in record:
        given = _value(record, "input") if "input" in record else ""
        request = _value(record, "instruction") + (f"\n{given}" if given else "")
        answer = _value(record, "output")
        messages = [(USER, request), (ASSISTANT, answer)]
        return [{"role": role, "content": content} for role, content in messages]
    messages = _some_messages(record)
    last, _ = _checked(messages[-1], len(messages) - 1)
    if last != ASSISTANT:
        raise DataError(f"messages of a record must end with an answer, not of {last}")
    return messages


def _some_messages(record: Record) -> list[Record]:
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        raise DataError(f"messages of a record must be a list, got {messages!r}")
    return messages


def _checked(message: Record, place: int) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise DataError(f"a message must have a role and content, got {message!r}")
    role, content = (_value(message, name) for name in ("role", "content"))
    if role not in (SYSTEM, USER, ASSISTANT):
        raise DataError(
            f"the role of a message must be {SYSTEM}, {USER} or {ASSISTANT}, "
            f"got {role!r}"
        )
    if role == SYSTEM and place:
        raise DataError(f"a system prompt must come first, got it as message {place}")
    return role, content


def _as_instruction(content: str, template: Template) -> Record:
    field = _only_field(template.instruction, "instruction")
    return dict.fromkeys(templates.field_names(template.input), "") | {field: content}


def _only_field(text: str, part: str) -> str:
    names = templates.field_names(text)
    if len(names) != 1:
        raise ConfigError(
            f"the {part} of a template must have one field here, got {text!r}"
        )
    return names[0]
