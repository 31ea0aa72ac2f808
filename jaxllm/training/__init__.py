"""Batches in, a trained state out: losses, optimizers, steps, checkpoints, loop."""
