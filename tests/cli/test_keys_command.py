"""`fedpeft keys` prints commands that can be copied."""

import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpeft_app.cli.main import app


def printed(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["keys", *arguments])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def words(lines: list[str], start: str) -> list[list[str]]:
    return [shlex.split(line) for line in lines if line.startswith(start)]


def test_it_prints_a_command_for_every_party(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    lines = printed(
        *(str(folder), "--host", "fl.example.org", "--port", "8443"),
        *("--node", "hospital-a", "--node", "hospital-b", "--connection", "hospitals"),
    )
    (superlink,) = words(lines, "flower-superlink")
    assert superlink[superlink.index("--port") + 1] == "8443"
    assert "--enable-supernode-auth" in superlink
    assert [command[3:] for command in words(lines, "flwr")] == [
        [str(folder / "nodes" / name / "node.pub"), "hospitals", "--name", name]
        for name in ("hospital-a", "hospital-b")
    ]
    (node,) = words(lines, "flower-supernode")
    assert node[node.index("--superlink") + 1] == "fl.example.org:8443"
    assert node[-1] == 'data-path="/data/private.csv"'


def test_it_prints_a_connection_as_flower_reads_it(tmp_path: Path) -> None:
    lines = printed(str(tmp_path / "keys"), "--host", "fd00::7", "--connection", "hospitals")
    start = lines.index("[superlink.hospitals]")
    table = tomllib.loads("\n".join(lines[start : start + 3]))["superlink"]["hospitals"]
    assert table == {
        "address": "[fd00::7]:8000",
        "root-certificates": str(tmp_path / "keys" / "server" / "ca.pem"),
    }


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
