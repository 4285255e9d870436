"""Who may join a federation and who may not: TLS and node keys, tried with real processes."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from federation import HOST, Federation, free_port, stranger_keys, wait_for

from fedpeft_app.keys import connection_table, supernode_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("flower"),
    pytest.mark.timeout(600),
]
KNOWN, OTHER = "hospital-a", "hospital-b"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A SuperLink that wants TLS and known nodes, and one node that it knows."""
    folder = tmp_path_factory.mktemp("flower")
    made = Federation(folder, folder / "home", secure=True)
    try:
        made.start_superlink()
        made.start_node(KNOWN)
        wait_for(lambda: made.nodes().get(KNOWN) == "online", "the node to be online", 60)
        yield made
    finally:
        made.end()


def refused(federation: Federation, name: str, *command: str, why: str) -> str:
    """Start a node that must not get in, and wait until it says so.

    Returns:
        What it printed, and the SuperLink meanwhile.
    """
    before = federation.nodes()
    seen = len(federation.log("superlink"))
    federation.start(name, *command)
    wait_for(lambda: why in federation.log(name), f"{name} to say {why!r}", 120)
    after = federation.nodes()
    assert set(after) == set(before)  # nobody new, under whatever name
    assert after[KNOWN] == "online"  # and who is known was not disturbed
    federation.kill(name)
    return federation.log(name) + federation.log("superlink")[seen:]


def test_a_registered_node_connects(federation: Federation) -> None:
    assert federation.nodes() == {KNOWN: "online"}


def test_a_key_that_nobody_registered_is_refused(federation: Federation, tmp_path: Path) -> None:
    keys = stranger_keys(tmp_path / "keys", OTHER, ca=the_ca(federation))
    command = federation.node_command(keys)
    said = refused(federation, "unregistered", *command, why="Failed to activate SuperNode")
    assert "No SuperNode found with the given public key" in said


def test_a_node_without_a_key_is_refused(federation: Federation) -> None:
    encrypted = ("--root-certificates", str(the_ca(federation)))
    keyless = ["flower-supernode", "--superlink", federation.address, *encrypted]
    keyless += ["--port", str(free_port())]
    said = refused(federation, "keyless", *keyless, why="SuperNode authentication is enabled")
    assert "Attempted to register SuperNode with public key" in said


def test_a_server_of_another_authority_is_not_trusted(
    federation: Federation, tmp_path: Path
) -> None:
    keys = stranger_keys(tmp_path / "keys", OTHER)
    command = federation.node_command(keys)
    said = refused(federation, "other-authority", *command, why="CERTIFICATE_VERIFY_FAILED")
    assert "/v1/fleet/" not in said  # it did not say a word to that server


def test_a_node_that_speaks_plain_text_is_refused(federation: Federation) -> None:
    command = [*federation.node_command(None), "--max-retries", "1"]  # by itself it never ends
    said = refused(federation, "plain", *command, why="Failed to initialize the connection")
    assert "Server disconnected without sending a response" in said
    assert "/v1/fleet/" not in said


@pytest.mark.parametrize("how", ["plain text", "another authority"])
def test_a_person_gets_in_by_the_right_connection_alone(
    federation: Federation, tmp_path: Path, how: str
) -> None:
    wrong = how.replace(" ", "-")
    other = stranger_keys(tmp_path / "keys", OTHER) / "ca.pem"
    federation.connect(wrong, federation.table(wrong, other, plain=how == "plain text"))
    refused, let_in = (federation.flwr("supernode", "list", name) for name in (wrong, "own"))
    assert refused.returncode != 0
    assert "Connection to the SuperLink is unavailable" in refused.stderr
    assert (let_in.returncode, let_in.stderr) == (0, "")


def the_ca(federation: Federation) -> Path:
    """Give the certificate of the authority that everyone here trusts."""
    assert federation.keys
    return federation.keys.server / "ca.pem"


@pytest.fixture
def door(federation: Federation, tmp_path: Path) -> Iterator[int]:
    """Give the port of deploy/nginx.conf before the SuperLink."""
    assert federation.keys
    port = free_port()
    own = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    for old, new in (
        ("/etc/fedpeft/server", str(federation.keys.server)),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8000", federation.address),
        ("access_log off;", f"access_log off;{own}"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    options = f"daemon off; pid {tmp_path}/pid; user root;"
    if os.getuid():
        options = options.replace("user root;", "")
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-g", options]
    process = subprocess.Popen(command)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx here")
def test_behind_nginx_nodes_get_in_and_nobody_starts_runs(
    federation: Federation, door: int, tmp_path: Path
) -> None:
    federation.register(OTHER)
    assert federation.keys
    through = f"{HOST}:{door}"
    command = supernode_command(federation.keys.node(OTHER), address=through, settings=())
    federation.start(OTHER, *command, "--port", str(free_port()))
    wait_for(lambda: federation.nodes().get(OTHER) == "online", "the node to be online", 60)
    table = connection_table(the_ca(federation), connection="nginx", address=through)
    federation.connect("nginx", table)
    assert federation.flwr("supernode", "list", "nginx").returncode != 0
    with httpx.Client(verify=ssl.create_default_context(cafile=str(the_ca(federation)))) as person:
        answers = [person.post(f"https://{through}/v1/{api}/x") for api in ("control", "runtime")]
    assert [answer.status_code for answer in answers] == [403, 403]
    federation.kill(OTHER)
