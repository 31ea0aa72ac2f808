"""Arrays in, pictures out: the only door to matplotlib."""
