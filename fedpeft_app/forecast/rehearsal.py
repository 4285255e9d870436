"""The messages of a run, made before it and sent to nobody: who gets what, and what it weighs.

Cohorts, orders and codecs are those of the run itself, so that their sizes are, too. Values are
made up, and encoded once for each length. Covered: every round in which whoever is asked answers.
Not covered: failures, nodes that come and go, and rounds that end early (`budget`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import RecordDict

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.adapters.state import Vector
from fedpeft_app.assembly import codecs
from fedpeft_app.config import RunConfig
from fedpeft_app.config.readings import options
from fedpeft_app.data_plan import make_task
from fedpeft_app.environment import software
from fedpeft_app.forecast.work import Crew, Work, told_of
from fedpeft_app.round_plan import round_plan
from fedpeft_app.strategies.broadcast import Broadcast, is_exact
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.dropouts import dropped
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.roll_call import ROLL_CALL, Presence
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Assignment, Member, Strategy
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.codec import Codec, Data
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import (
    CONTROL,
    DELTA,
    EPSILON,
    NOISE,
    SAMPLING,
    STEPS,
    UNAMPLIFIED,
    Update,
    write_facts,
    write_update,
)
from fedpeft_app.wire.scales import Scales

_DIGEST = "0" * 16  # as long as every fingerprint
_PROCESS = "0" * 12  # and as the name of a process
_TRAIN, _EVALUATE = "train", "evaluate"
_FOLDER = "20260101T000000Z-{}-00000000"  # as long as the name of a run's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An order and its answer.

    Attributes:
        node: The node's partition.
        down: Bytes of the order as Flower serialises it.
        up: Bytes of the answer.
        payload: Those of both that are encoded states.
        work: What the node did for it; of evaluation, nothing is said.
    """

    node: int
    down: int
    up: int
    payload: int
    work: Work | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The messages of a round.

    Attributes:
        number: Round, from 1.
        trained: Of those who train.
        judged: Of those who judge what became of it.
    """

    number: int
    trained: Sequence[Exchange]
    judged: Sequence[Exchange]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The messages of a run.

    Attributes:
        roll_call: Of the roll call.
        rounds: Of every round.
        exact: Whether sizes follow from the adapter alone; else from its values, too.
    """

    roll_call: Sequence[Exchange]
    rounds: Sequence[Round]
    exact: bool

    @property
    def messages(self) -> Iterator[Exchange]:
        """All of them."""
        yield from self.roll_call
        for one in self.rounds:
            yield from (*one.trained, *one.judged)


def rehearse(
    config: RunConfig, crew: Crew, spec: AdapterSpec, *, personal: bool, labels: Sequence[str]
) -> Rehearsal:
    """Go through a federated run, and weigh its messages.

    Args:
        config: The run's configuration; its cohorts are no secret.
        crew: Its nodes.
        spec: Its adapter.
        personal: Whether nodes keep parameters of their own.
        labels: Label names.
    """
    stage = _Stage(config=config, crew=crew, spec=spec, personal=personal)
    return Rehearsal(
        roll_call=[stage.present(own.partition, labels) for own in crew.data],
        rounds=[stage.round(number) for number in range(1, config.rounds + 1)],
        exact=stage.exact,
    )


@dataclass
class _Unchanging:
    """A codec that writes every vector as it wrote a made-up one of that length."""

    codec: Codec
    _written: dict[int, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The codec's own name."""
        return self.codec.name

    def encode(self, vector: Vector, generator: np.random.Generator) -> bytes:
        """Give what was written of normally distributed values."""
        size = len(vector)
        if size not in self._written:
            drawn = np.random.default_rng(0)
            values = drawn.standard_normal(size, dtype=np.float32)
            self._written[size] = self.codec.encode(values, drawn)
        return self._written[size]

    def decode(self, data: Data, size: int) -> Vector:
        """Give zeros."""
        return np.zeros(size, dtype=np.float32)

    def most_bytes(self, size: int) -> int:
        """As the codec."""
        return self.codec.most_bytes(size)

    def section(self, name: str, spec: AdapterSpec) -> Section:
        """Write a vector of a spec."""
        nothing = np.broadcast_to(np.float32(0), (spec.size,))
        data = self.encode(nothing, np.random.default_rng(0))
        return Section(name=name, spec=spec, codec=self, data=data)

    def is_fixed(self, size: int) -> bool:
        """Say whether the length of what it writes follows from that of a vector alone."""
        if self.codec.name == "float32":
            return True
        zeros = self.codec.encode(np.zeros(size, np.float32), np.random.default_rng(0))
        made_up = self.encode(np.zeros(size, np.float32), np.random.default_rng(0))
        return len(zeros) == len(made_up) == self.codec.most_bytes(size)


class _Stage:
    """A server without a network, and nodes without a model."""

    def __init__(self, *, config: RunConfig, crew: Crew, spec: AdapterSpec, personal: bool) -> None:
        self._config, self._crew = config, crew
        uplink, downlink = map(_Unchanging, codecs(config))
        self._uplink = uplink
        self._scales = Scales()
        self._plan: RoundPlan = round_plan(
            config, experiment=_FOLDER.format(config.output.name), personal=personal
        )
        values = np.random.default_rng(0).standard_normal(spec.size, dtype=np.float32)
        self._courier = Courier(
            broadcast=Broadcast(
                state=AdapterState(spec=spec, vector=values),
                codec=downlink,
                seed=config.seed,
                feedback=False,
                drawn=self._plan.drawn,
            ),
            versions=Versions(
                experiment=self._plan.experiment, keeps=self._plan.keeps, personal=personal
            ),
        )
        self._strategy: Strategy = make_strategy(
            config.strategy.name, options(config.strategy.options), seed=config.seed
        )
        self._strategy.prepare(spec, crew.members)
        self.exact = (
            uplink.is_fixed(trained_spec(spec).size)
            and downlink.is_fixed(spec.size)
            and config.strategy.over_selection == 1.0  # which of the replies come in time?
            and not config.strategy.fraction_evaluate  # what is undefined on a node is not told
        )

    def present(self, node: int, labels: Sequence[str]) -> Exchange:
        """Call a node's name."""
        member = self._crew.members[node]
        agreed = dict.fromkeys(("backbone", "processor", "adapter", "personal"), _DIGEST)
        drawn = "" if is_exact(self._courier.broadcast.codec) else _DIGEST
        there = Presence(
            partition=node,
            examples=member.examples,
            rank=member.rank,
            labels=tuple(labels),
            agreed={**software(), **agreed, "frozen": "", "start": drawn},
        )
        down = self._scales.order(RecordDict(), ROLL_CALL, 0)
        up = self._scales.reply(write_facts(there.to_facts()), ROLL_CALL, 0)
        return Exchange(node=node, down=down, up=up, payload=0)

    def round(self, number: int) -> Round:
        """Rehearse a round."""
        tasks = self._tasks(number)
        contents = self._courier.contents(number, tasks)
        trained = [
            self._training(member, number, tasks[member], content)
            for member, content in contents.items()
        ]
        self._courier.note_arrivals(dict.fromkeys(tasks, True))
        versions, broadcast = self._courier.versions, self._courier.broadcast
        versions.note_received(number, tasks)
        versions.accepted.update((member.partition, number) for member in tasks)
        broadcast.advance(broadcast.state)
        return Round(number=number, trained=trained, judged=self._judging(number))

    def _tasks(self, number: int) -> dict[Member, Assignment]:
        """Draw who trains what, as the run will."""
        plan, state = self._plan, self._courier.broadcast.state
        cohort = sample_cohort(
            self._crew.members,
            rule=plan.cohort,
            fraction=plan.fraction_train,
            minimum=plan.min_replies,
            over_selection=plan.over_selection,
            seed=plan.seed,
            round_number=number,
        )
        chosen = self._strategy.configure(number, state, cohort)
        asked = [member for member in cohort if member.node_id in chosen]
        gone = dropped(asked, plan.dropout, seed=plan.seed, round_number=number)
        return {member: chosen[member.node_id] for member in asked if member not in gone}

    def _training(
        self, member: Member, number: int, task: Assignment, order: RecordDict
    ) -> Exchange:
        """Weigh what a node is sent, and what it sends back."""
        epochs = int(task.options.get("epochs", 0))
        work = self._crew.trains(member.partition, number, epochs)
        spec = task.state.spec
        sections = [self._uplink.section(DELTA, trained_spec(spec, task.part))]
        if CONTROL in task.extras:
            sections.append(_Unchanging(float32()).section(CONTROL, task.extras[CONTROL].spec))
        answer = write_update(
            Update(
                spec=spec,
                sections=sections,
                round_number=number,
                metrics=self._told(member.partition, work),
                facts={
                    "process": _PROCESS,
                    "backbone-loads": 1,
                    "threads": 1,
                    "layers-skipped": 1,
                },
            )
        )
        return self._weighed(member, _TRAIN, number, order, answer, work)

    def _told(self, node: int, work: Work) -> Mapping[str, float]:
        """Give the numbers of a reply as long as they will be."""
        held = len(self._crew.data[node].train)
        if self._config.privacy.mode == "none":
            return told_of(work, held)
        spent = dict.fromkeys((EPSILON, UNAMPLIFIED, NOISE, SAMPLING), 1.5)
        count = held if self._config.privacy.public_counts else 1
        base = self._courier.versions.accepted.get(node, 0)
        return {"num-examples": count, **spent, STEPS: work.steps * (1 + (base > 0))}

    def _judging(self, number: int) -> list[Exchange]:
        """Rehearse that nodes judge what became of a round."""
        if not self._plan.fraction_evaluate:
            return []
        judges = sample_cohort(
            self._crew.members,
            fraction=self._plan.fraction_evaluate,
            minimum=1,
            seed=self._plan.seed,
            round_number=0,
            purpose="evaluation-cohort",
        )
        state = self._courier.broadcast.state
        ranked = [member for member in judges if member.rank]
        own = self._strategy.configure(number, state, ranked) if ranked else {}
        tasks = {
            member: Assignment(state=own[member.node_id].state if member.rank else state)
            for member in judges
        }
        contents = self._courier.contents(number, tasks)
        self._courier.note_arrivals(dict.fromkeys(tasks, True))
        return [self._judgement(member, number, order) for member, order in contents.items()]

    def _judgement(self, member: Member, number: int, order: RecordDict) -> Exchange:
        """Weigh what a node that judges is sent, and what it answers."""
        data = self._crew.data[member.partition]
        names = make_task(self._config).metric_names
        told = dict.fromkeys(names, 1.5)
        if len(data.test):
            told |= dict.fromkeys((f"test.{name}" for name in names), 1.5)
        answer = write_facts({}, {**told, "num-examples": len(data.held_out)})
        return self._weighed(member, _EVALUATE, number, order, answer)

    def _weighed(
        self,
        member: Member,
        kind: str,
        number: int,
        order: RecordDict,
        answer: RecordDict,
        work: Work | None = None,
    ) -> Exchange:
        """Put both messages on the scales."""
        return Exchange(
            node=member.partition,
            down=self._scales.order(order, kind, number),
            up=self._scales.reply(answer, kind, number),
            payload=_payload(order) + _payload(answer),
            work=work,
        )


def _payload(content: RecordDict) -> int:
    """Count the bytes of encoded states."""
    records = content.array_records.values()
    return sum(len(array.data) for record in records for array in record.values())
