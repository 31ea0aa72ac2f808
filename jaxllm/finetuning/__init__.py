"""A foundation model's parameters in, those of a model for one task out."""
