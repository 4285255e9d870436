"""A run's folder → its model again, without its data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedpeft_app.adapters import AdapterState
from fedpeft_app.assembly import adapted_model
from fedpeft_app.config import RunConfig, parse
from fedpeft_app.criterion import UNRATED
from fedpeft_app.data.tasks.task import Prediction
from fedpeft_app.data_plan import criterion, make_task
from fedpeft_app.errors import NodeStateError, RunFolderError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.node.memory import PERSONAL, memory_of
from fedpeft_app.run_data import bound_task, processor
from fedpeft_app.runs.checkpoint import Checkpoint, kept_rounds, load_checkpoint
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.training.precision import arithmetic, autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A run's model with a checkpoint poured in.

    Attributes:
        adapted: The model.
        checkpoint: What was poured in.
        personal: One node's own parameters, poured in too; None = as they were drawn.
        processor: The model's tokenizer or image processor.
        labels: Label names in order.
    """

    adapted: AdaptedModel
    checkpoint: Checkpoint
    personal: AdapterState | None
    processor: Any
    labels: tuple[str, ...]


def round_of(run: RunFolder, which: str) -> int:
    """Translate "best", "last" or a number into a round.

    Args:
        run: The run.
        which: "last", a round's number, or "best": what the run itself chose, or, if it did
            not finish, the best by the server's validation data of the rounds that are kept.

    Raises:
        RunFolderError: If the run has no such round.
    """
    kept = kept_rounds(run)
    if not kept:
        raise RunFolderError(f"{run.path} has no checkpoint yet.")
    if which == "last":
        return kept[-1]
    if which == "best":
        finished = [event for event in run.events() if event["event"] == "run_finished"]
        return int(finished[-1]["round"]) if finished else _best_so_far(run, kept)
    if not which.isdecimal():
        raise RunFolderError(f"Expected a round's number, 'best' or 'last', got '{which}'.")
    return int(which)


def restore(
    run: RunFolder, config: RunConfig, round_number: int, node: int | None = None
) -> Restored:
    """Load a run's model as it stood after a round.

    Args:
        run: The run.
        config: Its configuration.
        round_number: Round, from 1.
        node: Partition of the node whose own parameters are poured in; None = nobody's.

    Raises:
        RunFolderError: If the checkpoint or the journal's label names are missing, or nodes
            keep nothing of their own.
        NodeStateError: If this machine does not have the node's own parameters.
        AdapterMismatchError: If the model on this machine is not the one of the run.
    """
    checkpoint = load_checkpoint(run, round_number)
    calls = [event for event in run.events() if event["event"] == "roll_call"]
    if not calls:
        raise RunFolderError(f"The journal of {run.path} does not say which labels it had.")
    labels = tuple(calls[-1]["labels"])
    adapted = adapted_model(config, labels)
    adapted.pour(checkpoint.state)
    own = None if node is None else _own_parameters(run, adapted, round_number, node)
    adapted.personal.pour(own or adapted.personal.initial)
    return Restored(
        adapted=adapted,
        checkpoint=checkpoint,
        personal=own,
        processor=processor(config),
        labels=labels,
    )


def _own_parameters(
    run: RunFolder, adapted: AdaptedModel, round_number: int, node: int
) -> AdapterState:
    """Read what a node kept for itself, as it was when a round ended."""
    if not adapted.personal.parameters:
        raise RunFolderError(
            f"Nodes of {run.path.name} keep nothing of their own, as they do under method.head "
            f"= 'personal' and method.name = 'lora-sa'. Leave --node out."
        )
    memory = memory_of(run.path.name, node)
    counted = {
        event["round"]
        for event in run.events()
        if event["event"] == "round_finished" and str(node) in event["nodes"]
    }
    kept = [version for version in memory.rounds() if version <= round_number]
    kept = [version for version in kept if version in counted]  # rejected replies lie there too
    if not kept:
        found = ", ".join(map(str, memory.rounds())) or "none"
        raise NodeStateError(
            f"Node {node} has no parameters of round {round_number} or before in "
            f"{memory.folder}; kept: {found}. Take --round last, or another node."
        )
    return memory.recall(PERSONAL, adapted.personal.initial, kept[-1])


def predict(restored: Restored, config: RunConfig, inputs: Sequence[str]) -> list[Prediction]:
    """Answer inputs.

    Args:
        restored: The run's model.
        config: The run's configuration.
        inputs: Texts to classify, paths of images, or instructions; at least one.

    Returns:
        An answer to each, in order.

    Raises:
        DataError: If an input cannot be read.
    """
    model = restored.adapted.model.eval()
    where = next(model.parameters()).device
    with autocast(arithmetic(model, "fp32"), where):
        task = bound_task(config, restored.labels)
        return task.predict(model, inputs, config.evaluate.batch_size)


def _best_so_far(run: RunFolder, kept: Sequence[int]) -> int:
    """Choose among the kept rounds of an unfinished run, the last one if none was judged."""
    config = parse(run.config())
    rate = criterion(config, make_task(config)).rate
    best, best_rating = kept[-1], UNRATED
    for round_number in kept:
        validation = load_checkpoint(run, round_number).metrics.get("validation", {})
        if (rating := rate(validation)) > best_rating:
            best, best_rating = round_number, rating
    return best
