"""A confusion matrix in, figures that compare classifiers out."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def report(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Sum up a confusion matrix, with a row for each label and a column for what it was
    taken for.

    Returns:
      accuracy; macro_f1, the mean f1 of all labels but those that no text has or was
      taken for; for each label precision (of those taken for it, the share that are),
      recall (of those that are, the share taken for it), f1 (their harmonic mean) and
      texts, 0 where there is nothing to take a share of; and the matrix itself.

    >>> figures = report(np.array([[3, 1], [0, 4]]), ("ham", "spam"))
    >>> figures["accuracy"], figures["macro_f1"], figures["labels"]["spam"]
    (0.875, 0.873..., {'precision': 0.8, 'recall': 1.0, 'f1': 0.888..., 'texts': 4})
    """
    right = np.diagonal(matrix)
    precision = right / np.maximum(matrix.sum(0), 1)
    recall = right / np.maximum(matrix.sum(1), 1)
    seen = matrix.sum(0) + matrix.sum(1)
    f1 = 2 * right / np.maximum(seen, 1)
    labels = {
        name: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "texts": int(matrix[i].sum()),
        }
        for i, name in enumerate(names)
    }
    return {
        "accuracy": float(right.sum() / max(matrix.sum(), 1)),
        "macro_f1": float(f1.sum() / max(np.count_nonzero(seen), 1)),
        "labels": labels,
        "confusion": matrix.tolist(),
    }
