"""What of an error may leave a node. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

from fedpeft_app.errors import WITHOUT_DATA
from fedpeft_app.mirrors import home


def said_of(error: Exception, node_config: Mapping[str, Any], *, discreet: bool) -> str:
    """Put an error into words that may leave the node.

    Args:
        error: What went wrong.
        node_config: The node's own configuration: a node that has a name says it.
        discreet: Whether they must carry nothing of its data; its own log has all of it.
    """
    name = str(node_config.get("name", ""))
    who = f"{name}: " if name else ""
    if not discreet:
        return f"{type(error)}:<'{who}{error}'>"  # as Flower does
    if isinstance(error, WITHOUT_DATA):
        return who + str(error).replace(str(home()), "$FEDPEFT_HOME")
    return (
        f"{who}{type(error).__name__}: what it says may tell of this node's data, which "
        f"privacy.mode hides; the node has it in its own log"
    )
