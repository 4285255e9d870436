"""`fedpeft methods`: one line a method, dearest first, and reasons for those that do not fit."""

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedpeft_app.cli.main import app
from fedpeft_app.cli.methods import print_methods
from fedpeft_app.config import parse
from fedpeft_app.errors import FedPeftError, UnknownNameError

VIT = ["--model", "vit-base-patch16-224-in21k", "--labels", "100"]


def fedpeft(*arguments: str) -> str:
    """Run `fedpeft methods`; errors pass through."""
    done = CliRunner().invoke(app, ["methods", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def chosen(*names: str) -> list[str]:
    return [argument for name in names for argument in ("--method", name)]


def rows(output: str) -> list[list[str]]:
    """Split what a pipe gets into cells, without the header."""
    return [line.split("\t") for line in output.splitlines()[1:] if "\t" in line]


def test_the_papers_table_is_printed() -> None:
    names = ("head", "prompt", "bias", "bottleneck-shared", "full")
    output = fedpeft(*VIT, *chosen(*names))
    assert output.splitlines()[0].split("\t") == [
        "method",
        "body",
        "head",
        "of all",
        "MiB",
        "bytes up",
        "bytes down",
        "full is",
    ]
    assert [(row[0], row[4]) for row in rows(output)] == [
        ("full", "327.589"),
        ("bottleneck-shared", "0.859"),
        ("bias", "0.686"),
        ("prompt", "0.645"),
        ("head", "0.293"),
    ]
    # 85,875,556 parameters in all: bias sends 179,812 of them, head 76,900.
    by_name = {row[0]: row for row in rows(output)}
    assert by_name["full"][1:] == [
        "85,798,656",
        "76,900",
        "100.000%",
        "327.589",
        by_name["full"][5],
        by_name["full"][6],
        "1×",
    ]
    assert by_name["full"][5].startswith("≈ 343,5")
    assert by_name["bias"][1:4] == ["102,912", "76,900", "0.209%"]
    assert (by_name["bias"][7], by_name["head"][7]) == ("478×", "1,117×")


def test_all_methods_are_listed_or_refused_with_a_reason(tiny_model: Path) -> None:
    from fedpeft_app.methods.catalogue import METHODS

    done = CliRunner().invoke(app, ["methods", "--model", str(tiny_model)], catch_exceptions=False)
    listed = [row[0] for row in rows(done.stdout)]
    reasons = dict(line.split(": ", 1) for line in done.stderr.splitlines())
    refused = [name for names in reasons for name in names.split(", ")]
    assert sorted([*listed, *refused]) == sorted(METHODS.names())
    assert listed
    assert reasons["adalora"].startswith("method.name = 'adalora' does not federate")


def test_a_pipe_gets_the_table_alone() -> None:
    arguments = ["methods", *VIT, *chosen("head", "lora", "ln", "bias"), "method.targets=attention"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert all("\t" in line for line in done.stdout.splitlines())
    assert done.stderr.count("means nothing to") == 1


def test_methods_refused_alike_share_a_line() -> None:
    arguments = ["methods", *VIT, *chosen("ln", "bias", "lora"), "method.targets=attention"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.stderr.startswith(
        "ln, bias: method.targets = 'attention' means nothing to this method. Leave it at"
    )
    assert done.exit_code == 0


def test_it_fails_where_no_method_fits() -> None:
    arguments = ["methods", *VIT, *chosen("ln", "bias"), "method.targets=attention"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 1


@pytest.mark.parametrize("name", ["vit-tiny-patch4-28", "llama-tiny-bytes"])
def test_the_prefix_of_a_known_architecture_changes_nothing(name: str) -> None:
    with_prefix, without = (
        fedpeft("--model", model, *chosen("lora")) for model in (f"scratch:{name}", name)
    )
    assert with_prefix == without


def test_settings_reach_the_methods(tiny_model: Path) -> None:
    for rank in (1, 4):
        output = fedpeft("--model", str(tiny_model), *chosen("lora"), f"method.rank={rank}")
        # two layers, query and value, A (r, 32) and B (32, r)
        assert rows(output)[0][1] == f"{2 * 2 * 2 * 32 * rank:,}"


def test_the_pooling_decides_what_the_model_has(tiny_model: Path) -> None:
    own, pooled = (
        rows(fedpeft("--model", str(tiny_model), *chosen("full"), f"model.pooling={pooling}"))[0]
        for pooling in ("model", "mean")
    )
    bodies = [int(row[1].replace(",", "")) for row in (own, pooled)]
    assert bodies[0] - bodies[1] == 32 * 32 + 32  # BERT's pooler


def test_the_task_decides_what_kind_of_model_a_folder_holds(tiny_model: Path) -> None:
    output = fedpeft("--model", "llama-tiny-bytes", *chosen("lora"))
    assert rows(output)[0][2] == "0"  # no head, whatever the default task is
    with pytest.raises(FedPeftError, match="for image-classification"):
        fedpeft("--model", str(tiny_model), *chosen("lora"), "task=image-classification")


def test_a_terminal_gets_a_table_that_says_what_its_columns_mean(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(force_terminal=True, width=200, color_system=None)
    config = parse({"model.name": str(tiny_model)})
    print_methods(config, 3, ["lora", "prompt-shallow"], console)
    output = " ".join(capsys.readouterr().out.split())
    assert "bytes up" in output
    assert "measured as Flower serialises its content" in output
    assert "≈: scaled up from a message of 64 MiB" in output
    assert "prompt-shallow: method.name = 'prompt-shallow' is for images" in output


def test_an_unknown_method_is_named(tiny_model: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'lora'"):
        fedpeft("--model", str(tiny_model), *chosen("lorra"))


@pytest.mark.parametrize("head", ["frozen", "personal"])
def test_a_head_that_stays_costs_nothing(head: str) -> None:
    (sent,) = rows(fedpeft(*VIT, *chosen("bias")))
    (kept,) = rows(fedpeft(*VIT, *chosen("bias"), f"method.head={head}"))
    assert (sent[1], sent[2]) == ("102,912", "76,900")
    assert (kept[1], kept[2]) == ("102,912", "0")
    assert float(kept[4]) == pytest.approx(4 * 102_912 / 2**20, abs=1e-3)
