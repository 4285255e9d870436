"""What is left of a study, forecast: each run as its own plan says it, one calibration for many."""

import math
from typing import Any

import pytest
from calibrations import calibrated

from fedpeft_app.cli import ahead
from fedpeft_app.cli.ahead import CellAhead, forecast_cells, forecast_lines
from fedpeft_app.cli.cells import Share
from fedpeft_app.cli.plan.outlook import Outlook, look_ahead
from fedpeft_app.config import flatten, parse
from fedpeft_app.forecast.calibration import Calibration
from fedpeft_app.studies.plan import Cell


def cell(settings: dict[str, Any], **more: Any) -> Cell:
    """Make a run; "method__name" stands for "method.name"."""
    chosen = {**settings, **{key.replace("__", "."): value for key, value in more.items()}}
    return Cell(study="small", name=str(more), config=flatten(parse(chosen)), nodes=4)


def unheard(text: str) -> None:
    """Tell nobody."""


def test_a_run_of_a_study_is_forecast_as_by_its_plan(tiny_settings: dict[str, Any]) -> None:
    private = {"privacy__mode": "sample", "privacy__target_epsilon": 4.0}
    sample = cell(tiny_settings, **{key.replace("_e", "-e"): v for key, v in private.items()})
    usual, baseline = cell(tiny_settings), cell(tiny_settings, mode="central")
    found = forecast_cells([usual, baseline, sample], None, unheard)
    traffic = look_ahead(parse(usual.config), 4).traffic
    assert traffic is not None
    assert [one.sent for one in found[:2]] == [traffic.up + traffic.down, 0]
    assert math.isinf(found[0].epsilon)
    assert found[2].epsilon == pytest.approx(4.0, rel=0.01)
    assert all(math.isnan(one.seconds) for one in found)


def test_runs_that_are_alike_share_a_calibration(
    tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def pretend(outlook: Outlook, resources: Any) -> Calibration:
        measured.append(outlook.config.method.name)
        return calibrated(1.0)

    monkeypatch.setattr(ahead.Outlook, "calibrate", pretend)
    cells = [
        cell(tiny_settings, seed=seed, method__name=method)
        for method in ("lora", "head")
        for seed in (0, 1)
    ]
    found = forecast_cells(cells, Share(), unheard)
    assert measured == ["lora", "head"]
    assert all(one.seconds > 0 for one in found)


def test_the_last_line_adds_up(tiny_settings: dict[str, Any]) -> None:
    one = cell(tiny_settings)
    runs = [
        CellAhead(cell=one, sent=1024, epsilon=math.inf, seconds=1800),
        CellAhead(cell=one, sent=3072, epsilon=8.0, seconds=7200),
    ]
    first, second, last = forecast_lines(runs)
    assert "1.0 KiB" in first
    assert "no privacy" in first
    assert "epsilon 8.0" in second
    assert last == "2 runs ahead: 4.0 KiB sent in all; about 2.5 h one after the other"
    assert forecast_lines(runs[:1], 4)[-1].endswith("about 30.0 min one after the other")
    assert forecast_lines(runs, 2)[-1].endswith(
        "about 2.0 h for 2 at a time, if none slows another"
    )
