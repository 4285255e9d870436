"""Rates from pieces of work, and the time of a run from rates."""

from typing import Any

import pytest

from fedpeft_app.cli.plan.outlook import look_ahead
from fedpeft_app.config import parse
from fedpeft_app.forecast.calibration import Calibration, Resources, alike
from fedpeft_app.forecast.duration import duration, makespan
from fedpeft_app.forecast.memory import client_peak, peak_bytes, server_peak
from fedpeft_app.forecast.rates import Timed, fitted
from fedpeft_app.forecast.work import Work

HERE = Resources(nodes=4, actors=2, threads=1)


def timed(batches: int, tokens: int, seconds: float, cpu: float = 0.0) -> Timed:
    return Timed(batches=batches, tokens=tokens, wall_s=seconds, cpu_s=cpu)


def calibration(**changed: Any) -> Calibration:
    """Every batch takes a second, judging a hundredth, exactly a tenth; nothing else any time."""
    usual: dict[str, Any] = {
        "load_s": 5.0,
        "training": [timed(1, 10, 1.0, 2.0), timed(1, 1_000, 1.0, 2.0)],
        "filling": [],
        "node_judging": [],
        "around_s": 0.0,
        "judging_first": [timed(1, 10, 0.01), timed(1, 1_000, 0.01)],
        "judging": [timed(1, 10, 0.01), timed(1, 1_000, 0.01)],
        "judging_exactly": [timed(1, 10, 0.1), timed(1, 1_000, 0.1)],
        "fold_s": 0.5,
        "client_grown": [(1, 1)],
        "server_bytes": 1,
        "device_bytes": 0,
    }
    return Calibration(**{**usual, **changed})


def test_rates_are_those_that_pieces_were_made_by() -> None:
    pieces = [timed(n, t, 0.2 * n + 0.003 * t) for n, t in ((4, 100), (4, 900), (5, 400))]
    found = fitted(pieces)
    assert (found.batch_s, found.token_s) == (pytest.approx(0.2), pytest.approx(0.003))
    work = Work(batches=10, tokens=1_000, examples=0)
    assert found.seconds(work) == pytest.approx(5.0)


def test_processor_time_has_rates_of_its_own() -> None:
    pieces = [timed(1, 100, 1.0, 7.0), timed(1, 200, 2.0, 14.0)]
    assert fitted(pieces, cpu=True).token_s == pytest.approx(0.07)


@pytest.mark.parametrize(
    "pieces",
    [
        [timed(1, 64, 1.0)],
        [timed(1, 64, 1.0), timed(2, 128, 2.0)],  # all of one length
        [timed(1, 64, 2.0), timed(1, 640, 1.0)],  # more took less
        [timed(1, 64, 0.0)],
    ],
)
def test_rates_are_never_negative(pieces: list[Timed]) -> None:
    found = fitted(pieces)
    assert found.batch_s >= 0
    assert found.token_s >= 0


def test_a_single_piece_is_foretold_as_it_was() -> None:
    assert fitted([timed(3, 60, 6.0)]).seconds(Work(batches=3, tokens=60, examples=0)) == 6.0


@pytest.mark.parametrize(
    ("seconds", "actors", "end"),
    [([5, 4, 3, 3], 1, 15), ([5, 4, 3, 3], 2, 8), ([5, 4, 3, 3], 4, 5), ([], 2, 0)],
)
def test_whoever_is_free_first_begins_the_next(
    seconds: list[float], actors: int, end: float
) -> None:
    assert makespan(seconds, actors) == end


def test_a_run_takes_its_longest_actor_in_every_round(tiny_settings: dict[str, Any]) -> None:
    outlook = look_ahead(parse(tiny_settings), 4)
    assert outlook.traffic is not None
    took = duration(outlook.config, outlook.crew, outlook.traffic.rehearsal, calibration(), HERE)
    assert took.train_s == pytest.approx(2 * 4)  # 27 examples in batches of 8, two nodes at once
    assert took.actors_cpu_s == pytest.approx(2 * 2 * 4 * 2)
    alone = Resources(nodes=4, actors=1, threads=1)
    slower = duration(outlook.config, outlook.crew, outlook.traffic.rehearsal, calibration(), alone)
    assert slower.train_s == pytest.approx(2 * took.train_s)


def test_frozen_layers_take_time_in_the_first_pass_of_every_node(
    tiny_settings: dict[str, Any],
) -> None:
    everyone = {"strategy.fraction-train": 1.0, "rounds": 3}
    outlook = look_ahead(parse({**tiny_settings, **everyone}), 4)
    assert outlook.traffic is not None
    filling = calibration(filling=[timed(1, 10, 3.0, 6.0), timed(1, 1_000, 3.0, 6.0)])
    took = duration(outlook.config, outlook.crew, outlook.traffic.rehearsal, filling, HERE)
    assert took.train_s == pytest.approx(2 * 4 * 3 + 2 * 2 * 4 * 1)


@pytest.mark.parametrize("mode", ["central", "local"])
def test_baselines_take_time_too(mode: str, tiny_settings: dict[str, Any]) -> None:
    outlook = look_ahead(parse({**tiny_settings, "mode": mode}), 4)
    took = duration(outlook.config, outlook.crew, None, calibration(), HERE)
    batches = {"central": 2 * 14, "local": 2 * (2 * 4)}[mode]  # local: two rounds in one go
    assert took.train_s == pytest.approx(batches)


def test_what_changes_no_batch_needs_no_further_calibration(tiny_settings: dict[str, Any]) -> None:
    usual = alike(parse(tiny_settings), HERE)
    same = {"seed": 3, "rounds": 9, "train.learning-rate": 0.5, "data.dirichlet-alpha": 0.1}
    assert alike(parse({**tiny_settings, **same}), HERE) == usual
    for key, value in {"train.batch-size": 4, "method.rank": 1, "data.max-length": 8}.items():
        assert alike(parse({**tiny_settings, key: value}), HERE) != usual, key


def test_a_process_has_as_much_in_memory_as_it_once_had() -> None:
    before = peak_bytes()
    held = bytearray(b"x" * (64 * 2**20))
    during = peak_bytes()
    del held
    assert before > 2**20
    assert peak_bytes() >= during >= before


def test_a_server_holds_what_its_cohort_sends() -> None:
    alone = server_peak(10**9, cohort=4, message=0)
    assert server_peak(10**9, cohort=4, message=10**6) == alone + 9 * 10**6


def test_a_client_grows_by_the_root_of_its_batches() -> None:
    grown = [(4, 10**9), (16, 10**9 + 2 * 10**8)]  # 10**8 for every step of the root
    least = client_peak(grown, 16)
    assert least > grown[-1][1]  # Ray takes something, too
    assert client_peak(grown, 3) == least
    assert client_peak(grown, 100) == least + 6 * 10**8
    assert client_peak(grown, 10**6) == client_peak(grown, 10**4)  # lengths repeat


def test_a_client_that_does_not_grow_stays_as_it_is() -> None:
    assert client_peak([(4, 10**9), (16, 10**9)], 400) == client_peak([(4, 10**9)], 400)
