"""Ranks in, merges out: the two ways in which a byte-level BPE is written down.

tiktoken keeps a rank for each token, and merges the neighbours whose joint bytes have
the lowest one. Hugging Face keeps the list of pairs that may merge, in order. The pair
that makes a token is what tiktoken's rule leaves of its bytes just before the last
step, and no other pair can ever make it: whatever stands to the left and right, the
bytes of a token go through the same merges.
"""

import itertools

from jaxllm.data import bpe

Merge = tuple[bytes, bytes]

_BYTE = {letter: byte for byte, letter in bpe.LETTERS.items()}


def spell(token: bytes) -> str:
    """Write the bytes of a token in GPT-2's letters.

    >>> spell(b" to")
    'Ġto'
    """
    return "".join(bpe.LETTERS[byte] for byte in token)


def unspell(text: str) -> bytes:
    """Read the bytes of a token from GPT-2's letters; KeyError for any other letter.

    >>> unspell("Ġto")
    b' to'
    """
    return bytes(_BYTE[letter] for letter in text)


def recover_merges(ranks: bpe.Ranks) -> list[Merge]:
    """Find the pair that makes each token, in the order of their ranks.

    A token that its parts never lead to has none. tiktoken gives it to a piece of text
    that it equals, and only then; in Hugging Face's files that is ignore_merges.

    >>> ranks = {b"a": 0, b"b": 1, b"ab": 2, b"aba": 3, b"abab": 4}
    >>> recover_merges(ranks)
    [(b'a', b'b'), (b'ab', b'a'), (b'ab', b'ab')]
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = _merge_below(token, ranks, rank) if len(token) > 1 else []
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def _merge_below(token: bytes, ranks: bpe.Ranks, limit: int) -> list[bytes]:
    """Merge a token's bytes as tiktoken does, by ranks under a limit alone."""
    parts = [token[i : i + 1] for i in range(len(token))]
    joint = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
    while len(parts) > 2 and (lowest := min(joint)) < limit:
        place = joint.index(lowest)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        del joint[place]
        for left in range(max(place - 1, 0), min(place + 1, len(joint))):
            joint[left] = ranks.get(parts[left] + parts[left + 1], limit)
    return parts
