"""What a sample's text is drawn with: whole numbers, and choices made of them."""

from unimatrix.data.streams import bit_generator


class Draws:
    """The random choices of one sample, one after the other; a function of seed, task and index alone.

    A sample is written at several sizes until one fits: whoever draws fewer numbers draws the first of them,
    so that what is hidden stays the same at all sizes and all lengths.
    """

    def __init__(self, *, seed: int, task: int, index: int) -> None:
        self._bits = bit_generator("ruler", seed=seed, task=task, index=index)

    def below(self, number: int) -> int:
        """One of 0..number-1."""
        return int(self._bits.random_raw()) % number

    def several_below(self, number: int, count: int) -> list[int]:
        """`count` of 0..number-1, each on its own."""
        return [raw % number for raw in self._bits.random_raw(count).tolist()]

    def some_of(self, number: int, count: int) -> list[int]:
        """`count` different ones of 0..number-1, in random order."""
        moved: dict[int, int] = {}
        chosen = []
        for place, raw in enumerate(self._bits.random_raw(count).tolist()):
            other = place + raw % (number - place)
            chosen.append(moved.get(other, other))
            moved[other] = moved.get(place, place)
        return chosen

    def order(self, number: int) -> list[int]:
        """0..number-1 in random order."""
        return self.some_of(number, number)
