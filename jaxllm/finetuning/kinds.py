"""The name of a task in, the functions that make a run of it out."""

from jaxllm.finetuning import classification, instruction, preferring
from jaxllm.finetuning.tasks import Kind

KINDS: dict[str, Kind] = {
    "classify": classification.KIND,
    "instruct": instruction.KIND,
    "preference": preferring.KIND,
}
