"""What hosts and nodes may be called: their names stand in certificates, paths and commands."""

import ipaddress
import re
from collections.abc import Sequence

from fedpeft_app.errors import KeysError

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_CONNECTION = re.compile(r"[A-Za-z0-9_-]+")  # what TOML takes as a key without quotes
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Check names and addresses of a server.

    Args:
        hosts: DNS names, IPv4 or IPv6 addresses, without port.

    Returns:
        The same, each once, addresses in their usual spelling, names in lower case.

    Raises:
        KeysError: If one is neither.
    """
    return tuple(dict.fromkeys(_host(host) for host in hosts))


def checked_nodes(nodes: Sequence[str]) -> tuple[str, ...]:
    """Check names of nodes.

    Args:
        nodes: Any names that can be a folder's.

    Returns:
        The same, each once.

    Raises:
        KeysError: If one cannot be a folder's name.
    """
    for name in nodes:
        if not _NODE.fullmatch(name):
            raise KeysError(
                f"Expected letters, digits, '.', '_' and '-' for --node, got {name!r}. "
                f"It names a folder."
            )
    return tuple(dict.fromkeys(nodes))


def checked_connection(name: str) -> str:
    """Check what a server is to be called in Flower's configuration.

    Raises:
        KeysError: If it cannot be called so there, or would be taken for an option.
    """
    if not _CONNECTION.fullmatch(name) or name.startswith("-"):
        raise KeysError(
            f"Expected letters, digits, '_' and '-' for --connection, got {name!r}. It names a "
            f"table in Flower's config.toml."
        )
    return name


def _host(host: str) -> str:
    """Check one host."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if _DNS.fullmatch(host) and not re.fullmatch(r"[\d.]+", host):
            return host.lower()
    raise KeysError(
        f"Expected a DNS name or an IP address for --host, got {host!r}. "
        f"Give it as nodes will dial it, without port: --host fl.example.org."
    )
