"""A model or its answers in, judgements out: likelihoods, choices, a judge."""
