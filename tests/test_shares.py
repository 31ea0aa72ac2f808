"""On a mesh matrices and sums travel; the rows of a batch stay where they are."""

import dataclasses
import functools
import math
import re

import jax
import optax
import pytest
from parameters import quick

from jaxllm.config import GPTConfig, MeshConfig
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding
from jaxllm.models import gpt
from jaxllm.training import fused_loss, steps
from jaxllm.training.state import train_state_of
from jaxllm.types import Batch

# Few parameters and many tokens: what is larger than the largest matrix is activations.
CFG = GPTConfig(vocab_size=50, context_length=64, emb_dim=16, n_heads=8, n_layers=1)
B, T, V = 16, 64, 64  # the vocabulary as it is padded
LARGEST = CFG.emb_dim * CFG.mlp_dim

COLLECTIVE = re.compile(
    r"= (.*) (?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)\("
)


def compiled_step(cfg: GPTConfig, mesh_cfg: MeshConfig) -> list[str]:
    """The lines of a training step as XLA has compiled it for eight devices."""
    mesh = meshes.make_mesh(mesh_cfg)
    optimizer = optax.sgd(1.0)

    def create(key):
        return train_state_of(gpt.init_params(key, cfg), optimizer, key)

    with jax.set_mesh(mesh):
        state = sharding.placed_shapes(jax.eval_shape(create, jax.random.key(0)), mesh)
        place = jax.sharding.NamedSharding(mesh, sharding.batch_spec(mesh, (B, T)))
        rows = jax.ShapeDtypeStruct((B, T), "int32", sharding=place)
        step = functools.partial(steps.train_step, cfg=cfg, optimizer=optimizer)
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        jitted = jax.jit(step, out_shardings=(places, None))
        text = jitted.lower(state, Batch(rows, rows)).compile().as_text()
    return str(text).splitlines()


def sizes(line: str) -> list[int]:
    shapes = re.findall(r"\[([\d,]*)\]", COLLECTIVE.search(line)[1])
    return [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]


@pytest.mark.parametrize("gradients", quick(["derived", "written"]))
def test_where_devices_share_matrices_no_row_leaves_its_device(gradients):
    cfg = dataclasses.replace(CFG, gradients=gradients)
    lines = compiled_step(cfg, MeshConfig(data=1, fsdp=8))
    found = [line for line in lines if COLLECTIVE.search(line)]
    assert found
    for line in found:
        assert max(sizes(line)) <= LARGEST, line


def test_losses_are_summed_over_devices_once_not_in_each_chunk(monkeypatch):
    monkeypatch.setattr(fused_loss, "_CPU_BYTES", 2 * T * V)  # two chunks
    lines = compiled_step(CFG, MeshConfig(data=8))
    bodies = set(re.findall(r"body=%?([\w.\-]+)", "\n".join(lines)))
    assert bodies
    inside = None
    for line in lines:
        if line and not line.startswith((" ", "}")):
            inside = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
        assert inside not in bodies or not COLLECTIVE.search(line), line
