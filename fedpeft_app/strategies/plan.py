"""How the rounds of a run go: plain settings."""

from dataclasses import dataclass, field

from fedpeft_app.strategies.guard import MEASURED, Numbers
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.codec import Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """How rounds go.

    Attributes:
        rounds: How many.
        seed: The run's seed.
        fraction_train: Share of the nodes that train, in (0, 1].
        fraction_evaluate: Share of the nodes that evaluate, in [0, 1].
        min_replies: Good replies a round needs.
        min_nodes: Nodes that must be connected for a round to begin; 0 = no matter how many.
        timeout_s: Seconds to wait for replies.
        experiment: Name under which nodes keep what they keep.
        keeps: Whether nodes keep something in every round.
        personal: Whether nodes keep parameters of their own.
        cohort: Rule by which nodes are chosen to train.
        dropout: Probability of a chosen node not to report, in [0, 1).
        over_selection: How many times more nodes are asked than replies are used, from 1.
        downlink: How the state travels to nodes.
        feedback: Whether what the downlink lost in one round is sent in the next.
        drawn: Whether nodes can draw the first state for themselves.
        uplink_budget: Bytes of train replies after which rounds end; 0 = no end but the last.
        budget_s: Seconds after which no further round begins; 0 = no end but the last.
        retries: How often more nodes are asked, and those who failed again, where a round has too
            few good replies.
        tolerance: Failures in a row after which a node is left alone for a while; 0 = never.
        norm_bound: Largest norm of an update over the median of its round's; 0 = any.
        numbers: Which metrics of train replies are read.
        chance: Whether the strategy draws each node by itself with some probability. Then nobody
            is asked now and then, and a round counts however few replies there are: whether
            others reply must change nothing of what becomes of one node's.
    """

    rounds: int
    seed: int
    fraction_train: float
    fraction_evaluate: float
    min_replies: int
    timeout_s: float
    min_nodes: int = 0
    experiment: str = ""
    keeps: bool = False
    personal: bool = False
    cohort: str = "uniform"
    dropout: float = 0.0
    over_selection: float = 1.0
    downlink: Codec = field(default_factory=float32)
    feedback: bool = True
    drawn: bool = True
    uplink_budget: int = 0
    budget_s: float = 0.0
    retries: int = 0
    tolerance: int = 0
    norm_bound: float = 0.0
    numbers: Numbers = MEASURED
    chance: bool = False
