"""A calibration: real processes that measure themselves."""

import subprocess
from typing import Any

import pytest

from fedpeft_app.config import parse
from fedpeft_app.errors import LaunchError
from fedpeft_app.forecast import calibration
from fedpeft_app.forecast.calibration import Resources, calibrate

HERE = Resources(nodes=4, actors=2, threads=1)


@pytest.mark.slow
@pytest.mark.xdist_group("flower")
@pytest.mark.parametrize("method", ["lora", "head"])
def test_processes_measure_what_they_do(method: str, tiny_settings: dict[str, Any]) -> None:
    config = parse({**tiny_settings, "method.name": method})
    found = calibrate(config, HERE, node=0, cohort=2)
    assert len(found.training) == 2 * 3  # two clients, three pieces each
    assert bool(found.filling) == (method == "head")  # whose body is frozen
    assert all(piece.wall_s > 0 for piece in (*found.training, *found.judging_exactly))
    (before, less), (after, more) = found.client_grown
    assert before < after
    assert 100 * 2**20 < less <= more  # torch alone takes more
    assert found.server_bytes > 100 * 2**20


@pytest.mark.slow
def test_a_calibration_spends_no_privacy(tiny_settings: dict[str, Any], own_home: Any) -> None:
    private = {"privacy.mode": "sample", "privacy.target-epsilon": 4.0}
    found = calibrate(parse({**tiny_settings, **private}), HERE, node=0, cohort=2)
    assert found.training
    assert not list(own_home.rglob("nodes/*"))


def test_a_process_that_cannot_measure_says_why(
    tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = subprocess.Popen

    def failing(command: list[str], **options: Any) -> Any:
        return usual([command[0], "-c", "raise SystemExit('no memory left')"], **options)

    monkeypatch.setattr(calibration.subprocess, "Popen", failing)
    with pytest.raises(LaunchError, match=r"exit status 1: no memory left\..*--no-calibrate"):
        calibrate(parse(tiny_settings), HERE, node=0, cohort=2)
