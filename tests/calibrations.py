"""Made-up measurements of a calibration."""

from collections.abc import Sequence

from fedpeft_app.forecast.calibration import Calibration
from fedpeft_app.forecast.rates import Timed


def calibrated(
    seconds: float,
    *,
    load_s: float = 0.0,
    client_grown: Sequence[tuple[int, int]] = ((1, 1),),
    server_bytes: int = 1,
    device_bytes: int = 0,
) -> Calibration:
    """Give what is found where every piece of work is a batch of 16 tokens.

    Args:
        seconds: That each batch takes, of training and of evaluation.
        load_s: Seconds until model and data are there.
        client_grown: Batches done, and bytes that a client has then.
        server_bytes: That the server has.
        device_bytes: That a client has on a GPU.
    """
    piece = Timed(batches=1, tokens=16, wall_s=seconds, cpu_s=seconds)
    return Calibration(
        load_s=load_s,
        training=[piece],
        filling=[],
        node_judging=[],
        around_s=0.0,
        judging_first=[piece],
        judging=[piece],
        judging_exactly=[piece],
        fold_s=0.0,
        client_grown=[*client_grown],
        server_bytes=server_bytes,
        device_bytes=device_bytes,
    )
