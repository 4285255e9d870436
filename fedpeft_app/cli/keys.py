"""`fedpeft keys`: make keys, and say what to do with them, in commands that can be copied."""

import datetime as dt
import shlex
from pathlib import Path

from rich.console import Console

from fedpeft_app.keys import (
    Made,
    connection_table,
    make_keys,
    register_command,
    superlink_command,
    supernode_command,
)
from fedpeft_app.keys.commands import CA, NODE_PUBLIC, address_of
from fedpeft_app.keys.parties import checked_connection

_SOON = dt.timedelta(days=30)
_DATA = 'data-path="/data/private.csv"'  # a node's owner writes what is true there
_HERE = Path()  # commands are run in the folder that a party got
_DATABASE = "superlink.db"
_LOOPBACK = "127.0.0.1"
_DOOR = (
    "MIND: whoever reaches the SuperLink's own port can run code on every node, for Flower asks "
    "nobody there who he is. So it listens on this machine alone, and nginx (deploy/nginx.conf) "
    "lets nodes in on port {node_port}. To open it all the same, to a network that you trust: "
    "--host 0.0.0.0; nodes then dial port {port}."
)


def print_keys(
    path: Path,
    hosts: list[str],
    nodes: list[str],
    console: Console,
    *,
    renew: bool,
    port: int,
    node_port: int,
    connection: str,
) -> None:
    """Make the keys of a federation and print the commands that use them.

    Args:
        path: Folder of the keys.
        hosts: Names and addresses of the server.
        nodes: Names of nodes.
        console: Where to print.
        renew: Whether to certify the server anew.
        port: Of the SuperLink, on the server's loopback.
        node_port: That nodes dial: nginx's.
        connection: What to call the server in Flower's configuration.

    Raises:
        KeysError: If they cannot be made as asked.
    """
    checked_connection(connection)
    made = make_keys(path, hosts, nodes, renew=renew)

    def say(text: str = "", style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"made in {path}: {', '.join(made.new) or 'nothing, all of it was there'}", "bold")
    for line in _whose(made):
        say(line)
    say("\n" + _DOOR.format(port=port, node_port=node_port), "bold red")
    for title, lines in _steps(made, port, node_port, connection):
        say(f"\n# {title}", "bold")
        for line in lines:
            say(line)
    left = made.server_until - dt.datetime.now(dt.UTC)
    if left < _SOON:
        say(
            f"\nmind: the server's certificate ends on {made.server_until:%Y-%m-%d}; "
            f"--renew makes the next.",
            "yellow",
        )


def _whose(made: Made) -> list[str]:
    """Say who gets which folder."""
    hosts = ", ".join(made.hosts)
    return [
        (
            f"authority/    keep it offline: it is needed only to renew the server's certificate; "
            f"valid until {made.authority_until:%Y-%m-%d}"
        ),
        (
            f"server/       for the server alone; certificate for {hosts}, "
            f"until {made.server_until:%Y-%m-%d}"
        ),
        (
            f"nodes/NAME/   for that node alone: {', '.join(made.nodes) or 'none yet'}; no end of "
            f"their own"
        ),
    ]


def _steps(made: Made, port: int, node_port: int, connection: str) -> list[tuple[str, list[str]]]:
    """Write what each party does, in order."""
    folder = made.folder
    superlink = superlink_command(_HERE, bind=_LOOPBACK, port=port, database=_DATABASE)
    registrations = [
        register_command(
            (folder.node(name) / NODE_PUBLIC).absolute(), connection=connection, name=name
        )
        for name in made.nodes
    ]
    own = address_of(_LOOPBACK, port)
    table = connection_table(folder.server / CA, connection=connection, address=own)
    dialled = address_of(made.hosts[0], node_port)
    node = supernode_command(_HERE, address=dialled, settings=[_DATA])
    return [
        ("On the server, in server/", [shlex.join(superlink)]),
        ("There: add to config.toml in $FLWR_HOME (~/.flwr)", table.splitlines()),
        ("There, once for each node", [shlex.join(command) for command in registrations]),
        ("On each node, in its folder, with the path of its data", [shlex.join(node)]),
        ("On the server again, for every run", [f"fedpeft run --connection {connection} …"]),
    ]
