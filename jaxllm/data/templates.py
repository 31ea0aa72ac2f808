"""A name or a file in, a template out: the text around what people and models say.

There are two kinds: one for records with fields, and one for the turns of a
conversation. `layouts` puts the words in.
"""

import dataclasses
import os
import pathlib
import string

from jaxllm import config_files
from jaxllm.data import disk, words
from jaxllm.errors import ConfigError

# In the directory of a run that was finetuned with one.
FILE = "template.yaml"

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def parts(text: str) -> list[tuple[str, str]]:
    """Read a part of a template as texts, each with the field behind it or "".

    >>> parts("Q: {question} A:")
    [('Q: ', 'question'), (' A:', '')]
    >>> parts("{0}")
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: a template must name its fields, as in {output}, got
    '{0}'
    """
    rule = f"a template must name its fields, as in {{output}}, got {text!r}"
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{rule}: {error}") from error
    for _, name, specification, conversion in pieces:
        # What str.format can do besides is no part of a template: it reaches into
        # objects.
        named = name is None or name.isidentifier()
        if not named or specification or conversion:
            raise ConfigError(rule)
    return [(literal, name or "") for literal, name, _, _ in pieces]


def field_names(text: str) -> list[str]:
    """List the fields of a part of a template.

    >>> field_names("{question} in {{one}} {unit}")
    ['question', 'unit']
    """
    return [name for _, name in parts(text) if name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """The text around the fields of a record; {name} stands for a field."""

    instruction: str
    """What begins the prompt."""
    input: str = ""
    """What follows in the prompt, left out where its fields are empty."""
    heading: str
    """What ends the prompt and announces the response."""
    response: str = "{output}"
    """What the model is to write."""
    end: str = words.END_OF_TEXT
    """The special token that ends a response."""

    def __post_init__(self) -> None:
        for part in (self.instruction, self.input, self.heading, self.response):
            field_names(part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """The text around what one side of a conversation says."""

    before: str
    """Tells who speaks."""
    after: str = "\n"
    """Parts the turn from the next one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The text around the turns of a conversation.

    A mark that is a special token of the tokenizer is one token; any other is text.
    """

    system: Turn = Turn(before="<|system|>\n")
    """How the assistant is told what it is, once and first."""
    user: Turn = Turn(before="<|user|>\n")
    """How a person speaks."""
    assistant: Turn = Turn(before="<|assistant|>\n")
    """How the model answers."""
    end: str = words.END_OF_TEXT
    """The special token that ends an answer, in front of assistant.after."""


AnyTemplate = Template | ChatTemplate

# Taori et al. 2023, "Stanford Alpaca", as the notes' book shortens it.
ALPACA = Template(
    instruction=(
        "Below is an instruction that describes a task. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\n{instruction}"
    ),
    input="\n\n### Input:\n{input}",
    heading="\n\n### Response:\n",
)

# Abdin et al. 2024, "Phi-3 Technical Report", in the form of the notes' book.
PHI_3 = Template(
    instruction="<|user|>\n{instruction}",
    input="\n{input}",
    heading="\n<|assistant|>:\n",
)

CHAT = ChatTemplate()

NAMED = {"alpaca": ALPACA, "phi_3": PHI_3, "chat": CHAT}


def marks(template: AnyTemplate) -> list[str]:
    """List what parts one hand from another: the end, and what is around the turns.

    Blanks at the ends of a mark are not part of it.

    >>> marks(CHAT)
    ['<|endoftext|>', '<|system|>', '<|user|>', '<|assistant|>']
    >>> marks(ALPACA)
    ['<|endoftext|>']
    """
    found = [template.end]
    if isinstance(template, ChatTemplate):
        for turn in (template.system, template.user, template.assistant):
            found += [turn.before.strip(), turn.after.strip()]
    return [mark for mark in dict.fromkeys(found) if mark]


def load(name_or_path: str | os.PathLike[str]) -> AnyTemplate:
    """Find a template: alpaca, phi_3, chat, or a YAML file with one's fields.

    >>> load("phi_3").heading
    '\\n<|assistant|>:\\n'
    >>> load("alpacca")
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: a template must be alpaca, phi_3, chat, or a YAML file,
    got 'alpacca'
    """
    name = os.fspath(name_or_path)
    if name in NAMED:
        return NAMED[name]
    path = pathlib.Path(name)
    if not path.is_file():
        known = ", ".join(NAMED)
        raise ConfigError(f"a template must be {known}, or a YAML file, got {name!r}")
    with disk.explain_refusal("read", path):
        text = path.read_text("utf-8")
    try:
        values = config_files.values_of_yaml(text)
        of_turns = not values or values.keys() & {SYSTEM, USER, ASSISTANT}
        return config_files.from_values(values, ChatTemplate if of_turns else Template)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def save(template: AnyTemplate, path: str | os.PathLike[str]) -> None:
    """Write a template into a YAML file, whole or not at all."""
    with disk.atomic_writer(path) as file:
        file.write(config_files.to_yaml(template).encode())
