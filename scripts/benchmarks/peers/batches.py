"""PyTorch's DataLoader over a Dataset of windows, as books teach it."""

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import batches
from benchmarks.suites import Options
from jaxllm.data import token_store


class Windows(Dataset):
    """Every window as a tensor of inputs and a tensor of targets."""

    def __init__(self, ids: list[int], length: int) -> None:
        starts = range(0, len(ids) - length, length)
        self.inputs = [torch.tensor(ids[s : s + length]) for s in starts]
        self.targets = [torch.tensor(ids[s + 1 : s + length + 1]) for s in starts]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index], self.targets[index]


def data_loader(options: Options) -> Iterator[dict[str, Any]]:
    """Take shuffled batches, epoch after epoch."""
    device = "cuda" if options["device"] == "gpu" else "cpu"
    store = token_store.open_store(pathlib.Path(options["folder"]) / "store")
    dataset = Windows(np.asarray(store.train).tolist(), options["tokens"])
    loader = DataLoader(dataset, options["batch"], shuffle=True, drop_last=True)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))

    def take() -> None:
        inputs, targets = next(endless)
        inputs.to(device)
        targets.to(device)
        if device == "cuda":
            torch.cuda.synchronize()

    return batches.measured(options, take)
