"""Keys and certificates of a federation: who may say that it is the server, or a node."""

from fedpeft_app.keys.commands import (
    connection_table,
    register_command,
    superlink_command,
    supernode_command,
)
from fedpeft_app.keys.folder import KeyFolder, Made, make_keys

__all__ = [
    "KeyFolder",
    "Made",
    "connection_table",
    "make_keys",
    "register_command",
    "superlink_command",
    "supernode_command",
]
