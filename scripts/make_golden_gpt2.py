"""Make tests/golden: a tiny GPT-2 in both published forms, and what it computes.

    python scripts/make_golden_gpt2.py                  # needs torch and transformers
    python scripts/make_golden_gpt2.py --tensorflow     # needs tensorflow

The first command draws the weights, writes the folder that transformers writes, and the
logits and the greedy tokens that it computes. The second lets TensorFlow write the same
weights as OpenAI wrote GPT-2's. None of the three is needed to run the tests.
"""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
HUGGINGFACE, OPENAI = GOLDEN / "huggingface", GOLDEN / "openai"
SEED = 0
CORPUS = "The cat sat on the mat; the rat sat on the cat, and that was that.\n"


def main() -> None:
    """Make one of the two forms."""
    parser = argparse.ArgumentParser(description="Make tests/golden.")
    parser.add_argument("--tensorflow", action="store_true")
    if parser.parse_args().tensorflow:
        make_openai()
    else:
        make_huggingface()
    for path in sorted(GOLDEN.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:8} {path.relative_to(ROOT)}")


def make_huggingface() -> None:
    """Draw a model and a tokenizer, and write what transformers makes of them."""
    torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(HUGGINGFACE)
    write_vocabulary_files(HUGGINGFACE, "vocab.json", "merges.txt")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=16,
            n_embd=24,
            n_layer=2,
            n_head=3,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
    with torch.no_grad():
        # Numbers large enough that a wrong place for any of them shows in the logits.
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        model.save_pretrained(HUGGINGFACE)
        tokens = torch.randint(len(tokenizer), (3, 16))
        prompt = tokens[:, :4]
        greedy = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        expected = {
            "tokens": tokens.numpy().astype(np.int32),
            "logits": model(tokens).logits.numpy(),
            "greedy": greedy.numpy().astype(np.int32),
            "text_ids": np.array(tokenizer.encode(CORPUS), np.int32),
        }
    np.savez(GOLDEN / "expected.npz", **expected)


def train_tokenizer():
    """Train a byte-level BPE of a few merges with the tokenizers library."""
    tokenizers, transformers = map(
        importlib.import_module, ("tokenizers", "transformers")
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    end = "<|endoftext|>"
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end
    )


def write_vocabulary_files(folder: pathlib.Path, vocabulary: str, pairs: str) -> None:
    """Write the older pair of files out of the golden tokenizer.json."""
    data = json.loads((HUGGINGFACE / "tokenizer.json").read_text("utf-8"))
    ids = data["model"]["vocab"] | {t["content"]: t["id"] for t in data["added_tokens"]}
    (folder / vocabulary).write_text(json.dumps(ids), "utf-8")
    lines = ["#version: 0.2", *map(" ".join, data["model"]["merges"]), ""]
    (folder / pairs).write_text("\n".join(lines), "utf-8")


def make_openai() -> None:
    """Let TensorFlow write the golden weights under OpenAI's names."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    safetensors, tf, openai_form = map(
        importlib.import_module, ("safetensors.numpy", "tensorflow", "openai_form")
    )
    settings = json.loads((HUGGINGFACE / "config.json").read_text())
    names = {
        "n_vocab": "vocab_size",
        "n_ctx": "n_positions",
        "n_embd": "n_embd",
        "n_head": "n_head",
        "n_layer": "n_layer",
    }
    OPENAI.mkdir(exist_ok=True)
    hparams = {ours: settings[theirs] for ours, theirs in names.items()}
    (OPENAI / "hparams.json").write_text(json.dumps(hparams, indent=2))
    write_vocabulary_files(OPENAI, "encoder.json", "vocab.bpe")
    arrays = safetensors.load_file(HUGGINGFACE / "model.safetensors")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [
            tf.compat.v1.get_variable(name, initializer=array)
            for name, array in openai_form.openai_tensors(arrays).items()
        ]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables, save_relative_paths=True)
        saver.save(session, str(OPENAI / "model.ckpt"), write_meta_graph=False)


if __name__ == "__main__":
    main()
