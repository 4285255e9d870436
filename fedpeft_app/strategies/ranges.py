"""What a number among an aggregator's or a server optimiser's options may be."""

import math


def require_number(
    name: str, value: object, low: float, high: float, *, or_low: bool = True
) -> None:
    """Refuse an option that is no number between two bounds; JSON may hold anything.

    Args:
        name: The option, as the user writes it.
        value: What was given.
        low: Lower bound.
        high: Upper bound, not allowed itself; so infinity allows every finite number.
        or_low: Whether the lower bound itself is allowed.

    Raises:
        ValueError: If it is no number, or outside; the message names option and range.
    """
    plain = not isinstance(value, bool)  # a bool is an int to Python
    number = value if plain and isinstance(value, int | float) else math.nan
    if low < number < high or (or_low and number == low):  # which NaN never is
        return
    span = f"{'[' if or_low else '('}{low:g}, {high:g})"
    raise ValueError(f"Expected {name} to be a number in {span}, got {value!r}.")


def require_count(name: str, value: object, least: int) -> None:
    """Refuse an option that is no whole number of at least `least`.

    Args:
        name: The option, as the user writes it.
        value: What was given.
        least: The smallest that is allowed.

    Raises:
        ValueError: If it is no whole number, or smaller; the message names option and range.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"Expected {name} to be a whole number from {least}, got {value!r}.")
