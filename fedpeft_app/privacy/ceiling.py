"""What all runs together may spend of one data set, each of which has a book of its own."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from fedpeft_app.errors import BudgetSpentError, NodeStateError, PrivacyError
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.budget import RowStore
from fedpeft_app.privacy.events import Event

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """ε of everything that ever happened to the data of a node.

    What other runs did is nobody's business but the node's, so errors, which leave it, carry no
    number and no name of theirs; its log has them.

    Attributes:
        most: ε that is never exceeded, above 0.
        delta: δ of that guarantee, in (0, 1).
    """

    most: float
    delta: float

    def require_room(self, books: Iterable[RowStore], event: Event) -> None:
        """Refuse a mechanism that would exceed what all books together may hold.

        Args:
            books: Of all runs. Whoever asks keeps others from writing until it has written.
            event: The mechanism that is about to be written down.

        Raises:
            BudgetSpentError: If it would.
            NodeStateError: If a book is damaged: nobody knows what was spent.
        """
        spent = [one for book in books for one in _events(book)]
        after = epsilon([*spent, event], self.delta)
        if after <= self.most:
            return
        _log.warning(
            "All runs on this node would have spent ε = %.3f at δ = %g with this round, beyond "
            "max-total-epsilon = %g of its policy; it sits out.",
            after,
            self.delta,
            self.most,
        )
        raise BudgetSpentError(
            "This round would bring all runs that ever trained on this node beyond "
            f"max-total-epsilon = {self.most:g} at δ = {self.delta:g}, as its policy has it."
        )


def _events(book: RowStore) -> list[Event]:
    """Read a book, whoever's it is."""
    try:
        return [Event.from_row(row) for row in book.rows()]
    except (NodeStateError, PrivacyError) as error:
        _log.exception("%s counts towards max-total-epsilon, but cannot be read", book.path)
        raise NodeStateError(
            "Expected to read what every run has spent on this node, for max-total-epsilon of its "
            "policy, but one record is damaged; the node's log says which. Nobody knows what is "
            "left: restore it from a backup."
        ) from error
