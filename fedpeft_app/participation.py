"""A node's part in a round: what came in, what it kept, what it sends, and what it keeps now.

What it keeps has the version that the server knows of (`node.memory`): its personal
parameters, without which it cannot go on; what its codec left out so far, and its control
variate, which start again from zero where they are lost; and the global state as it last
decoded it, instead of which the server sends the whole state once.
"""

import json
import logging
import math
from dataclasses import dataclass, replace

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.algebra import difference, digest_of
from fedpeft_app.adapters.bounds import beyond
from fedpeft_app.adapters.parts import replaced, taken, trained_spec
from fedpeft_app.adapters.ranks import cut, padded
from fedpeft_app.data.tasks.task import Metrics
from fedpeft_app.errors import AdapterMismatchError, NodeStateError, PrivacyError, TrainingError
from fedpeft_app.node.memory import BROADCAST, PERSONAL, RESIDUAL, NodeMemory, memory_of
from fedpeft_app.node_privacy import SampleLevel
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.seeds import numpy_generator
from fedpeft_app.training.worker import Fitted, Worker, process_facts
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.feedback import encode_with_feedback
from fedpeft_app.wire.kept import pack, unpack
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import CONTROL, DELTA, INCREMENT, STATE, Order, Update, section_of

_NODE_EXTRAS = frozenset({CONTROL})
_SAID_OF_TRAINING = ("trains", "epochs", "proximal-mu")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """One node and one order.

    Attributes:
        worker: The node.
        order: What the server asks of it.
        uplink: How its update travels.
        feedback: Whether what the uplink loses is sent in a later round.
        protection: How the node protects its examples from everyone; None = not at all.
        discreet: Whether nothing may be told of its data but the delta.
    """

    worker: Worker
    order: Order
    uplink: Codec
    feedback: bool
    protection: SampleLevel | None = None
    discreet: bool = False

    def train(self) -> Update:
        """Train from the global state, and encode the delta.

        Raises:
            FedPeftError: If the order cannot be carried out; nothing of its training is kept.
        """
        start = self._start()
        if self.protection is None:
            return self._trained(self._task(start))
        return self._trained_once(start, self.protection)

    def _trained_once(self, start: AdapterState, protection: SampleLevel) -> Update:
        """Train under differential privacy; what was sent already is sent again, for nothing.

        One order after the other, with all of its training: where a node is asked the same while
        it is still at work on it, the second order waits for the reply of the first.

        Raises:
            BudgetSpentError: If the node has no more to spend.
            NodeStateError: If nobody knows any more what it has spent, or it is at work on another
                order for too long.
            PrivacyError: If δ is too large for the node's examples, or no noise keeps to the
                target.
        """
        worker, order = self.worker, self.order
        experiment, partition, examples = self._experiment, worker.partition, len(worker.train)
        protection.require(examples)
        budget, question = protection.budget(experiment, partition), self._question(start)
        outbox = protection.outbox(experiment, partition)
        with budget.book.held(protection.wait_s):
            budget.require_round(max(self._base, int(order.options.get("received", 0))))
            if (kept := outbox.recall(question)) is not None:
                return unpack(kept, order.spec)
            task = self._task(start)
            event = protection.event(examples, worker.settings, task.epochs)
            protection.spend(budget, event, order.round_number)  # whatever happens from here on
            mechanism = protection.mechanism(event, order.round_number, partition)
            update = self._trained(task, mechanism)
            update = replace(update, metrics=protection.told(budget, examples))
            outbox.keep(question, pack(update))
            return update

    def _question(self, start: AdapterState) -> str:
        """Tell orders apart: the same round anew, but from another state, is another one."""
        told = {key: self.order.options.get(key) for key in _SAID_OF_TRAINING}
        return json.dumps([self.order.round_number, digest_of(start), told], sort_keys=True)

    def _task(self, start: AdapterState) -> "_Task":
        """Look at all of the order, and recall what it goes on from, before anything is done."""
        order, options = self.order, self.order.options
        part, epochs = str(options.get("trains", "")), int(options.get("epochs", 0))
        proximal = float(options.get("proximal-mu", 0.0))
        if epochs < 0 or not 0 <= proximal < math.inf:
            raise TrainingError(
                f"Expected an order with epochs and proximal-mu from 0, got {epochs} and "
                f"{proximal}. Look at the strategy that wrote it."
            )
        whole, trained = trained_spec(order.spec), trained_spec(order.spec, part)
        extras = self._extras(whole)
        own_control = self._own_control(extras)
        return _Task(
            start=padded(start, self.worker.adapted.spec),
            part=part,
            trained=trained,
            epochs=epochs,
            proximal=proximal,
            personal=self._personal(),
            residual=self._recalled(RESIDUAL, whole) if self.feedback else None,
            own_control=own_control,
            control=own_control and taken(difference(extras[CONTROL], own_control), trained),
        )

    def _trained(self, task: "_Task", mechanism: Mechanism | None = None) -> Update:
        """Train, and encode the delta."""
        worker, order = self.worker, self.order
        fitted = worker.fit(
            task.start,
            order.round_number,
            personal=task.personal,
            epochs=task.epochs,
            part=task.part,
            proximal=task.proximal,
            control=task.control,
            mechanism=mechanism,
        )
        section, residual = self._encoded(cut(fitted.delta, task.trained), task.residual)
        kept = {PERSONAL: fitted.personal} if worker.adapted.personal.parameters else {}
        if residual is not None:
            kept[RESIDUAL] = residual
        sections = [section]
        if task.own_control is not None and fitted.control is not None:
            kept[CONTROL] = replaced(task.own_control, fitted.control)
            sections.append(section_of(CONTROL, difference(kept[CONTROL], task.own_control)))
        if kept:
            self._memory().keep(kept, order.round_number, self._base)
        return Update(
            spec=order.spec,
            sections=sections,
            round_number=order.round_number,
            metrics={"num-examples": 1.0} if self.discreet else _numbers(worker, fitted),
            facts=process_facts() | ({} if self.discreet else _of_the_work(fitted)),
        )

    def evaluate(self, steps: int) -> Metrics:
        """Judge the global state on what the node holds out.

        Args:
            steps: Optimizer steps for itself first.

        Raises:
            FedPeftError: If the order cannot be carried out.
        """
        if self.discreet:
            raise PrivacyError("This node does not tell how a model does on its data.")
        start = padded(self._start(), self.worker.adapted.spec)
        return self.worker.evaluate(
            start, self.order.round_number, personal=self._personal(), steps=steps
        )

    # ------------------------------------------------------------ what comes in

    def _start(self) -> AdapterState:
        """Decode the global state, or bring the one that the node has up to date."""
        increments = [one for one in self.order.sections if one.name.startswith(INCREMENT)]
        if (whole := self.order.section(STATE)) is not None:
            state = whole.decode()
        else:
            state = self._brought_up_to_date(increments)
        _require_bounded("state", state)
        if self._version > 0 and (whole or increments):  # otherwise it lies there already
            self._memory(BROADCAST).keep({BROADCAST: state}, self._version, self._version)
        return state

    def _brought_up_to_date(self, increments: list[Section]) -> AdapterState:
        """Add the increments to the state that the node decoded last."""
        first = self._version - len(increments) + 1
        names = [f"{INCREMENT}{number}" for number in range(first, self._version + 1)]
        if first < 1 or [one.name for one in increments] != names:
            raise AdapterMismatchError(
                f"Expected a state, or the increments that lead to version {self._version} of it, "
                f"got {[one.name for one in self.order.sections]}."
            )
        memory, initial = self._memory(BROADCAST), self.worker.adapted.initial
        state = memory.recall(BROADCAST, initial, first - 1)
        for increment in increments:
            state = AdapterState(spec=state.spec, vector=state.vector + increment.decode().vector)
        return state

    def _extras(self, spec: AdapterSpec) -> dict[str, AdapterState]:
        """Decode what else the strategy sent, and refuse what this node cannot use."""
        found = {
            one.name: one.decode()
            for one in self.order.sections
            if one.name != STATE and not one.name.startswith(INCREMENT)
        }
        if wrong := {
            name
            for name, state in found.items()
            if name not in _NODE_EXTRAS or state.spec.fingerprint != spec.fingerprint
        }:
            raise AdapterMismatchError(
                f"The order carries {sorted(wrong)}, with which this node can do nothing. It "
                f"knows: {', '.join(sorted(_NODE_EXTRAS))}, of the tensors that it trains."
            )
        for name, state in found.items():
            _require_bounded(name, state)
        if found and self.discreet:
            raise PrivacyError(f"The order asks for more than a delta: {', '.join(sorted(found))}.")
        return found

    # ------------------------------------------------------------ what the node kept

    @property
    def _version(self) -> int:
        """The version of the global state that the order leads to; -1 = versions do not count."""
        return int(self.order.options.get("version", -1))

    @property
    def _base(self) -> int:
        """The round of the node's last reply that counted; 0 = none yet."""
        return int(self.order.options.get("base", 0))

    @property
    def _experiment(self) -> str:
        """The name under which the node keeps what it keeps."""
        if "experiment" not in self.order.options:
            raise NodeStateError(
                "The order does not say under which name this node keeps what it has for itself; "
                "the server runs another version of fedpeft, or another strategy loop."
            )
        return str(self.order.options["experiment"])

    def _memory(self, kind: str = "") -> NodeMemory:
        """Open the node's memory in the experiment that the order names."""
        return memory_of(self._experiment, self.worker.partition, kind)

    def _personal(self) -> AdapterState | None:
        """Recall the node's own parameters, if it has any."""
        personal = self.worker.adapted.personal
        if not personal.parameters:
            return None
        return self._memory().recall(PERSONAL, personal.initial, self._base)

    def _own_control(self, extras: dict[str, AdapterState]) -> AdapterState | None:
        """Recall the node's control variate c_i; None where the order carries no c."""
        return self._recalled(CONTROL, extras[CONTROL].spec) if CONTROL in extras else None

    def _recalled(self, name: str, spec: AdapterSpec) -> AdapterState:
        """Recall what may be lost without harm: zeros stand for it then, as at the start."""
        zeros = AdapterState.zeros(spec)
        memory = self._memory()
        try:
            return memory.recall(name, zeros, self._base)
        except NodeStateError as error:
            _log.warning("Node %d starts again from zero: %s", self.worker.partition, error)
            return zeros

    # ------------------------------------------------------------ what goes out

    def _encoded(
        self, delta: AdapterState, residual: AdapterState | None
    ) -> tuple[Section, AdapterState | None]:
        """Encode a delta; give what is still to be sent of it and of earlier ones, if any."""
        generator = numpy_generator(
            self.worker.settings.seed,
            "uplink",
            round_number=self.order.round_number,
            partition=self.worker.partition,
        )
        if residual is None:
            return section_of(DELTA, delta, self.uplink, generator), None
        data, left = encode_with_feedback(
            self.uplink, delta.vector, taken(residual, delta.spec).vector, generator
        )
        section = Section(name=DELTA, spec=delta.spec, codec=self.uplink, data=data)
        return section, replaced(residual, AdapterState(spec=delta.spec, vector=left))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """An order in which nothing is wrong, with all that the node needs to carry it out.

    Attributes:
        start: The state to train from, in the rank of the node's model.
        part: Which part of it trains.
        trained: That part, in the rank of the order.
        epochs: Passes over the data; 0 = as in the settings.
        proximal: FedProx's μ; 0 = none.
        personal: The node's own parameters, if it has any.
        residual: What its codec left out so far, if that is sent later.
        own_control: Its control variate c_i, if the strategy has some.
        control: c − c_i, likewise, of what trains.
    """

    start: AdapterState
    part: str
    trained: AdapterSpec
    epochs: int
    proximal: float
    personal: AdapterState | None
    residual: AdapterState | None
    own_control: AdapterState | None
    control: AdapterState | None


def _require_bounded(name: str, state: AdapterState) -> None:
    """Refuse a state from which no training goes on."""
    if problem := beyond(state):
        raise AdapterMismatchError(f"The order carries a {name} with {problem}.")


def _of_the_work(fitted: Fitted) -> dict[str, str | int]:
    """Say how the work was done."""
    return {"layers-skipped": fitted.report.layers_skipped}


def _numbers(worker: Worker, fitted: Fitted) -> dict[str, float]:
    """Collect the metrics of a train reply."""
    return {
        "num-examples": len(worker.train),
        "examples-trained": fitted.report.examples,
        "steps": fitted.report.steps,
        "loss": fitted.report.loss,
        "seconds": fitted.report.seconds,
    }
