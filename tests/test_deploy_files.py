"""What deploy/ and its guide ask for exists in the installed Flower and fedpeft."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedpeft_app.cli.settings import read_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
GUIDE = ROOT / "docs" / "deployment.md"
BINARIES = Path(sys.executable).parent
YAMLS = sorted([*DEPLOY.glob("*.yaml"), *DEPLOY.glob("kubernetes/*.yaml")])
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
WORDS = {"flwr": 3, "fedpeft": 2}  # how many name a command; others have no sub-commands
SUBCOMMANDS = {"worker": 3, "policy": 3, "runs": 3}  # of fedpeft that have more


def documents(path: Path) -> list[Any]:
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]


def containers(path: Path) -> Iterator[dict[str, Any]]:
    for document in documents(path):
        yield from document.get("services", {}).values()
        yield from (
            document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
        )


def joined(text: str) -> list[str]:
    """Give the lines of a shell script or unit, those that go on put together."""
    return text.replace("\\\n", " ").splitlines()


def commands() -> Iterator[tuple[str, list[str]]]:
    """Find every command in deploy/ and the guide, with the file it stands in."""
    for path in YAMLS:
        for container in containers(path):
            command = container.get("command", [])
            yield path.name, shlex.split(command) if isinstance(command, str) else command
    for path in UNITS:
        for line in joined(path.read_text(encoding="utf-8")):
            if line.startswith("Exec"):
                first, *others = shlex.split(line.partition("=")[2])
                yield path.name, [Path(first).name, *others]
    for block in re.findall(
        r"```(?:bash|sh)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL
    ):
        for line in joined(block):
            words = shlex.split(line, comments=True)
            known = [at for at, word in enumerate(words) if word in {"flwr", "fedpeft"}]
            known += [at for at, word in enumerate(words) if word.startswith("flower-su")]
            if known:
                yield GUIDE.name, until_the_shell(words[min(known) :])


def until_the_shell(words: list[str]) -> list[str]:
    """Cut a command before a redirection, or what follows it."""
    ends = [at for at, word in enumerate(words) if word[0:1] in ">&|;" or word in {"2>&1", "2>"}]
    return words[: min(ends)] if ends else words


def flags() -> list[tuple[str, str]]:
    """List (command, flag), each once."""
    found = set()
    for _, words in commands():
        if not words:
            continue
        count = WORDS.get(words[0], 1)
        if words[0] == "fedpeft":
            count = SUBCOMMANDS.get(words[1], count)
        name = " ".join(words[:count])
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        found |= {(name, flag) for flag in [*given, "--help"]}
    return sorted(found)


@cache
def help_of(command: str) -> str:
    name, *others = command.split()
    done = subprocess.run(
        [str(BINARIES / name), *others, "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1", "FLWR_TELEMETRY_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_kind_of_file_has_commands() -> None:
    where = {name for name, _ in commands()}
    assert {path.name for path in UNITS} <= where
    assert {"compose.yaml", "compose.tls.yaml", "supernode.yaml", GUIDE.name} <= where


@pytest.mark.parametrize(
    ("command", "flag"), [pytest.param(*one, id=" ".join(one)) for one in flags()]
)
def test_a_flag_exists(command: str, flag: str) -> None:
    assert re.search(rf"{re.escape(flag)}(?![\w-])", help_of(command))


def test_settings_of_printed_runs_are_sound() -> None:
    runs = [words for where, words in commands() if where == GUIDE.name and words[1] == "run"]
    assert runs
    for words in runs:
        settings = [word for word in words[2:] if "=" in word]
        read_settings(None, settings)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_a_file_that_starts_something_says_that_no_test_does(path: Path) -> None:
    assert "Not run by a test" in path.read_text(encoding="utf-8")
    assert documents(path)


def test_overlays_only_change_what_is_there() -> None:
    (plain,) = documents(DEPLOY / "compose.yaml")
    for path in DEPLOY.glob("compose.*.yaml"):
        (overlay,) = documents(path)
        assert set(overlay["services"]) <= set(plain["services"])


def test_what_is_plain_is_on_the_loopback_alone() -> None:
    (plain,) = documents(DEPLOY / "compose.yaml")
    ports = [port for service in plain["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_with_both_overlays_nothing_is_plain() -> None:
    merged: dict[str, str] = {}
    for name in ("compose.yaml", "compose.tls.yaml", "compose.node-auth.yaml"):
        (document,) = documents(DEPLOY / name)
        merged |= {name: service["command"] for name, service in document["services"].items()}
    assert not any("--insecure" in command for command in merged.values())
    assert "--enable-supernode-auth" in merged.pop("superlink")
    nodes = [command for command in merged.values() if command.startswith("flower-supernode")]
    assert len(nodes) == 2
    assert all("--auth-supernode-private-key" in command for command in nodes)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_confined(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in ("User=fedpeft", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077"):
        assert line in lines
    assert any(line.startswith("Restart=") for line in lines)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_a_unit(path: Path, tmp_path: Path) -> None:
    for unit in UNITS:  # each may name the others
        text = unit.read_text(encoding="utf-8").replace("/opt/fedpeft/.venv/bin", str(BINARIES))
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / path.name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_has_a_pinned_base_and_no_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (base,) = (line for line in lines if line.startswith("FROM"))
    assert re.fullmatch(r"FROM python:\d+\.\d+\.\d+-slim-\w+", base)
    assert "USER fedpeft" in lines
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)


def the_shell(script: str, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", *options, "-c", script],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("extras", "package"), [("", "."), ("quantization", ".[quantization]")])
def test_the_image_can_have_extras(tmp_path: Path, extras: str, package: str) -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert 'ARG EXTRAS=""' in text
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert "quantization" in tomllib.load(file)["project"]["optional-dependencies"]
    (install,) = (line[4:] for line in joined(text) if line.startswith("RUN if"))
    (tmp_path / "pip").write_text('#!/bin/sh\nfor last; do :; done; echo "$last"\n')
    (tmp_path / "pip").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = the_shell(install, "-eu", PATH=path, EXTRAS=extras, TORCH_INDEX="")
    assert done.stdout.split() == [package]


def test_what_starts_runs_is_on_the_servers_loopback() -> None:
    unit, pod = "fedpeft-superlink.service", "superlink.yaml"
    found = {where: words for where, words in commands() if words[:1] == ["flower-superlink"]}
    assert "--host 127.0.0.1" in " ".join(found[unit])
    assert "--host=127.0.0.1" in found[pod]
    (port,) = set(re.findall(r"listen (\d+)", (DEPLOY / "nginx.conf").read_text(encoding="utf-8")))
    (service,) = (one for one in documents(DEPLOY / "kubernetes" / pod) if one["kind"] == "Service")
    assert [one["port"] for one in service["spec"]["ports"]] == [int(port)]
    node = (DEPLOY / "systemd" / "fedpeft-supernode.service").read_text(encoding="utf-8")
    assert re.findall(r"SUPERLINK=\S+:(\d+)", node) == [port]


@pytest.mark.parametrize(("name", "open_ports"), [("superlink", [8443]), ("supernode", [])])
def test_a_pod_lets_in_what_it_has_to_and_nothing_else(name: str, open_ports: list[int]) -> None:
    found = {one["kind"]: one for one in documents(DEPLOY / "kubernetes" / f"{name}.yaml")}
    policy, pod = found["NetworkPolicy"]["spec"], found["StatefulSet"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert policy["policyTypes"] == ["Ingress"]
    rules = [port["port"] for rule in policy.get("ingress", []) for port in rule["ports"]]
    assert rules == open_ports


def test_a_pods_worker_shares_home_and_data_with_what_asks_it() -> None:
    path = DEPLOY / "kubernetes" / "supernode.yaml"
    found = {container["name"]: container for container in containers(path)}
    worker, asks = (
        {mount["mountPath"]: mount["name"] for mount in found[name]["volumeMounts"]}
        for name in ("worker", "superexec")
    )
    assert {path: worker[path] for path in ("/data", "/var/lib/fedpeft")} == {
        path: asks[path] for path in ("/data", "/var/lib/fedpeft")
    }
    assert "nvidia.com/gpu" in found["worker"]["resources"]["limits"]
    assert "limits" not in found["superexec"]["resources"]
    (pod,) = (one for one in documents(path) if one["kind"] == "StatefulSet")
    volumes = pod["spec"]["template"]["spec"]["volumes"]
    named = {one["name"] for one in volumes} | {"kept"}
    assert {mount["name"] for one in found.values() for mount in one["volumeMounts"]} <= named


def test_a_checkout_takes_no_keys_and_keeps_its_code(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    secret = ["keys/authority/ca.key", "node.key", "hospital-a.tgz", "hospital-a/node.key"]
    secret += ["superlink.db", "superlink.db-wal", "superlink.log", "list.log"]
    ours = ["fedpeft_app/keys/folder.py", "tests/keys/test_make_keys.py", "deploy/nginx.conf"]
    done = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", *secret, *ours],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == secret


_PLAYED = {
    "flwr": """
case "$1 $2" in
  "config list") touch "$FLWR_HOME/config.toml" ;;
  "supernode list") test -z "$DOWN" || { echo the reason >&2; exit 1; }; echo "$NODES" ;;
esac""",
    "fedpeft": 'test "$1" = run && echo RUN; mkdir -p keys/nodes/hospital-a keys/nodes/hospital-b',
    "flower-superlink": "echo the port is taken",
    "sleep": "exec true",
    "seq": "echo 1 2 3",  # tries
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the variables with which the guide's commands are played on a server."""
    for name, script in _PLAYED.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    both = '[{"status": "online"}, {"status": "online"}]'
    yield {
        "PATH": path,
        "FLWR_HOME": str(tmp_path),
        "DOWN": "",
        "NODES": both.replace(", {", "\n{"),
    }


def typed(machine: str, folder: Path) -> str:
    text = GUIDE.read_text(encoding="utf-8")
    (block,) = re.findall(rf"```bash\n# {machine}\n(.*?)```", text, re.DOTALL)
    return f"cd {shlex.quote(str(folder))}; umask 022\n{block}"


def test_the_guide_can_be_followed_twice(server: dict[str, str], tmp_path: Path) -> None:
    for _ in range(2):
        done = the_shell(typed("server", tmp_path), "-euo", "pipefail", **server)
        assert (done.returncode, "RUN" in done.stdout) == (0, True), done.stderr
    with (tmp_path / "config.toml").open("rb") as file:
        assert tomllib.load(file)["superlink"]["hospitals"]["address"] == "fl.example.org:8000"


def test_who_shares_the_server_reads_nothing_of_the_guides(
    server: dict[str, str], tmp_path: Path
) -> None:
    the_shell(typed("server", tmp_path), **server)
    for name in ("hospital-a.tgz", "hospital-b.tgz", "superlink.log"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    assert all(typed(f"hospital {one}", tmp_path).count("umask 077") == 1 for one in "AB")


@pytest.mark.parametrize("options", [[], ["-euo", "pipefail"]])
def test_a_server_that_does_not_come_up_says_why(
    server: dict[str, str], tmp_path: Path, options: list[str]
) -> None:
    done = the_shell(typed("server", tmp_path), *options, **{**server, "DOWN": "yes"})
    assert "the reason" in done.stdout
    assert "the port is taken" in done.stdout


def test_nodes_that_do_not_come_are_not_waited_for_for_ever(
    server: dict[str, str], tmp_path: Path
) -> None:
    one = {**server, "NODES": '[{"status": "online"}, {"status": "offline"}]'}
    done = the_shell(typed("server", tmp_path), "-euo", "pipefail", **one)
    assert '"offline"' in done.stdout
