"""Which work is ordered against which, and which is over: a lane for every stream, and one for the host.

That work runs at once would hide a missing event, so every lane keeps what it knows of the others (vector clocks): work
on memory that another lane wrote, or still reads, raises Race unless an event or a wait of the host lies between. It
would also hide what the host does too early. So a copy to pinned memory goes on until the host waits for it, and no
event behind it is done before that: a loop that only asks for the event does not end.
"""
from collections.abc import Callable
from typing import NamedTuple


class Race(RuntimeError):
    """Two streams use the same memory, one writes, and nothing orders them."""


class Lane:
    """A sequence of work: `tick` counts it, known[other] is how far of another lane's work is over before the next."""

    def __init__(self):
        self.tick, self.known = 0, {}

    def learn(self, known: dict) -> None:
        for lane, tick in known.items():
            self.known[lane] = max(tick, self.known.get(lane, 0))

    def run(self, name: str, reads, writes) -> None:
        """Take the next piece of work, on those blocks of memory."""
        self.tick += 1
        for block in reads:
            self._after(block.written, name)
            block.read[self] = self.tick
        for block in writes:
            self._after(block.written, name)
            for other in block.read.items():
                self._after(other, name)
            block.written, block.read = (self, self.tick), {}

    def _after(self, done, name: str) -> None:
        if done is None or done[0] is self:
            return
        lane, tick = done
        if max(self.known.get(lane, 0), host.known.get(lane, 0)) < tick:
            raise Race(f"{name}: another stream works on the same memory, and no event orders the two")


class Copy(NamedTuple):
    """A copy to pinned memory that goes on: its lane and tick there, where the memory begins, and how it is made."""
    lane: Lane
    tick: int
    place: int
    land: Callable


class Host(Lane):
    """What the host knows to be over."""

    def learn(self, known: dict) -> None:
        super().learn(known)
        _land(under_way(self.known))


def under_way(known: dict) -> list[Copy]:
    """The copies that go on, of those that come before that tick of each lane."""
    return [copy for copy in copies if known.get(copy.lane, 0) >= copy.tick]


def _land(some: list[Copy]) -> None:
    for copy in some:
        copies.remove(copy)
        copy.land()


def land_before(lane: Lane, place: int) -> None:
    """Make the copies to this pinned memory that come before the lane's next work, which reads it. Raises Race."""
    found = [copy for copy in copies if copy.place == place]
    for copy in found:
        lane._after((copy.lane, copy.tick), "a copy from the host")
    _land(found)


copies: list[Copy] = []  # in the order in which they began
host, default_lane = Host(), Lane()
