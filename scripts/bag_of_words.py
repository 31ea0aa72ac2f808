#!/usr/bin/env python3
"""A classifying config in, what logistic regression on words gets on its texts out.

    python scripts/bag_of_words.py --config configs/spam.yaml [--seed 1]

It learns from the texts that `jaxllm finetune` would learn from, and is judged by the
same test texts: what it cannot do is what a language model is good for. Needs
scikit-learn: pip install "jaxllm[bench]".
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# scikit-learn is the peer's library, and need not be there.
# pyright: reportMissingImports=false
from jaxllm.cli import arguments, finetune
from jaxllm.cli import main as command
from jaxllm.errors import ConfigError
from jaxllm.finetuning import classification, scores
from jaxllm.finetuning.config import FinetuneConfig


def main(argv: list[str]) -> int:
    """Count words, learn, and print the figures that a run would print."""
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import confusion_matrix
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise ConfigError("sklearn is missing: pip install 'jaxllm[bench]'") from None

    cfg = arguments.parse(FinetuneConfig, argv, "bag_of_words.py")
    _, examples = classification.read(cfg)
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    model.fit(examples.train.texts, examples.train.labels)
    for name in ("validation", "test"):
        part = getattr(examples, name)
        accuracy = model.score(part.texts, part.labels)
        print(f"{name} accuracy {100 * accuracy:.2f} % of {len(part.texts):,} texts")
    numbers = range(len(examples.test.names))
    found = model.predict(examples.test.texts)
    matrix = confusion_matrix(examples.test.labels, found, labels=[*numbers])
    finetune.print_test(scores.report(matrix, examples.test.names))
    return 0


if __name__ == "__main__":
    sys.exit(command.reported(main, sys.argv[1:]))
