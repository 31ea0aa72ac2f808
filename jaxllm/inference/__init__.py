"""Parameters and a prompt in, text out: sampling and generation."""
