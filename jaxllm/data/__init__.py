"""Text in, batches of token ids out; NumPy only, JAX is never imported here."""
