"""The examiner: judges states on the server's data."""

import math
import time
from collections.abc import Callable

from fedpeft_app.adapters import AdapterState
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.splits import Splits
from fedpeft_app.data.tasks.task import Metrics, Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.observe.journal import Journal
from fedpeft_app.training.evaluate import evaluate

_PROGRESS_S = 0.5  # seconds between two progress events


class Examiner:
    """Judges states on the server's data.

    Args:
        adapted: The server's model.
        task: Collation and metrics.
        splits: The server's validation and test examples; may be empty.
        batch_size: Examples per forward pass.
        frozen_cache_bytes: As in `FitSettings`.
        journal: Told about progress.

    Attributes:
        task: The task that it judges by.
    """

    def __init__(
        self,
        *,
        adapted: AdaptedModel,
        task: Task,
        splits: Splits,
        batch_size: int,
        journal: Journal,
        frozen_cache_bytes: int = 0,
    ) -> None:
        self.task = task
        self._adapted = adapted
        self._splits = splits
        self._batch_size = batch_size
        self._journal = journal
        self._frozen_cache_bytes = frozen_cache_bytes

    def examine(self, state: AdapterState, split: str, precision: str) -> Metrics:
        """Judge a state.

        Args:
            state: The state; it stays poured into the model.
            split: "validation" or "test".
            precision: "fp32", "bf16" or "fp16".

        Returns:
            Metric → value; empty where there are no examples. What a task gives as NaN or
            infinite is left out, as what is not defined.

        Raises:
            TrainingError: If the model's outputs for that state are not finite.
        """
        if not self.holds(split):
            return {}
        examples: ExampleSet = getattr(self._splits, split)
        self._adapted.pour(state)
        measured = evaluate(
            self._adapted,
            self.task,
            examples,
            batch_size=self._batch_size,
            precision=precision,
            frozen_cache_bytes=self._frozen_cache_bytes,
            progress=self._progress(split),
        )
        return {name: value for name, value in measured.items() if math.isfinite(value)}

    def holds(self, split: str) -> bool:
        """Say whether there are examples of "validation" or "test"."""
        return len(getattr(self._splits, split)) > 0

    def _progress(self, split: str) -> Callable[[float], None]:
        """Note progress now and then."""
        last = time.monotonic()

        def note(share: float) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_S:
                last = time.monotonic()
                self._journal.note("evaluating", split=split, share=round(share, 3))

        return note
