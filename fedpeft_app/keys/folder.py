"""A folder of keys, one folder in it for each party: what is whose, and who gets what.

authority/   ca.key ca.pem              signs server certificates: offline
server/      ca.pem server.key server.pem
nodes/NAME/  ca.pem node.key node.pub   node.pub is registered with the server
.gitignore   keeps all of it out of a checkout
"""

import datetime as dt
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from filelock import FileLock, Timeout

from fedpeft_app.atomic import make_folder, sync_folder, write_bytes
from fedpeft_app.errors import KeysError
from fedpeft_app.keys.certificates import (
    LOOPBACK,
    Authority,
    certificate_pem,
    hosts_of,
    issue,
    key_pem,
    make_authority,
    new_key,
    read_certificate,
    read_key,
)
from fedpeft_app.keys.commands import (
    AUTHORITY,
    CA,
    CA_KEY,
    NODE_KEY,
    NODE_PUBLIC,
    NODES,
    SERVER,
    SERVER_CERTIFICATE,
    SERVER_KEY,
)
from fedpeft_app.keys.node_key import make_node_key
from fedpeft_app.keys.parties import checked_hosts, checked_nodes

_IGNORE, _LOCK = ".gitignore", ".lock"
_LOCK_S = 60.0  # another call takes a second
_PRIVATE = {CA_KEY, SERVER_KEY, NODE_KEY}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFolder:
    """Where the keys of a federation are.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def authority(self) -> Path:
        """What signs; it may be elsewhere, offline."""
        return self.path / AUTHORITY

    @property
    def server(self) -> Path:
        """What the server needs."""
        return self.path / SERVER

    def node(self, name: str) -> Path:
        """What a node needs."""
        return self.path / NODES / name

    def nodes(self) -> tuple[str, ...]:
        """List the nodes whose public keys are there."""
        found = (self.path / NODES).glob(f"*/{NODE_PUBLIC}")
        return tuple(sorted(path.parent.name for path in found if path.parent.name[0] != "."))

    def ca(self) -> Path | None:
        """Give the authority's certificate, wherever there still is one."""
        copies = (self.authority / CA, self.server / CA)
        return next((path for path in copies if path.exists()), None)

    def server_certificate(self) -> x509.Certificate:
        """Read the server's certificate.

        Raises:
            KeysError: If it is none.
            OSError: If it cannot be read.
        """
        path = self.server / SERVER_CERTIFICATE
        return read_certificate(path.read_bytes(), str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What `make_keys` left behind.

    Attributes:
        folder: Where.
        new: What it made just now, as paths within the folder.
        hosts: Whom the server's certificate is for.
        nodes: All nodes that have keys.
        server_until: When the server's certificate ends.
        authority_until: When the authority's does, and with it every other.
    """

    folder: KeyFolder
    new: tuple[str, ...]
    hosts: tuple[str, ...]
    nodes: tuple[str, ...]
    server_until: dt.datetime
    authority_until: dt.datetime


def make_keys(
    path: Path,
    hosts: Sequence[str],
    nodes: Sequence[str],
    *,
    renew: bool = False,
    now: dt.datetime | None = None,
) -> Made:
    """Make the keys of a federation, or those that are missing.

    Args:
        path: The folder; made if need be.
        hosts: Names and addresses of the server. Where it has a certificate already, none,
            or no others than that is for.
        nodes: Names of nodes; those that have keys keep them.
        renew: Whether to certify the server anew, for `hosts` or those it was certified for.
        now: The present, with its time zone; that of the clock if it is not given.

    Returns:
        What there is now.

    Raises:
        KeysError: If a name cannot be one, the certificate is for others, or the authority's
            key is needed and not there; if the folder is a file, or not to be written to.
        OSError: If something in it cannot be written.

    Guarantee:
        No key is ever replaced, also where two calls meet. A party's folder is there whole or
        not at all. Private keys can be read by their owner alone.
    """
    hosts, nodes = checked_hosts(hosts), checked_nodes(nodes)
    now = now or dt.datetime.now(dt.UTC)
    folder = KeyFolder(path=path)
    with _alone(path):
        if not (path / _IGNORE).exists():
            write_bytes(path / _IGNORE, b"*\n")
        made = [_make_authority(folder, hosts, now), _make_server(folder, hosts, now, renew=renew)]
        made += [_make_node(folder, name) for name in nodes]
    ca = _ca(folder)
    certificate = folder.server_certificate()
    return Made(
        folder=folder,
        new=tuple(one for one in made if one),
        hosts=hosts_of(certificate),
        nodes=folder.nodes(),
        server_until=certificate.not_valid_after_utc,
        authority_until=read_certificate(ca, CA).not_valid_after_utc,
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Make a folder if need be, and keep other calls out of it.

    Raises:
        KeysError: If it cannot be made or written to, or another call does not end.
    """
    lock = FileLock(path / _LOCK)
    try:
        make_folder(path)
        (path / _LOCK).touch()  # a lock that cannot be made looks like one that is held
        lock.acquire(timeout=_LOCK_S)
    except Timeout as error:
        raise KeysError(
            f"Expected {path} for this call alone, but another is making keys there. Wait until "
            f"it has ended, or end it."
        ) from error
    except (OSError, NotImplementedError) as error:
        file = isinstance(error, (FileExistsError, NotADirectoryError))
        why = "there is a file" if file else getattr(error, "strerror", None) or error
        raise KeysError(
            f"Expected a folder that can be written to for keys, got {path}: {why}. Name another, "
            f"or see who owns it."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _make_authority(folder: KeyFolder, hosts: Sequence[str], now: dt.datetime) -> str:
    """Make an authority, unless there is or was one; give what was made."""
    if folder.ca():
        return ""
    if folder.authority.exists() or folder.server.exists() or folder.nodes():
        raise KeysError(
            f"Expected the authority's certificate, {CA}, in {folder.authority} or "
            f"{folder.server}: there are keys, but none of whom they trust. Put it back, or make "
            f"keys anew in another folder."
        )
    if not hosts:
        raise KeysError(
            f"Expected --host NAME_OR_IP, got none: {folder.path} has no keys yet, and the "
            f"server's certificate says how nodes reach it."
        )
    authority = make_authority(now)
    _make_whole(
        folder.authority,
        {CA_KEY: key_pem(authority.key), CA: certificate_pem(authority.certificate)},
    )
    return AUTHORITY


def _make_server(folder: KeyFolder, hosts: Sequence[str], now: dt.datetime, *, renew: bool) -> str:
    """Make the server's key and certificate, or certify its key anew; give what was made."""
    path = folder.server / SERVER_CERTIFICATE
    if not path.exists():
        if not hosts:
            raise KeysError(f"Expected --host NAME_OR_IP, got none: there is no {path} yet.")
        authority = _authority(folder)
        key = _server_key(folder) or new_key()
        _write_server(folder, authority, key, issue(authority, key, hosts, now))
        return SERVER
    certified = hosts_of(folder.server_certificate())
    if not renew:
        if others := [host for host in hosts if host not in (*certified, *LOOPBACK)]:
            raise KeysError(
                f"Expected hosts that {path} is for ({', '.join(certified)}), got "
                f"{', '.join(others)}. To certify the server anew, for all that you name: --renew."
            )
        return ""
    authority = _authority(folder)
    key = _server_key(folder) or new_key()  # who deletes the old key gets a new one
    _write_server(folder, authority, key, issue(authority, key, hosts or certified, now))
    return f"{SERVER}/{SERVER_CERTIFICATE}"


def _make_node(folder: KeyFolder, name: str) -> str:
    """Make a node's keys, unless it has some; give what was made."""
    target = folder.node(name)
    if target.exists():
        missing = [file for file in (NODE_KEY, NODE_PUBLIC) if not (target / file).exists()]
        if missing == [NODE_KEY]:
            return ""  # it is where it belongs: on the node alone
        if missing:
            raise KeysError(
                f"Expected {NODE_KEY} and {NODE_PUBLIC} in {target}, but {missing[-1]} is "
                f"missing. Put it back; or remove the folder, and the node gets new keys."
            )
        return ""
    pair = make_node_key(name)
    make_folder(target.parent)
    files = {CA: _ca(folder), NODE_KEY: pair.private, NODE_PUBLIC: pair.public}
    _make_whole(target, files)
    return f"{NODES}/{name}"


def _authority(folder: KeyFolder) -> Authority:
    """Read who signs, as is needed for the server's certificate alone."""
    key, certificate = folder.authority / CA_KEY, folder.authority / CA
    if not (key.exists() and certificate.exists()):
        raise KeysError(
            f"Expected {CA_KEY} and {CA} in {folder.authority}, which certify the server, but "
            f"they are not there. Bring them back from where you keep them, for this alone."
        )
    authority = Authority(
        key=read_key(key.read_bytes(), str(key)),
        certificate=read_certificate(certificate.read_bytes(), str(certificate)),
    )
    trusted = folder.server / CA
    same = authority.key.public_key() == authority.certificate.public_key()
    if not same or (trusted.exists() and trusted.read_bytes() != certificate.read_bytes()):
        raise KeysError(
            f"Expected the authority that nodes trust in {folder.authority}, got another: its "
            f"files do not belong together, or not to {trusted}. Put back the ones that do."
        )
    return authority


def _server_key(folder: KeyFolder) -> ec.EllipticCurvePrivateKey | None:
    """Read the server's key, if it has one."""
    path = folder.server / SERVER_KEY
    return read_key(path.read_bytes(), str(path)) if path.exists() else None


def _write_server(
    folder: KeyFolder,
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
) -> None:
    """Write what the server needs; a key that it has stays."""
    trusted, own = certificate_pem(authority.certificate), certificate_pem(certificate)
    if not folder.server.exists():
        files = {CA: trusted, SERVER_KEY: key_pem(key), SERVER_CERTIFICATE: own}
        _make_whole(folder.server, files)
        return
    if not (folder.server / SERVER_KEY).exists():
        write_bytes(folder.server / SERVER_KEY, key_pem(key), private=True)
    write_bytes(folder.server / CA, trusted)
    write_bytes(folder.server / SERVER_CERTIFICATE, own)


def _ca(folder: KeyFolder) -> bytes:
    """Read the authority's certificate."""
    path = folder.ca()
    if path is None:
        raise KeysError(f"Expected {CA} in {folder.authority}. Make keys anew in another folder.")
    return path.read_bytes()


def _make_whole(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder for its owner alone, with all its files, or nothing.

    Raises:
        OSError: If it cannot be made, or is there already with something in it.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))  # mode 0700
    try:
        for name, content in files.items():
            write_bytes(scratch / name, content, private=name in _PRIVATE)
        os.rename(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    sync_folder(folder.parent)
