"""How a node protects its examples: what it writes down before it trains, and how little it tells.

Sample level: whoever gets what the node sends is not trusted, so all is decided here.
"""

from dataclasses import dataclass

from fedpeft_app.node import shelf
from fedpeft_app.node.book import Book
from fedpeft_app.node.memory import PRIVACY, REPLY, SPENT, memory_of
from fedpeft_app.node.outbox import Outbox
from fedpeft_app.privacy.budget import Budget, least_noise, require_small
from fedpeft_app.privacy.ceiling import Ceiling
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.privacy.randomness import randomness
from fedpeft_app.privacy.spent import spent_by
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.private import schedule
from fedpeft_app.wire.record import EPSILON, NOISE, SAMPLING, STEPS, UNAMPLIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLevel:
    """DP-SGD on one node, for a whole run.

    Attributes:
        delta: δ, in (0, 1), below 1 over the number of the node's examples.
        target: ε that the node stays within; 0 = none is set.
        clipping_norm: C, of an example's gradient over all tensors that train.
        noise: z; 0 = the least that keeps to the target if the node trains in every round.
        public_counts: Whether it may be known how many examples the node holds.
        unsafe_seed: Seed of noise and batches, for tests; below 0 = secure randomness.
        wait_s: Seconds that an order waits for an earlier one, of which it may ask the same; the
            server's own time-out will do: nobody waits for the reply any longer.
        ceiling: What all runs together may spend on this node; None = its owner set no limit.
    """

    delta: float
    target: float = 0.0
    clipping_norm: float = 1.0
    noise: float = 0.0
    public_counts: bool = False
    unsafe_seed: int = -1
    wait_s: float = 3600.0
    ceiling: Ceiling | None = None

    def require(self, examples: int) -> None:
        """Refuse a δ that would allow to publish an example outright.

        Raises:
            PrivacyError: If δ is not below 1 / examples.
        """
        count = f"the {examples} examples" if self.public_counts else "the number of examples"
        require_small(self.delta, examples, f"{count} of this node")

    def budget(self, experiment: str, partition: int) -> Budget:
        """Open what a node may spend in an experiment, and what it has."""
        folder = memory_of(experiment, partition, PRIVACY).folder
        return Budget(book=Book(path=folder / SPENT), delta=self.delta, target=self.target)

    def outbox(self, experiment: str, partition: int) -> Outbox:
        """Open what keeps a node's last reply."""
        return Outbox(path=memory_of(experiment, partition, PRIVACY).folder / REPLY)

    def event(self, examples: int, settings: FitSettings, epochs: int = 0) -> Event:
        """Say what one round of training spends.

        Args:
            examples: Training examples of the node.
            settings: How it trains.
            epochs: Passes over the data in this round; 0 = as in the settings.

        Raises:
            PrivacyError: If no noise keeps to the target.
        """
        sampling, steps = schedule(examples, settings)
        noise = self.noise or least_noise(
            self.target, self.delta, sampling, steps * settings.rounds
        )
        _, taken = schedule(examples, settings, epochs)
        return Event(noise_multiplier=noise, sampling=sampling, steps=taken)

    def spend(self, budget: Budget, event: Event, round_number: int) -> None:
        """Write down what a round spends; only then may it train.

        Args:
            budget: What the node may spend in this run, and has.
            event: What it is about to spend.
            round_number: The round, from 1.

        Raises:
            BudgetSpentError: If the run's target or the owner's limit would be exceeded; nothing
                is written then.
            NodeStateError: If it cannot be written, or nobody knows what was spent before.
        """
        if self.ceiling is None:
            budget.spend(event, round_number)
            return
        with shelf.held(self.wait_s):  # what is counted is all there is when the row is written
            self.ceiling.require_room(shelf.books(), event)
            budget.spend(event, round_number)

    def mechanism(self, event: Event, round_number: int, partition: int) -> Mechanism:
        """Give what a round that has been written down may use."""
        return Mechanism(
            event=event,
            clipping_norm=self.clipping_norm,
            randomness=randomness(
                self.unsafe_seed, "dp-sgd", round_number=round_number, partition=partition
            ),
        )

    def told(self, budget: Budget, examples: int) -> dict[str, float]:
        """List all that a node says of itself in a reply.

        Noise, sampling and steps tell no more than both ε do: whoever knows the run's settings
        finds the number of examples, and with it all three, by trying which gives these ε.

        Args:
            budget: What it has spent, at least one event.
            examples: Its training examples.
        """
        counts = {"num-examples": examples if self.public_counts else 1}
        spent = spent_by(budget.events(), budget.delta)
        return {
            **counts,
            EPSILON: spent.epsilon,
            UNAMPLIFIED: spent.unamplified,
            NOISE: spent.noise_multiplier,
            SAMPLING: spent.sampling,
            STEPS: spent.steps,
        }
