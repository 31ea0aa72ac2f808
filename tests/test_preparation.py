"""What a run holds out is measured, however little it is."""

import dataclasses
import types

import numpy as np
import pytest
from small_runs import small_run

from jaxllm.config import MeshConfig
from jaxllm.distributed import mesh as meshes
from jaxllm.errors import DataError
from jaxllm.training import preparation


@pytest.mark.parametrize(
    ("held_out", "eval_batches", "counted"),
    [(5, 2, 4), (8, 2, 7), (9, 2, 8), (12, 2, 8), (12, None, 11), (2, 2, 1)],
)
def test_a_text_shorter_than_a_window_is_measured_whole(
    held_out, eval_batches, counted, tmp_path
):
    cfg = small_run(tmp_path, eval_batches=eval_batches)
    assert cfg.model.context_length == 8
    figures = preparation.measure(
        {},
        cfg=cfg,
        store=types.SimpleNamespace(validation=np.arange(held_out)),
        mesh=meshes.make_mesh(MeshConfig()),
        step=lambda params, batch: (0.0, np.asarray(batch.mask).sum()),
        known=lambda: (np.ones(held_out, np.int32), 0.0),
    )
    assert figures["validation_tokens"] == counted


def test_a_text_of_which_one_token_is_held_out_is_refused_at_the_start(tmp_path):
    cfg = small_run(tmp_path)
    data = dataclasses.replace(cfg.data, validation_fraction=1e-6)
    with pytest.raises(DataError, match=r"at least 2 tokens .* got 1; raise"):
        preparation.prepare_run(
            dataclasses.replace(cfg, data=data),
            resume=False,
            processes=1,
            on_event=lambda kind, record: None,
        )
