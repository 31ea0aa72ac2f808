"""PyTorch's CPU random stream in NumPy: a seed in, PyTorch's own numbers out.

The figures of the notes were printed after `torch.manual_seed(123)`. Whoever draws the
same numbers in the same order finds the same figures, in any framework. The engine is
the Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), which NumPy has too; what
this file adds is how PyTorch turns its 32-bit words into uniforms, normals, orders and
choices. Uniforms, exponentials, orders and masks are equal to the bit; normals to the
last digits of float32, where the logarithms of the two libraries differ.
"""

import math
from collections.abc import Sequence

import numpy as np

Shape = int | Sequence[int]

# Normals are made in pieces of this many numbers, so that a piece stays in the cache.
_PIECE = 1 << 16


def seed(value: int) -> "Stream":
    """Start the stream that `torch.manual_seed(value)` starts.

    Only the low 32 bits of the value count.

    >>> seed(123).words(2)
    array([2991312382, 3062119789], dtype=uint64)
    >>> print(seed(123).uniform(2).round(4))
    [0.2961 0.5166]
    """
    return Stream(value)


class Stream:
    """A place in the sequence of random words; every draw moves it forward.

    It is mutable, unlike everything else here, because the thing it mirrors is: a
    PyTorch program draws from one global generator, and what a draw returns depends on
    the number of words that all draws before it took. Its methods name these draws.
    """

    def __init__(self, value: int) -> None:
        self._engine = np.random.MT19937()
        # RandomState seeds its engine as PyTorch does; a bare MT19937 seeds otherwise.
        start = np.random.RandomState(value & 0xFFFFFFFF).get_state(legacy=False)
        self._engine.state = {"bit_generator": "MT19937", "state": start["state"]}
        self._spare: float | None = None  # the second normal of a pair of few

    def words(self, count: int) -> np.ndarray:
        """Draw raw words (count,) uint64, each below 2**32."""
        return self._engine.random_raw(count)

    def long_words(self, count: int) -> np.ndarray:
        """Draw (count,) uint64 from all 64 bits; the first of two words is the high."""
        high, low = self.words(2 * count).reshape(count, 2).T
        return high << np.uint64(32) | low

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Draw float32 in [low, high): one word each, of which 24 bits count."""
        # PyTorch's compilers fuse the product and the sum into one rounding, as float64
        # does here: its 53 bits hold the product of two float32 exactly.
        first = float(np.float32(low))
        step = float(np.float32(high) - np.float32(low)) * 2**-24
        out = np.empty(_size(shape), np.float32)
        for at in range(0, out.size, _PIECE):
            piece = out[at : at + _PIECE]
            piece[:] = (self.words(piece.size) & np.uint64(0xFFFFFF)) * step + first
        return out.reshape(shape)

    def uniform64(self, shape: Shape) -> np.ndarray:
        """Draw float64 in [0, 1): two words each, of which 53 bits count."""
        bits = self.long_words(_size(shape)) & np.uint64(2**53 - 1)
        return (bits * 2.0**-53).reshape(shape)

    def normal(self, shape: Shape) -> np.ndarray:
        """Draw float32 from N(0, 1) by the method of Box and Muller (1958).

        From 16 numbers on, each 16 uniforms become 16 normals, and where 16 does not
        divide the count the last 16 are drawn again. Fewer than 16 are made in float64,
        two at a time, and a number left over begins the next draw of few.

        >>> print(seed(123).normal(3).round(4))
        [-0.1115 0.1204 -0.3696]
        """
        count = _size(shape)
        if count < 16:
            few = [self._next_of_few() for _ in range(count)]
            return np.array(few, np.float32).reshape(shape)
        out = np.empty(count, np.float32)
        whole = count - count % 16
        for at in range(0, whole, _PIECE):
            piece = out[at : min(at + _PIECE, whole)]
            piece[:] = _normals_of(self.uniform(piece.size))
        if count % 16:
            self.words(count % 16)
            out[-16:] = _normals_of(self.uniform(16))
        return out.reshape(shape)

    def _next_of_few(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        turn, distance = self.uniform64(2)
        angle, radius = 2 * math.pi * turn, math.sqrt(-2 * math.log1p(-distance))
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)

    def exponential(self, shape: Shape) -> np.ndarray:
        """Draw float32 waiting times of rate 1, by inversion in float64."""
        return (-np.log1p(-self.uniform64(shape))).astype(np.float32)

    def gumbel(self, shape: Shape) -> np.ndarray:
        """Draw float32 noise whose sum with logits is largest at a fair choice.

        `argmax(logits + gumbel)` and `multinomial(softmax(logits))` are one choice: the
        noise is minus the logarithm of the exponentials that multinomial divides by.
        """
        return -np.log(self.exponential(shape))

    def multinomial(self, probabilities: np.ndarray) -> np.ndarray:
        """Choose one index per row of (..., V), as `torch.multinomial(p, 1)` does.

        Args:
            probabilities: float32, need not sum to 1; an index at 0 is never chosen.

        >>> chances = np.array([0.1, 0.6, 0.3], np.float32)
        >>> int(seed(123).multinomial(chances))
        1
        """
        return (probabilities / self.exponential(probabilities.shape)).argmax(-1)

    def permutation(self, count: int) -> np.ndarray:
        """Draw an order of range(count), int64, as `torch.randperm(count)` does.

        The shuffle of Fisher and Yates, one word a place (for counts below 2**32 / 20,
        from which on PyTorch takes two).

        >>> seed(123).permutation(5).tolist()
        [2, 0, 1, 3, 4]
        """
        order = list(range(count))
        left = np.arange(count, 1, -1, dtype=np.uint64)  # to choose from at each place
        steps = (self.words(left.size) % left).tolist()
        for place, step in enumerate(steps):
            other = place + step
            order[place], order[other] = order[other], order[place]
        return np.array(order, np.int64)

    def loader_order(self, count: int, *, shuffle: bool = True) -> np.ndarray:
        """Draw the order, int64, in which one pass of a DataLoader visits its items.

        A pass takes one long word for its workers whether it has any or not, then, to
        shuffle, a second one: the seed of a stream of its own. An unshuffled pass, such
        as an evaluation, moves the stream too.

        >>> seed(123).loader_order(5).tolist()
        [3, 1, 0, 2, 4]
        >>> seed(123).loader_order(3, shuffle=False).tolist()
        [0, 1, 2]
        """
        self.long_words(1)
        if not shuffle:
            return np.arange(count)
        return seed(int(self.long_words(1)[0]) % 2**63).permutation(count)

    def keep_mask(self, shape: Shape, drop_rate: float) -> np.ndarray:
        """Draw which values dropout keeps: bool, True = keep.

        The stream of a PyTorch built without Intel's MKL, as on Apple's machines, where
        the notes' figures were printed; with MKL dropout has another stream.

        >>> (2 * seed(123).keep_mask((1, 6), 0.5)).tolist()
        [[2, 2, 0, 2, 2, 0]]
        """
        return self.uniform64(shape) < 1 - drop_rate

    def linear(
        self, inputs: int, outputs: int, *, bias: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw what `torch.nn.Linear(inputs, outputs)` starts with.

        Returns:
            weight: (outputs, inputs) float32, so y = x @ weight.T + bias.
            bias: (outputs,) float32, or None.

        >>> weight, _ = seed(123).linear(4, 5, bias=False)
        >>> print(weight[0].round(4))
        [-0.2039  0.0166 -0.2483  0.1886]
        """
        # He et al. 2015 for a leaky slope of sqrt(5), which is 1 / sqrt(inputs) but for
        # the rounding; the rounding is kept.
        gain = math.sqrt(2 / (1 + math.sqrt(5) ** 2))
        bound = math.sqrt(3) * (gain / math.sqrt(inputs))
        weight = self.uniform((outputs, inputs), -bound, bound)
        if not bias:
            return weight, None
        bound = 1 / math.sqrt(inputs)
        return weight, self.uniform(outputs, -bound, bound)

    def embedding(self, count: int, width: int) -> np.ndarray:
        """Draw what `torch.nn.Embedding(count, width)` starts with: N(0, 1).

        >>> print(seed(123).embedding(6, 3)[3].round(4))
        [-0.4015 0.9666 -1.1481]
        """
        return self.normal((count, width))


def _size(shape: Shape) -> int:
    return math.prod(shape) if isinstance(shape, Sequence) else shape


def _normals_of(uniforms: np.ndarray) -> np.ndarray:
    """Turn float32 uniforms into as many normals, each 16 of them into 8 pairs."""
    distance, turn = uniforms.reshape(-1, 2, 8).swapaxes(0, 1)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - distance))
    angle = np.float32(2 * math.pi) * turn
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)
