"""The figures of the notes, chapter by chapter."""

from jaxllm.notes.figure import Chapter
from jaxllm.notes.figures import (
    chapter_2_tokens,
    chapter_2_windows,
    chapter_2_words,
    chapter_3,
    chapter_4,
    chapter_5,
    chapter_5_log,
    chapter_5_weights,
    chapter_6,
    chapter_7,
)

# What the calls stand on; a reader pastes it first.
PREAMBLE = """\
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import accounting
from jaxllm.config import DataConfig, GPTConfig, OptimizerConfig
from jaxllm.config import gpt2_config, gpt3_config
from jaxllm.data import batches, gpt2_merges, instructions, labelled, layouts, records
from jaxllm.data import templates, tokenizers, windows, words
from jaxllm.finetuning import heads, lora, preference, trainable
from jaxllm.inference import filters, generate, sampling
from jaxllm.models import attention, blocks, dropout, gpt
from jaxllm.notes import book, draws, pretraining, stream
from jaxllm.training import evaluation, losses, optimizers
"""

CHAPTERS = (
    Chapter(
        2,
        "Text, words, tokens, embeddings",
        chapter_2_words.FIGURES + chapter_2_tokens.FIGURES + chapter_2_windows.FIGURES,
        chapter_2_tokens.LEFT_OUT + chapter_2_windows.LEFT_OUT,
    ),
    Chapter(3, "Attention", chapter_3.FIGURES, chapter_3.LEFT_OUT),
    Chapter(4, "The model", chapter_4.FIGURES, chapter_4.LEFT_OUT),
    Chapter(
        5,
        "Pretraining",
        chapter_5.FIGURES + chapter_5_log.FIGURES + chapter_5_weights.FIGURES,
        chapter_5.LEFT_OUT + chapter_5_log.LEFT_OUT + chapter_5_weights.LEFT_OUT,
    ),
    Chapter(6, "A classifier", chapter_6.FIGURES, chapter_6.LEFT_OUT),
    Chapter(7, "An assistant", chapter_7.FIGURES, chapter_7.LEFT_OUT),
)
