"""A GPT in PyTorch as one writes it today: fused attention, GPT-2's layer shapes."""

import pathlib

import torch
from torch import nn
from torch.nn import functional as F

from jaxllm.pretrained import safetensors_file, tensors


class Block(nn.Module):
    """Normalise, attend, normalise, think, twice added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, T, H)
            for part in self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Token ids and their targets to the mean loss; the head is the embedding."""

    def __init__(self, model: dict) -> None:
        super().__init__()
        width = model["emb_dim"]
        self.wte = nn.Embedding(model["vocab_size"], width)
        self.wpe = nn.Embedding(model["context_length"], width)
        blocks = (Block(width, model["n_heads"]) for _ in range(model["n_layers"]))
        self.h = nn.ModuleList(blocks)
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        where = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(where)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# Names here to those of the file, whose kernels have their inputs first.
_NAMES = {"qkv": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc"}
_NAMES |= {"down": "mlp.c_proj"}


def load(model: dict, folder: str, device: str) -> GPT:
    """Make a GPT with the weights of a folder that jaxllm.save_pretrained wrote."""
    table = safetensors_file.read_table(pathlib.Path(folder) / "model.safetensors")
    with torch.device(device):
        gpt = GPT(model)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            for ours, theirs in _NAMES.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
            stored = table[name if name in table else f"transformer.{name}"]
            values = torch.from_numpy(tensors.map_tensor(stored).copy())
            turned = values.ndim == 2 and name.startswith("h.")
            parameter.copy_(values.T if turned else values)
    return gpt
