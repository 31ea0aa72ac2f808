"""Training steps of PyTorch: fused AdamW, autocast to bfloat16, torch.compile."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks import machine
from benchmarks.peers import gpt
from benchmarks.suites import Options
from benchmarks.training import OPTIMIZER, measured, read_batches


def eager(options: Options) -> Iterator[dict[str, Any]]:
    """Train without compiling."""
    return _train(options, lambda model: model)


def compiled(options: Options) -> Iterator[dict[str, Any]]:
    """Train with torch.compile, for the shapes that are asked for and no others."""
    return _train(options, functools.partial(torch.compile, dynamic=False))


def _train(options: Options, prepared: Callable) -> Iterator[dict[str, Any]]:
    device = "cuda" if options["device"] == "gpu" else "cpu"
    torch.set_num_threads(machine.cores())
    torch.set_float32_matmul_precision("high")  # on a GPU, as users do
    mixed = options["dtype"] == "bfloat16"
    model = gpt.load(options["model"], options["folder"], device)
    optimizer = _adamw(model)
    call = prepared(model)
    batches = read_batches(options)

    def step() -> torch.Tensor:
        tokens, targets = (
            torch.from_numpy(rows).long().to(device, non_blocking=True)
            for rows in next(batches)
        )
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = call(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["grad_clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def take_steps() -> float:
        losses = [step() for _ in range(options["steps"])]
        _synchronize(device)
        return float(losses[0])

    peak = functools.partial(_peak_flops, options["dtype"], device)
    return measured(options, take_steps, peak)


def _adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": OPTIMIZER["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = OPTIMIZER["beta1"], OPTIMIZER["beta2"]
    return torch.optim.AdamW(groups, OPTIMIZER["learning_rate"], betas, fused=True)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_flops(dtype: str, device: str) -> float:
    """Measure the operations per second of a large matrix product."""
    size, repeats = (8192, 20) if device == "cuda" else (2048, 2)
    a = b = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)
    best = float("inf")
    for _ in range(4):
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _synchronize(device)
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * size**3 / best
