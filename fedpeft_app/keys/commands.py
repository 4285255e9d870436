"""The commands of Flower 1.41 that use the keys: one place, printed and tested alike."""

import json
from collections.abc import Sequence
from pathlib import Path

AUTHORITY, SERVER, NODES = "authority", "server", "nodes"
CA_KEY, CA = "ca.key", "ca.pem"
SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.pem"
NODE_KEY, NODE_PUBLIC = "node.key", "node.pub"


def superlink_command(folder: Path, *, bind: str, port: int, database: str) -> list[str]:
    """Write the command that starts the server.

    Args:
        folder: Where its keys are.
        bind: Address to listen on.
        port: Port to listen on.
        database: File in which it remembers nodes and runs; ":memory:" forgets them.
    """
    return [
        "flower-superlink",
        *("--host", bind, "--port", str(port)),
        *("--ssl-certfile", str(folder / SERVER_CERTIFICATE)),
        *("--ssl-keyfile", str(folder / SERVER_KEY)),
        *("--ssl-ca-certfile", str(folder / CA)),
        "--enable-supernode-auth",
        *("--database", database),
        "--disable-runtime-dependency-installation",
    ]


def register_command(public: Path, *, connection: str, name: str) -> list[str]:
    """Write the command by which the server gets to know a node.

    Args:
        public: The node's public key.
        connection: Name of the connection in Flower's configuration.
        name: The node's.
    """
    return ["flwr", "supernode", "register", str(public), connection, "--name", name]


def supernode_command(folder: Path, *, address: str, settings: Sequence[str]) -> list[str]:
    """Write the command that starts a node.

    Args:
        folder: Where its keys are.
        address: The server's, with port.
        settings: Of the node's configuration, as `key=value` with strings in double quotes.
    """
    return [
        "flower-supernode",
        *("--superlink", address),
        *("--root-certificates", str(folder / CA)),
        *("--auth-supernode-private-key", str(folder / NODE_KEY)),
        *(("--node-config", " ".join(settings)) if settings else ()),
    ]


def connection_table(ca: Path, *, connection: str, address: str) -> str:
    """Write the table of $FLWR_HOME/config.toml by which `flwr` finds the server.

    Args:
        ca: What to check the server's certificate with; Flower wants the whole path.
        connection: Name of the connection.
        address: The server's, with port.
    """
    return (
        f"[superlink.{connection}]\n"
        f"address = {json.dumps(address)}\n"
        f"root-certificates = {json.dumps(str(ca.absolute()), ensure_ascii=False)}\n"
    )


def address_of(host: str, port: int) -> str:
    """Write host and port as Flower takes them: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
