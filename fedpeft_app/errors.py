"""Every error a user can meet, as one tree.

FedPeftError
├── ConfigError            a run's or a study's configuration, or a policy, is wrong: every fault
├── UnknownNameError       a name that no registry knows
├── SourceError            a model or data source is missing, unreadable or corrupt
├── DataError              the data cannot do what was asked of it
├── BackboneError          the pre-trained model cannot be loaded or adapted
├── AdapterMismatchError   tensors do not fit the adapter they claim to belong to
├── WireError              a payload is not what it claims to be, or values cannot be encoded
├── TrainingError          local training did not happen, or left nothing finite
├── CapacityError          a model, or a step of its training, does not fit into memory
├── RollCallError          nodes are missing, or differ where they must agree
├── QuorumError            too few good replies in a round
├── NodeStateError         what only a node has is lost, or cannot be kept
├── PrivacyError           a privacy guarantee cannot be given
├── BudgetSpentError       what is asked would spend more privacy than the target allows
├── PolicyError            the owner of a node does not allow a run, or what they allow is not known
├── KeysError              keys cannot be made, or do not belong together
├── RunFolderError         a run's folder is missing, incomplete or not writable
└── LaunchError            a run could not be started, or did not end well

Each message says what was expected, what was found and where, and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class FedPeftError(Exception):
    """Base of every error that fedpeft raises on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with one configuration key.

    Attributes:
        key: The dotted key, as the user writes it.
        value: What was given.
        problem: What is allowed instead, with a hint where there is a near miss.
    """

    key: str
    value: object
    problem: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.problem}"


class ConfigError(FedPeftError):
    """The run configuration is wrong, or a study of many, or what a node's owner allows.

    Args:
        faults: Everything that is wrong with it, at least one.
        where: What is wrong.

    Attributes:
        faults: The same, as a tuple.
    """

    def __init__(self, faults: Sequence[Fault], where: str = "the run configuration") -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(f"{count} in {where}:\n{lines}")


class UnknownNameError(FedPeftError):
    """A name that no registry knows."""


class SourceError(FedPeftError):
    """A model or data source is missing, unreadable or corrupt."""


class DataError(FedPeftError):
    """The data cannot do what was asked of it."""


class BackboneError(FedPeftError):
    """The pre-trained model cannot be loaded or adapted."""


class AdapterMismatchError(FedPeftError):
    """Tensors do not fit the adapter they claim to belong to."""


class WireError(FedPeftError):
    """A payload is not what it claims to be, or values cannot be encoded as asked."""


class TrainingError(FedPeftError):
    """Local training did not happen, or left nothing finite."""


class CapacityError(FedPeftError):
    """A model, or a step of its training, does not fit into a node's memory."""


class RollCallError(FedPeftError):
    """Nodes are missing, or differ where they must agree."""


class QuorumError(FedPeftError):
    """Too few good replies in a round."""


class NodeStateError(FedPeftError):
    """What only a node has is lost, or cannot be kept."""


class PrivacyError(FedPeftError):
    """A privacy guarantee cannot be given."""


class BudgetSpentError(FedPeftError):
    """What is asked would spend more privacy than the target allows."""


class PolicyError(FedPeftError):
    """The owner of a node does not allow a run, or what they allow is not known."""


class KeysError(FedPeftError):
    """Keys cannot be made, or do not belong together."""


class RunFolderError(FedPeftError):
    """A run's folder is missing, incomplete or not writable."""


class LaunchError(FedPeftError):
    """A run could not be started, or did not end well."""


# What these say is about settings, software and a node's records of what it spent and kept;
# the others may name a row, a label, a loss or a number of examples.
WITHOUT_DATA = (
    ConfigError,
    UnknownNameError,
    BackboneError,
    AdapterMismatchError,
    CapacityError,
    NodeStateError,
    PrivacyError,
    BudgetSpentError,
    PolicyError,
)
