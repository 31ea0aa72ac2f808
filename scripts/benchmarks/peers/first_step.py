"""The first training step of the quickstart's model in PyTorch, then its loss."""

import json
import pathlib
import sys

import numpy as np
import torch

from benchmarks.peers import gpt

MODEL = {"emb_dim": 128, "n_heads": 4, "n_layers": 4, "context_length": 128}


def main(folder: pathlib.Path) -> None:
    """Read a batch out of the store, make the model, and take one step."""
    manifest = json.loads((folder / "store/manifest.json").read_text())
    file = folder / "store" / manifest["shards"][0]["files"][0]["name"]
    ids = np.memmap(file, manifest["dtype"], "r")
    starts = np.random.default_rng(0).integers(0, len(ids) - 129, 8)
    rows = torch.from_numpy(np.stack([ids[s : s + 129] for s in starts]).astype("i8"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = gpt.GPT(MODEL | {"vocab_size": manifest["vocab_size"]}).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, fused=True)
    rows = rows.to(device)
    loss = model(rows[:, :-1], rows[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(float(loss), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
