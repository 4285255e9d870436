"""fedpeft's ClientApp with nothing to train: a node's delta is a constant, without any torch.

All else is as ever: the order is read, checked and decoded, the delta encoded. It is laid out in
the app as `fedpeft_app/noop_client.py` (`round_overhead`).
"""

from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedpeft_app import client_app
from fedpeft_app.adapters import AdapterState

app = ClientApp()
STEP = np.float32(1e-3)


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Answer as ever: the model is loaded."""
    return client_app.app(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer as ever, but that a worker's training does nothing."""
    from fedpeft_app.training.worker import Worker

    Worker.fit = fit_nothing  # type: ignore[method-assign,assignment]
    return client_app.app(message, context)


def fit_nothing(worker: Any, start: AdapterState, round_number: int, **settings: Any) -> Any:
    """Move every value by the same constant; see `Worker.fit`."""
    from fedpeft_app.training.fit import FitReport
    from fedpeft_app.training.worker import Fitted

    moved = AdapterState(spec=start.spec, vector=np.full_like(start.vector, STEP))
    return Fitted(
        delta=moved,
        personal=worker.adapted.personal.read(),
        report=FitReport(steps=1, examples=len(worker.train), loss=0.0, seconds=0.0),
        control=None,
    )
