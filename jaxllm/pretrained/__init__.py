"""Published GPT-2 checkpoints in and out of the parameter tree."""
