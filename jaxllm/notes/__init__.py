"""The random stream and the figures of the notes, held against the library."""
