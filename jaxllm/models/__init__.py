"""Token ids in, logits out: embeddings, attention, blocks, GPT, in Flax Linen."""
