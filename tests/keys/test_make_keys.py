"""Keys and certificates: what they are good for, who can read them, and that none is replaced."""

import datetime as dt
import ipaddress
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from flwr.cli.supernode.register import try_load_public_key

from fedpeft_app.errors import KeysError
from fedpeft_app.keys import make_keys
from fedpeft_app.keys.certificates import AUTHORITY_DAYS, SERVER_DAYS

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
HOST, NODE = "fl.example.org", "hospital-a"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of a server and a node."""
    make_keys(tmp_path / "keys", [HOST, "10.0.0.7", "fd00::7"], [NODE], now=NOW)
    return tmp_path / "keys"


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ what certificates say


def test_the_authority_signs_servers_and_nothing_below_them(keys: Path) -> None:
    extensions = certificate(keys / "authority" / "ca.pem").extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        True,
        0,
    )
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature


def test_the_servers_certificate_is_for_a_server_of_these_names(keys: Path) -> None:
    found = certificate(keys / "server" / "server.pem")
    found.verify_directly_issued_by(certificate(keys / "server" / "ca.pem"))
    extensions = found.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST, "localhost"]
    addresses = ("10.0.0.7", "fd00::7", "127.0.0.1", "::1")  # Flower's own processes dial these
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(a) for a in addresses]


def test_openssl_accepts_the_chain(keys: Path) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver"]
    command += ["-attime", str(int(NOW.timestamp())), "-verify_hostname", HOST]
    command += ["-CAfile", str(keys / "server" / "ca.pem"), str(keys / "server" / "server.pem")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip().endswith("OK"), done.stderr


def test_the_authority_outlives_the_server(keys: Path) -> None:
    ca, server = certificate(keys / "server" / "ca.pem"), certificate(keys / "server/server.pem")
    assert ca.not_valid_after_utc == NOW + dt.timedelta(days=AUTHORITY_DAYS)
    assert server.not_valid_after_utc == NOW + dt.timedelta(days=SERVER_DAYS)


def test_no_certificate_outlives_the_authority(keys: Path) -> None:
    late = NOW + dt.timedelta(days=AUTHORITY_DAYS - 1)
    made = make_keys(keys, [], [], renew=True, now=late)
    assert made.server_until == made.authority_until


def test_an_authority_that_has_ended_signs_nothing(keys: Path) -> None:
    before = contents(keys)
    with pytest.raises(KeysError, match="still valid"):
        make_keys(keys, [], [], renew=True, now=NOW + dt.timedelta(days=AUTHORITY_DAYS))
    assert contents(keys) == before


# ------------------------------------------------------------------ what nodes get


def test_flower_takes_a_nodes_keys(keys: Path) -> None:
    private = serialization.load_ssh_private_key(
        (keys / "nodes" / NODE / "node.key").read_bytes(), None
    )
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert try_load_public_key(keys / "nodes" / NODE / "node.pub") == public


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no OpenSSH here")
def test_flower_takes_a_key_that_its_owner_made(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, timeout=60)  # as docs/deployment.md has it
    private = serialization.load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert try_load_public_key(tmp_path / "node.key.pub") == public


def test_every_party_has_its_own_and_the_authoritys_name(keys: Path) -> None:
    trusted = (keys / "authority" / "ca.pem").read_bytes()
    folders = {path.name: path.parent for path in keys.rglob("*") if path.parent.parent == keys}
    assert folders  # authority and server
    assert {path.name for path in (keys / "server").iterdir()} == {
        "ca.pem",
        "server.key",
        "server.pem",
    }
    assert {path.name for path in (keys / "nodes" / NODE).iterdir()} == {
        "ca.pem",
        "node.key",
        "node.pub",
    }
    assert (keys / "server" / "ca.pem").read_bytes() == trusted
    assert (keys / "nodes" / NODE / "ca.pem").read_bytes() == trusted


def test_two_nodes_have_two_keys(keys: Path) -> None:
    make_keys(keys, [], ["hospital-b"])
    first, second = (keys / "nodes" / name / "node.key" for name in (NODE, "hospital-b"))
    assert first.read_bytes() != second.read_bytes()


# ------------------------------------------------------------------ who can read, what stays


def test_only_their_owner_reads_private_files(keys: Path) -> None:
    private = sorted(path.name for path in keys.rglob("*.key"))
    assert private == ["ca.key", "node.key", "server.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.rglob("*.key")} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in keys.rglob("*.key")} == {0o700}


def test_a_second_call_changes_nothing(keys: Path) -> None:
    before = contents(keys)
    made = make_keys(keys, [HOST, "127.0.0.1"], [NODE], now=NOW)
    assert made.new == ()
    assert contents(keys) == before


def test_a_second_call_adds_nodes_without_the_authority(keys: Path, tmp_path: Path) -> None:
    (keys / "authority").rename(tmp_path / "offline")
    before = contents(keys)
    made = make_keys(keys, [], ["hospital-b"], now=NOW)
    assert made.new == ("nodes/hospital-b",)
    assert made.nodes == (NODE, "hospital-b")
    assert before.items() <= contents(keys).items()


def test_another_host_needs_to_be_asked_for(keys: Path) -> None:
    before = contents(keys)
    with pytest.raises(KeysError, match=r"got other\.example\.org\. .*--renew"):
        make_keys(keys, ["other.example.org"], [])
    assert contents(keys) == before


def test_renewal_keeps_every_key_and_the_names(keys: Path) -> None:
    before = contents(keys)
    later = NOW + dt.timedelta(days=300)
    made = make_keys(keys, [], [], renew=True, now=later)
    changed = {path for path, content in contents(keys).items() if before[path] != content}
    assert changed == {keys / "server" / "server.pem"}
    assert made.hosts == (HOST, "10.0.0.7", "fd00::7")
    assert made.server_until == later + dt.timedelta(days=SERVER_DAYS)


def test_renewal_is_for_the_hosts_that_are_named(keys: Path) -> None:
    assert make_keys(keys, ["new.example.org"], [], renew=True).hosts == ("new.example.org",)


def test_who_deletes_the_servers_key_gets_another(keys: Path) -> None:
    old = (keys / "server" / "server.key").read_bytes()
    (keys / "server" / "server.key").unlink()
    make_keys(keys, [], [], renew=True, now=NOW)
    new = (keys / "server" / "server.key").read_bytes()
    assert new != old
    public = serialization.load_pem_private_key(new, None).public_key()
    assert certificate(keys / "server" / "server.pem").public_key() == public


def test_renewal_needs_the_authority(keys: Path, tmp_path: Path) -> None:
    (keys / "authority").rename(tmp_path / "offline")
    with pytest.raises(KeysError, match="Bring them back"):
        make_keys(keys, [], [], renew=True)


def test_another_authority_is_not_taken_for_the_one_that_nodes_trust(
    keys: Path, tmp_path: Path
) -> None:
    make_keys(tmp_path / "others", [HOST], [])
    (keys / "authority").rename(tmp_path / "offline")
    (tmp_path / "others" / "authority").rename(keys / "authority")
    before = contents(keys)
    with pytest.raises(KeysError, match="got another"):
        make_keys(keys, [], [], renew=True)
    assert contents(keys) == before


def test_a_node_that_keeps_its_key_to_itself_stays_as_it_is(keys: Path) -> None:
    (keys / "nodes" / NODE / "node.key").unlink()  # it is on the node alone
    assert make_keys(keys, [], [NODE]).new == ()
    assert not (keys / "nodes" / NODE / "node.key").exists()


def test_a_node_whose_public_key_is_lost_is_not_given_another(keys: Path) -> None:
    (keys / "nodes" / NODE / "node.pub").unlink()
    with pytest.raises(KeysError, match=r"node\.pub is missing"):
        make_keys(keys, [], [NODE])


def test_what_cannot_be_written_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes, *, private: bool = False) -> None:
        if path.name == "server.pem":
            raise OSError("No space left on device")
        writing(path, content, private=private)

    from fedpeft_app.keys import folder

    writing: Callable[..., None] = folder.write_bytes
    monkeypatch.setattr(folder, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        make_keys(tmp_path / "keys", [HOST], [])
    left = sorted(path.name for path in (tmp_path / "keys").iterdir())
    assert left == [".gitignore", ".lock", "authority"]
    monkeypatch.undo()
    assert make_keys(tmp_path / "keys", [HOST], []).new == ("server",)


def test_a_checkout_takes_none_of_it(keys: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(keys.parent)], check=True)
    command = ["git", "-C", str(keys.parent), "status", "--porcelain", "--untracked-files=all"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == ""


def test_calls_that_meet_make_the_same_keys(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fedpeft_app.keys import make_keys; "
        "sys.stdin.readline(); "
        f"print(*make_keys(Path(sys.argv[1]), ['{HOST}'], ['{NODE}']).new)"
    )
    calls = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "keys")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for call in calls:  # all have imported what they need, or soon will
        assert call.stdin
        call.stdin.write("\n")
        call.stdin.flush()
    told = [call.communicate(timeout=120) for call in calls]
    assert [call.returncode for call in calls] == [0] * 4, told
    assert sorted(out.strip() for out, _ in told) == ["", "", "", f"authority server nodes/{NODE}"]


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("below", ["", "keys"])
def test_a_file_is_no_folder_for_keys(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(
        KeysError, match=r"Expected a folder that can be written to .* there is a file"
    ):
        make_keys(tmp_path / "file" / below, [HOST], [NODE])
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "host",
    ["", "fl.example.org:8000", "https://fl.example.org", "10.0.0.256", "-a", "a b", "*.b.c"],
)
def test_a_host_is_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    with pytest.raises(KeysError, match="DNS name or an IP address"):
        make_keys(tmp_path / "keys", [host], [])
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "a b", "ä"])
def test_a_node_is_named_as_a_folder_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="names a folder"):
        make_keys(tmp_path / "keys", [HOST], [name])
    assert not (tmp_path / "keys").exists()


def test_the_first_keys_need_a_host(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="--host"):
        make_keys(tmp_path / "keys", [], [NODE])


def test_keys_without_anyone_to_trust_are_not_added_to(keys: Path) -> None:
    (keys / "server" / "ca.pem").unlink()
    (keys / "authority" / "ca.pem").unlink()
    with pytest.raises(KeysError, match="none of whom they trust"):
        make_keys(keys, [], ["hospital-b"])
