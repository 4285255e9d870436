"""`fedpeft keys` prints commands that can be copied."""

import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpeft_app.cli.main import app
from fedpeft_app.errors import KeysError


def printed(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["keys", *arguments])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def words(lines: list[str], start: str) -> list[list[str]]:
    return [shlex.split(line) for line in lines if line.startswith(start)]


def test_it_prints_a_command_for_every_party(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    lines = printed(
        *(str(folder), "--host", "fl.example.org", "--port", "8001", "--node-port", "8444"),
        *("--node", "hospital-a", "--node", "hospital-b", "--connection", "hospitals"),
    )
    (superlink,) = words(lines, "flower-superlink")
    assert superlink[superlink.index("--port") + 1] == "8001"
    assert "--enable-supernode-auth" in superlink
    assert [command[3:] for command in words(lines, "flwr")] == [
        [str(folder / "nodes" / name / "node.pub"), "hospitals", "--name", name]
        for name in ("hospital-a", "hospital-b")
    ]
    (node,) = words(lines, "flower-supernode")
    assert node[node.index("--superlink") + 1] == "fl.example.org:8444"
    assert node[-1] == 'data-path="/data/private.csv"'


def test_it_prints_a_connection_as_flower_reads_it(tmp_path: Path) -> None:
    lines = printed(str(tmp_path / "keys"), "--host", "fd00::7", "--connection", "hospitals")
    start = lines.index("[superlink.hospitals]")
    table = tomllib.loads("\n".join(lines[start : start + 3]))["superlink"]["hospitals"]
    assert table == {
        "address": "127.0.0.1:8000",
        "root-certificates": str(tmp_path / "keys" / "server" / "ca.pem"),
    }


def test_what_starts_runs_is_on_the_loopback_and_it_says_so_loudly(tmp_path: Path) -> None:
    lines = printed(str(tmp_path / "keys"), "--host", "fd00::7", "--node", "a")
    (superlink,) = words(lines, "flower-superlink")
    assert superlink[superlink.index("--host") + 1] == "127.0.0.1"
    (node,) = words(lines, "flower-supernode")
    assert node[node.index("--superlink") + 1] == "[fd00::7]:8443"
    (warning,) = (line for line in lines if line.startswith("MIND: "))
    assert "can run code on every node" in warning
    assert "--host 0.0.0.0; nodes then dial port 8000" in warning


@pytest.mark.parametrize("name", ["", "my hosp", "a.b", "--insecure", "é", 'a"b'])
def test_a_connection_is_named_as_a_table_can_be(tmp_path: Path, name: str) -> None:
    command = ["keys", str(tmp_path / "keys"), "--host", "a.org", f"--connection={name}"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, KeysError)
    assert "for --connection" in str(done.exception)
    assert not (tmp_path / "keys").exists()


def test_it_prints_no_key(tmp_path: Path) -> None:
    text = "\n".join(printed(str(tmp_path / "keys"), "--host", "a.org", "--node", "b"))
    secrets = [path.read_text(encoding="utf-8") for path in (tmp_path / "keys").rglob("*.key")]
    assert len(secrets) == 3
    assert not [line for secret in secrets for line in secret.splitlines() if line in text]


def test_it_says_what_it_left_as_it_was(tmp_path: Path) -> None:
    printed(str(tmp_path / "keys"), "--host", "a.org")
    assert "nothing, all of it was there" in printed(str(tmp_path / "keys"))[0]


@pytest.mark.parametrize("days", [29, 31])
def test_it_warns_a_month_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    from fedpeft_app.keys import certificates

    monkeypatch.setattr(certificates, "SERVER_DAYS", days)
    lines = printed(str(tmp_path / "keys"), "--host", "a.org")
    assert any(line.startswith("mind: ") for line in lines) == (days < 30)
