"""A message's content as bytes, to hand it from one process of a node to another."""

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto


def to_bytes(content: RecordDict) -> bytes:
    """Write a content, in Flower's own format.

    Args:
        content: As an app has it, or as it came over a connection, with views of what came.
    """
    whole = RecordDict(
        {
            name: _with_bytes(record) if isinstance(record, ArrayRecord) else record
            for name, record in content.items()
        }
    )
    return bytes(recorddict_to_proto(whole).SerializeToString())


def from_bytes(data: bytes) -> RecordDict:
    """Read what `to_bytes` wrote, on the same machine."""
    return recorddict_from_proto(Proto.FromString(data))


def _with_bytes(record: ArrayRecord) -> ArrayRecord:
    """Hold bytes where there are views of them."""
    return ArrayRecord(
        {
            name: Array(
                dtype=array.dtype,
                shape=tuple(array.shape),
                stype=array.stype,
                data=bytes(array.data),
            )
            for name, array in record.items()
        }
    )
