"""What a run sends: counted; or, where a count would tell who was drawn, what was expected."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.costs import weighed
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Traffic of rounds whose cohorts are secret; known before the first one.

    Attributes:
        clients: Nodes of a cohort, q·N.
        down: Bytes of what one of them is sent.
        up: Bytes of what it sends.
    """

    clients: float
    down: int
    up: int

    def rounds(self, count: int) -> dict[str, float]:
        """Give nodes of a round, and bytes of so many rounds in each direction."""
        return {
            "clients": self.clients,
            "down": round(count * self.clients * self.down),
            "up": round(count * self.clients * self.up),
        }


def expected_traffic(
    spec: AdapterSpec, *, uplink: Codec, downlink: Codec, clients: float
) -> Expected:
    """Weigh the messages of a run by values of normal distribution, as `fedpeft plan` does.

    Args:
        spec: The adapter.
        uplink: How whole deltas travel.
        downlink: How the whole state does.
        clients: Nodes that a round expects.

    Guarantee:
        Nothing here depends on what nodes hold or send, whatever codec it is.
    """
    return Expected(
        clients=clients, down=weighed(spec, downlink), up=weighed(trained_spec(spec), uplink)
    )


def summary(ledger: Ledger, expected: Expected | None, rounds: int) -> Mapping[str, Any]:
    """Sum up what a run sent, as its journal has it.

    Args:
        ledger: Every message.
        expected: What stands for it where it is secret; None = it is not.
        rounds: How many there were.
    """
    if expected is not None:
        message = round((expected.down + expected.up) / 2)
        return {
            "expected": expected.rounds(rounds),
            "bytes_per_message": message,
            "times_fewer": ledger.full_message_bytes / message,
        }
    return {
        "down": ledger.total("down"),
        "up": ledger.total("up"),
        "payload": ledger.payload(),
        "bytes_per_message": ledger.mean_message_bytes(),
        "times_fewer": ledger.ratio_to_full(),
    }
