"""What nodes have of the global state, and the shortest way to what they lack.

With a codec that loses something, the state of record is what nodes decode: both sides add the
same increments, in float32 and in the same order, to the same initial state, so they hold the
same bits. What an increment lost is sent with the next one (error feedback).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from fedpeft_app.adapters import AdapterState
from fedpeft_app.seeds import numpy_generator
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import INCREMENT, MOST_INCREMENTS, STATE, section_of

_MISSING = "missing"
_AROUND = 128  # bytes at most around a section's data: its row in the header, and what fills up
_EXACT = ("float32", "float32+zstd")  # codecs that lose nothing: the state itself is sent


@dataclass(slots=True, kw_only=True)
class Broadcast:
    """The global state as nodes have it.

    Attributes:
        state: The state of record.
        codec: How it travels.
        seed: The run's seed.
        feedback: Whether what an increment lost is sent with the next one.
        drawn: Whether every node can draw the first state for itself, from the run's seed.
        version: How many increments the state is away from what nodes draw.
        seen: Partition → version that the node is known to hold.
    """

    state: AdapterState
    codec: Codec = field(default_factory=float32)
    seed: int = 0
    feedback: bool = True
    drawn: bool = True
    version: int = field(init=False)
    seen: dict[int, int] = field(default_factory=dict)
    _increments: deque[Section] = field(  # the last ones, up to `version`
        default_factory=lambda: deque(maxlen=MOST_INCREMENTS)
    )
    _snapshot: Section | None = None
    _missing: AdapterState | None = None

    def __post_init__(self) -> None:
        """Count from 1 where nobody can draw the first state."""
        self.version = 0 if self.drawn else 1

    @property
    def exact(self) -> bool:
        """Whether nodes get every bit, and so need not keep what they got."""
        return is_exact(self.codec)

    def advance(self, target: AdapterState) -> AdapterState:
        """Bring the state of record as close to a new state as the codec does.

        Args:
            target: What the strategy made of the replies.

        Returns:
            The new state of record.

        Raises:
            WireError: If the codec has no place for the difference.
        """
        self.version += 1
        self._snapshot = None
        if self.exact:
            self.state = target
            return target
        wanted = target.vector - self.state.vector
        if self._missing is not None and self.feedback:
            wanted = wanted + self._missing.vector
        generator = numpy_generator(self.seed, "downlink", round_number=self.version)
        lacking = AdapterState(spec=self.state.spec, vector=wanted)
        section = section_of(f"{INCREMENT}{self.version}", lacking, self.codec, generator)
        gained = section.decode().vector
        self._missing = AdapterState(spec=self.state.spec, vector=wanted - gained)
        self.state = AdapterState(spec=self.state.spec, vector=self.state.vector + gained)
        self._increments.append(section)
        while sum(len(one.data) + _AROUND for one in self._increments) >= self._snapshot_bytes:
            self._increments.popleft()
        return self.state

    def sections(self, member: Member) -> tuple[Section, ...]:
        """Give what a node needs to hold the state: increments where they are fewer bytes."""
        start = self.seen.get(member.partition, 0 if self.drawn else -1)
        lacking = self.version - start
        if not self.exact and start >= 0 and lacking <= len(self._increments):
            return tuple(self._increments)[len(self._increments) - lacking :]
        if self._snapshot is None:
            codec = self.codec if self.exact else float32()
            self._snapshot = section_of(STATE, self.state, codec)
        return (self._snapshot,)

    def arrived(self, member: Member) -> None:
        """Note that a node answered, and so holds the present version."""
        if not self.exact:
            self.seen[member.partition] = self.version

    def lost(self, member: Member) -> None:
        """Note that nobody knows what a node holds; it will be sent everything."""
        if not self.exact:
            self.seen[member.partition] = -1

    def snapshot(self) -> Snapshot:
        """Give what the next round depends on, but for the state.

        What nodes hold is not in it: some may have gone on since, so that nobody knows after a
        crash. They are sent everything once.
        """
        missing = {} if self._missing is None else {_MISSING: self._missing.vector}
        return Snapshot(values={"version": self.version}, arrays=missing)

    def go_on(self, snapshot: Snapshot) -> None:
        """Go on from there, with the state of that time."""
        self.version = snapshot.values["version"]
        if (vector := snapshot.arrays.get(_MISSING)) is not None:
            self._missing = AdapterState(spec=self.state.spec, vector=vector)

    @property
    def _snapshot_bytes(self) -> int:
        """Size of the whole state as a section, in float32."""
        return np.dtype(np.float32).itemsize * self.state.spec.size + _AROUND


def is_exact(codec: Codec) -> bool:
    """Say whether a codec gives back every bit."""
    return codec.name in _EXACT
