"""The face of the library: its names are there, and nothing is imported early."""

import subprocess
import sys

import pytest

import jaxllm


@pytest.mark.parametrize(
    "name",
    "load_tokenizer sliding_windows gpt2_config init_params apply next_token_loss "
    "init_train_state train_step generate load_pretrained save_pretrained".split(),
)
def test_public_names_are_there(name):
    assert callable(getattr(jaxllm, name))
    assert name in dir(jaxllm)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'aply'"):
        jaxllm.aply  # noqa: B018


def test_reading_text_does_not_import_jax():
    code = (
        "import sys, jaxllm\n"
        "from jaxllm import config_files\n"
        "from jaxllm.data import corpora, token_store, tokenizers, windows\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
