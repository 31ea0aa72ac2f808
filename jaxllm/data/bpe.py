"""Text to a byte-level BPE vocabulary: `ranks`, a dict from a token's bytes to its id.

Byte-pair encoding (Sennrich et al. 2016) over bytes (Radford et al. 2019): start from
the 256 bytes, and give the most frequent pair of neighbouring tokens an id of its own,
again and again. Pairs are sought inside pieces only: a pattern cuts the text into words
with their leading blank, numbers, marks and white space, and nothing is ever merged
across a cut. So it is enough to look at each distinct piece once, with its count.

The order of merging is fixed: the highest count first; among equal counts, the smallest
pair of ids, where ids 0 to 255 are the bytes in GPT-2's order. So two trainings on the
same text agree to the last token, whatever the order of documents or the processes.
"""

import array
import collections
import functools
import heapq
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import regex

from jaxllm.data import pool
from jaxllm.errors import TokenizerError

# English contractions; letters, digits, other marks, each with the blank before them;
# and white space, whose last blank goes to the word that follows. The pieces are those
# of GPT-2's pattern, which has one alternative per contraction and ends in \s+: there
# tiktoken encodes 13 MB/s, here 17 (one core).
GPT2_PATTERN = r"'(?:[dmst]|ll|re|ve)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s"

PRINTABLE = bytes([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])

# GPT-2 numbers the bytes that Latin-1 can print first, then the others.
BYTES = PRINTABLE + bytes(b for b in range(256) if b not in PRINTABLE)

# GPT-2 writes a byte as the Latin-1 letter that it stands for; those that cannot be
# printed as the letters from U+0100 on: a blank is "Ġ".
LETTERS = {
    byte: chr(byte if i < len(PRINTABLE) else 256 + i - len(PRINTABLE))
    for i, byte in enumerate(BYTES)
}

Ranks = dict[bytes, int]
_Pair = tuple[int, int]

_GAP = -1  # stands between two pieces
_GONE = -2  # stands where the second part of a merged pair was
_BATCH = 1 << 20  # characters that a counting process is handed at a time


def split(text: str, pattern: str = GPT2_PATTERN) -> Iterator[str]:
    """Cut text into the pieces that no token crosses.

    >>> list(split("It's 9 o'clock."))
    ['It', "'s", ' 9', ' o', "'", 'clock', '.']
    """
    return map(operator.methodcaller("group"), regex.finditer(pattern, text))


def count_pieces(
    texts: Iterable[str], pattern: str = GPT2_PATTERN, *, processes: int = 1
) -> collections.Counter[str]:
    """Count how often each piece occurs, a document at a time.

    The pattern must match every character of every text, or TokenizerError names the
    text it missed. More than one process helps where there are many documents; a script
    that asks for it needs the `if __name__ == "__main__":` guard of multiprocessing.

    >>> sorted(count_pieces(["a rose is", "a rose"]).items())
    [(' is', 1), (' rose', 2), ('a', 2)]
    """
    counts = collections.Counter[str]()
    batches = ((pattern, batch) for batch in _batches(texts))
    with pool.processes(processes) as executor:
        ahead = 2 * processes
        for _, part in pool.map_ahead(executor, _count_batch, batches, ahead):
            counts.update(part)
    return counts


def learn_ranks(
    counts: Mapping[str, int], vocab_size: int, *, min_count: int = 2
) -> Ranks:
    """Merge the most frequent pair again and again until there are vocab_size tokens.

    There are fewer when no pair occurs min_count times any more.

    >>> ranks = learn_ranks({"banana": 2}, 258)
    >>> list(ranks)[256:]  # "an" and "na" occur 4 times; "a" is smaller than "n"
    [b'an', b'ban']
    >>> ranks[b"!"], ranks[b"an"]
    (0, 256)
    """
    if vocab_size < len(BYTES):
        raise TokenizerError(
            f"vocab_size must be >= {len(BYTES)}, one token for each byte, "
            f"got {vocab_size}"
        )
    if min_count < 1:
        raise TokenizerError(f"min_count must be >= 1, got {min_count}")
    tokens = [bytes([b]) for b in BYTES]
    rows = _lay_out(counts)
    heap = [(-count, pair) for pair, count in rows.pairs.items()]
    heapq.heapify(heap)
    while len(tokens) < vocab_size and heap:
        negative, pair = heapq.heappop(heap)
        # A count that fell is put right in the heap only when it comes to the top.
        if (count := rows.pairs.get(pair, 0)) != -negative:
            if count < -negative:
                heapq.heappush(heap, (-count, pair))
            continue
        if count < min_count:
            break
        # These bytes are no token yet: a span that no merge has crossed is cut the same
        # way wherever it stands, so no second pair spells them.
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        for risen in _merge(rows, pair, len(tokens) - 1):
            heapq.heappush(heap, (-rows.pairs[risen], risen))
    return {token: i for i, token in enumerate(tokens)}


class _Rows(NamedTuple):
    """Every distinct piece as a row of tokens, and where each pair of them stands.

    The rows lie one after another, `_GAP` between them. A merge writes the new token
    over its first part and takes the second out of the chain, so the work of a merge
    is the number of places where the pair stands, not the size of the text.
    """

    ids: array.array  # at each place the token that begins there
    weight: array.array  # and the count of its piece
    before: array.array  # and the places of its neighbours
    after: array.array
    pairs: dict[_Pair, int]  # the count of each pair
    places: dict[_Pair, array.array]  # and where it stands, or stood once


# Arrays of machine integers: as fast as lists here, and half the memory.
_numbers = functools.partial(array.array, "q")


def _lay_out(counts: Mapping[str, int]) -> _Rows:
    rank = {b: i for i, b in enumerate(BYTES)}
    ids, weight = _numbers([_GAP]), _numbers([0])
    for piece, count in counts.items():
        row = [rank[b] for b in encode_utf8(piece)]
        ids.extend([*row, _GAP])
        weight.extend([count] * (len(row) + 1))
    pairs = collections.defaultdict(int)
    places = collections.defaultdict(_numbers)
    for place, pair in enumerate(itertools.pairwise(ids)):
        if _GAP not in pair:
            pairs[pair] += weight[place]
            places[pair].append(place)
    before, after = range(-1, len(ids) - 1), range(1, len(ids) + 1)
    return _Rows(ids, weight, _numbers(before), _numbers(after), pairs, places)


def _merge(rows: _Rows, pair: _Pair, new: int) -> set[_Pair]:
    """Replace the pair by a token everywhere, in place; return the pairs that rose."""
    ids, _, before, after, pairs, places = rows
    first, second = pair
    risen = set()

    def add(fresh: _Pair, place: int, count: int) -> None:
        pairs[fresh] += count
        places[fresh].append(place)
        risen.add(fresh)

    # Places were found left to right: of three equal tokens the first two are one.
    for place in places.pop(pair):
        partner = after[place]
        if ids[place] != first or ids[partner] != second:
            continue  # an earlier merge took this place
        count, left, right = rows.weight[place], before[place], after[partner]
        if ids[left] != _GAP:
            pairs[ids[left], first] -= count
            add((ids[left], new), left, count)
        if ids[right] != _GAP:
            pairs[second, ids[right]] -= count
            add((new, ids[right]), place, count)
        ids[place], ids[partner] = new, _GONE
        after[place], before[right] = right, place
    del pairs[pair]
    return risen


def encode_utf8(text: str) -> bytes:
    """Encode text as UTF-8; a lone surrogate is an error that says where it stands.

    >>> encode_utf8("é")
    b'\\xc3\\xa9'
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            "text must be Unicode without lone surrogates, got "
            f"U+{ord(text[error.start]):04X} at character {error.start}"
        ) from None


def _count_batch(work: tuple[str, list[str]]) -> collections.Counter[str]:
    pattern, texts = work
    counts = collections.Counter[str]()
    for text in texts:
        pieces = collections.Counter(split(text, pattern))
        if sum(len(piece) * n for piece, n in pieces.items()) != len(text):
            missed = regex.sub(pattern, "", text)
            raise TokenizerError(
                f"the pattern must match every character, got none for {missed[:20]!r}"
            )
        counts.update(pieces)
    return counts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    yield batch
