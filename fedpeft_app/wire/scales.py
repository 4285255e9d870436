"""Scales for messages that are not sent: what each would weigh as Flower serialises it.

A message is its content and an envelope of metadata. The content's size follows from what it
carries. In the envelope are random numbers (of the run, and of the node), which Flower writes in
as few bytes as each takes: nine or ten of 64 bits. So a message may weigh `VARIES_BYTES` more or
less than is said here; the least likely are off by more.
"""

from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata

from fedpeft_app.wire.record import content_bytes

VARIES_BYTES = 3  # the numbers of run, task and node, each a byte more or less
_RUN, _NODE, _SERVER, _TASK = 2**63, 2**62, 1, 2**62  # half of all 64-bit numbers take a byte more
_MESSAGE_ID = "0" * 36  # a UUID, in Flower's simulation and in its SuperLink
_TTL_S = 43_200.5  # some time; every one but 0 takes eight bytes
_MEASURABLE = 2**28  # bytes; a larger payload weighs as much more as it is longer


@dataclass(slots=True)
class Scales:
    """Weighs contents; payloads of one length only once, for their hashes take time."""

    _payloads: dict[int, int] = field(default_factory=dict)

    def order(self, content: RecordDict, kind: str, round_number: int) -> int:
        """Weigh what the server sends.

        Args:
            content: As `Courier.contents` gives it.
            kind: Flower's message type.
            round_number: Round, from 1; 0 = before the first.

        Returns:
            Bytes, envelope included.
        """
        return self._content(content) + _envelope(kind, round_number, reply=False)

    def reply(self, content: RecordDict, kind: str, round_number: int) -> int:
        """Weigh what a node answers, likewise."""
        return self._content(content) + _envelope(kind, round_number, reply=True)

    def _content(self, content: RecordDict) -> int:
        """Weigh a content: what is around its payloads, and each of these by its length."""
        around = RecordDict(
            {
                name: ArrayRecord({}) if isinstance(record, ArrayRecord) else record
                for name, record in content.items()
            }
        )
        payloads = [
            (name, array)
            for record in content.array_records.values()
            for name, array in record.items()
        ]
        return content_bytes(around) + sum(self._payload(*each) for each in payloads)

    def _payload(self, name: str, array: Array) -> int:
        """Weigh what an array adds to the record that it is in."""
        length = len(array.data)
        if length not in self._payloads:
            built = min(length, _MEASURABLE)
            data = array.data[:built]
            some = Array(dtype=array.dtype, shape=(built,), stype=array.stype, data=bytes(data))
            added = content_bytes(_holding({name: some})) - content_bytes(_holding({}))
            self._payloads[length] = round(added * length / built) if length else added
        return self._payloads[length]


def _holding(arrays: dict[str, Array]) -> RecordDict:
    """Hold arrays in a content that has nothing else."""
    return RecordDict({"arrays": ArrayRecord(arrays)})


def _envelope(kind: str, round_number: int, *, reply: bool) -> int:
    """Weigh a message without its content."""
    metadata = Metadata(
        run_id=_RUN,
        message_id="",
        src_node_id=_NODE if reply else _SERVER,
        dst_node_id=_SERVER if reply else _NODE,
        reply_to_message_id=_MESSAGE_ID if reply else "",
        group_id=str(round_number) if round_number else "",
        created_at=_TTL_S,
        ttl=_TTL_S,
        message_type=kind,
        src_task_id=None if reply else _TASK,
        dst_task_id=_TASK if reply else None,
    )
    empty: Message = make_message(metadata=metadata, content=RecordDict())
    return len(empty.deflate())
