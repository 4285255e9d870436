"""`fedpeft plan`: what it says is what a run does."""

import io
import json
import math
import re
from typing import Any

import pytest
from calibrations import calibrated
from rich.console import Console

from fedpeft_app import node_privacy
from fedpeft_app.cli.plan.printed import print_plan
from fedpeft_app.cli.plan.privacy import cautions
from fedpeft_app.cli.preflight import preflight
from fedpeft_app.config import parse
from fedpeft_app.errors import ConfigError, PrivacyError
from fedpeft_app.forecast import calibration
from fedpeft_app.forecast.calibration import Resources
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.budget import least_noise
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.statement import shown

SAMPLE = {"privacy.mode": "sample", "privacy.target-epsilon": 4.0}
USER = {**SAMPLE, "privacy.mode": "user", "privacy.trust": "server"}


def planned(settings: dict[str, Any], nodes: int = 4) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_plan(parse(settings), nodes, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_without_privacy_it_says_so(tiny_settings: dict[str, Any]) -> None:
    text = planned(tiny_settings)
    assert "611 numbers train; 4 nodes hold" in text
    assert "2 nodes a round in 2 rounds" in text
    assert "privacy: none (privacy.mode)" in text


def a_message(settings: dict[str, Any]) -> list[int]:
    """Read the row of a message: bytes up, down, and of full fine-tuning."""
    lines = planned(settings).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("  a message"))
    return [int(cell.replace(",", "")) for cell in row[2:]]


def test_codecs_make_the_messages_smaller(tiny_settings: dict[str, Any]) -> None:
    up, down, full = a_message(tiny_settings)
    lossy = {**tiny_settings, "wire.uplink": "int4", "wire.downlink": "int8"}
    less_up, less_down, same = a_message(lossy)
    assert less_up < up
    assert less_down < down
    assert same == full == 4 * 21_379  # every parameter in float32


def test_bytes_stand_beside_those_of_full_fine_tuning(tiny_settings: dict[str, Any]) -> None:
    text = planned(tiny_settings)
    assert "times fewer than full fine-tuning" in text
    assert "3 bytes more or less" in text
    assert "sizes depend on what is sent" in planned(
        {**tiny_settings, "wire.uplink": "topk(0.1)+int8"}
    )


def test_a_plan_is_read_by_machines_too(tiny_settings: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=80)
    print_plan(parse({**tiny_settings, **SAMPLE}), 4, console, as_json=True)
    found = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert found["trainable"] == 611
    assert found["examples"] == [27, 27, 27, 27]
    assert [len(one["cohort"]) for one in found["bytes"]["rounds"]] == [2, 2]
    rounds = sum(one["up"] for one in found["bytes"]["rounds"])
    assert 0 < rounds < found["bytes"]["run"]["up"]  # which has the roll call, too
    assert found["privacy"]["epsilon"] == pytest.approx(4.0, rel=0.01)
    assert "time" not in found  # nothing was measured


def test_what_was_measured_is_told(
    tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = calibrated(
        30.0,
        load_s=3.0,
        client_grown=[(2, 2**30)],
        server_bytes=2**50,
        device_bytes=2**31,
    )
    monkeypatch.setattr(calibration, "calibrate", lambda *args, **more: found)
    console = Console(file=io.StringIO(), width=200)
    here = Resources(nodes=4, actors=2, threads=1)
    print_plan(parse(tiny_settings), 4, console, resources=here)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "measuring memory and time" in text
    assert "memory: 1.1 GiB a client" in text
    assert "of a GPU 2.0 GiB a client" in text
    assert "mind: that may not fit" in text
    assert "2 clients at a time with 1 thread each" in text
    assert re.search(r"training +\d", text)


def test_one_is_not_many(tiny_settings: dict[str, Any]) -> None:
    alone = {"rounds": 1, "strategy.min-nodes": 1, "strategy.min-replies": 1}
    text = planned({**tiny_settings, **alone}, nodes=1)
    assert "1 node holds 108 examples" in text
    assert "1 node a round in 1 round make" in text


def test_no_more_examples_are_planned_for_than_nodes_keep(tiny_settings: dict[str, Any]) -> None:
    capped = {**tiny_settings, "data.max-examples-per-node": 20}
    assert "4 nodes hold 80 examples (20 to 20)" in planned(capped)


# ------------------------------------------------------------------ sample level


def test_sample_level_is_forecast_for_the_node_with_most_noise(
    tiny_settings: dict[str, Any],
) -> None:
    settings = {**tiny_settings, **SAMPLE}
    text = planned(settings)
    noise = least_noise(4.0, 1e-5, 8 / 27, 4 * 2)  # 27 examples in batches of 8, twice
    assert "at most (4.00, 1e-05)-differential privacy for each training example" in text
    assert f"z = {noise:.3g} on node 0, the smallest, with 27 examples" in text
    assert "8 steps, each of which draws 8 examples on average (q = 0.296)" in text
    once = noise * math.sqrt(611) / 8
    over = once / math.sqrt(8 * 2)  # steps and nodes
    assert f"noise to signal: {once:.3g} in a step, {over:.2g} over the run" in text


def test_only_one_node_is_solved_for(
    tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = set()
    monkeypatch.setattr(
        node_privacy, "least_noise", lambda *args: solved.add(args) or least_noise(*args)
    )
    dirichlet = {"data.partitioner": "dirichlet", "data.dirichlet-alpha": 1.0}
    planned({**tiny_settings, **SAMPLE, **dirichlet}, nodes=6)
    assert len(solved) == 2  # as it is, and with all examples in every step


def test_what_would_help_is_computed(tiny_settings: dict[str, Any]) -> None:
    text = planned({**tiny_settings, **SAMPLE})
    whole = least_noise(4.0, 1e-5, 1.0, 2) * math.sqrt(611) / 27
    helps = text.split("what makes noise to signal smaller:")[1]
    assert (
        f"train.gradient-accumulation=4, all its examples in each of 2 steps: {whole:.3g}" in helps
    )
    assert "strategy.fraction-train=1.0, all nodes in every round at the same epsilon" in helps
    assert "a quarter of the numbers that train" in helps
    everyone = planned({**tiny_settings, **SAMPLE, "strategy.fraction-train": 1.0})
    assert "strategy.fraction-train=1.0" not in everyone


def test_noise_that_is_set_is_counted(tiny_settings: dict[str, Any]) -> None:
    text = planned({**tiny_settings, "privacy.mode": "sample", "privacy.noise-multiplier": 1.0})
    event = Event(noise_multiplier=1.0, sampling=8 / 27, steps=8)
    assert f"at most ({shown(epsilon([event], 1e-5))}, 1e-05)-differential" in text
    assert "z = 1 on node 0" in text


def test_noise_that_is_set_may_spend_the_target_early(tiny_settings: dict[str, Any]) -> None:
    event = Event(noise_multiplier=1.0, sampling=8 / 27, steps=4)
    three = epsilon([event] * 3, 1e-5)
    noisy = {**tiny_settings, **SAMPLE, "privacy.noise-multiplier": 1.0, "rounds": 5}
    text = planned({**noisy, "privacy.target-epsilon": three})
    assert f"at most ({shown(three)}, 1e-05)" in text
    assert "node 3 can train in 3 rounds, then sits out" in text
    assert "after 3 rounds in which all are asked, fewer than 2 nodes can go on" in text


def test_a_target_for_no_round_at_all_is_refused(tiny_settings: dict[str, Any]) -> None:
    noisy = {**SAMPLE, "privacy.target-epsilon": 1.0, "privacy.noise-multiplier": 0.5}
    with pytest.raises(ConfigError, match=r"target-epsilon = 1\.0: fewer than 2 nodes .* finish"):
        planned({**tiny_settings, **noisy})


@pytest.mark.parametrize("mode", ["sample", "user"])
def test_noise_without_a_guarantee_is_refused(mode: str, tiny_settings: dict[str, Any]) -> None:
    trust = {"privacy.trust": "server"} if mode == "user" else {}
    tiny = {"privacy.mode": mode, "privacy.noise-multiplier": 1e-7, **trust}
    with pytest.raises(ConfigError, match="leaves epsilon infinite, and guarantees nothing"):
        planned({**tiny_settings, **tiny})


def test_a_delta_that_promises_nothing_is_refused_for_all_nodes_at_once(
    tiny_settings: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match=r"nodes 0 \(27\), 1 \(27\), 2 \(27\), 3 \(27\).*0\.037"):
        planned({**tiny_settings, **SAMPLE, "privacy.delta": 0.5})


@pytest.mark.parametrize("mode", ["central", "local"])
def test_baselines_are_forecast_too(mode: str, tiny_settings: dict[str, Any]) -> None:
    text = planned({**tiny_settings, **SAMPLE, "mode": mode})
    assert f"the smallest, with {108 if mode == 'central' else 27} examples" in text
    assert "of 1 node noise averages out" in text


# ------------------------------------------------------------------ user level


def test_user_level_is_forecast_for_all_nodes(tiny_settings: dict[str, Any]) -> None:
    text = planned({**tiny_settings, **USER})
    noise = least_noise(4.0, 1e-5, 0.5, 2)
    assert "at most (4.00, 1e-05)-differential privacy for each node" in text
    assert f"z = {noise:.3g} on the server" in text
    assert "2 rounds, each of which draws 2 nodes on average (q = 0.5)" in text
    assert f"noise to signal: {noise * math.sqrt(611) / 2:.3g} in a round" in text
    everyone = least_noise(4.0, 1e-5, 1.0, 2) * math.sqrt(611) / 4
    assert f"strategy.fraction-train=1.0, all nodes in every round: {everyone:.3g} in" in text


def test_a_cohort_drawn_node_by_node_has_no_minimum(tiny_settings: dict[str, Any]) -> None:
    text = planned({**tiny_settings, **USER, "strategy.fraction-train": 0.25})
    assert "about 1 node a round in 2 rounds" in text  # min-replies, 2, would be too many
    more = planned({**tiny_settings, **USER, "strategy.fraction-train": 0.4})
    assert "about 1.6 nodes a round" in more


def test_a_norm_that_follows_takes_more_noise(tiny_settings: dict[str, Any]) -> None:
    follows = {"privacy.clip-quantile": 0.5, "privacy.noise-multiplier": 0.15}
    settings = {**tiny_settings, **USER, **follows, "privacy.target-epsilon": 0.0}
    deviation = (0.15**-2 - (2 * 2 / 20) ** -2) ** -0.5  # of q·N = 2 nodes
    assert f"{deviation:.3g}·1·√611 / 2" in planned(settings)


def test_too_few_nodes_for_a_norm_that_follows_are_refused(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match=r"below 0\.2, which is a tenth of the 2 nodes"):
        planned({**tiny_settings, **USER, "privacy.clip-quantile": 0.5})


def test_a_servers_noise_may_spend_the_target_early(tiny_settings: dict[str, Any]) -> None:
    event = Event(noise_multiplier=1.0, sampling=0.5, steps=3)
    spent = {"privacy.target-epsilon": epsilon([event], 1e-5), "privacy.noise-multiplier": 1.0}
    text = planned({**tiny_settings, **USER, **spent, "rounds": 5})
    assert "after round 3 of 5 privacy is spent, and the run ends" in text
    with pytest.raises(ConfigError, match="the server cannot finish a single round"):
        planned({**tiny_settings, **USER, **spent, "privacy.target-epsilon": 0.1})


def test_a_delta_that_promises_users_nothing_is_refused(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match="not below 1 over 4 nodes"):
        planned({**tiny_settings, **USER, "privacy.delta": 0.25})


# ------------------------------------------------------------------ what speaks against a run


def test_weak_guarantees_and_loud_noise_are_said(tiny_settings: dict[str, Any]) -> None:
    loud = planned({**tiny_settings, **SAMPLE})
    assert "mind: in a step, noise is" in loud
    assert "is above 10" not in loud
    weak = planned({**tiny_settings, "privacy.mode": "sample", "privacy.noise-multiplier": 0.2})
    assert "is above 10, where a guarantee counts as weak or none" in weak
    assert "mind: in a step" not in weak  # 0.2·√611 / 8 = 0.62


def test_a_run_is_cautioned_as_its_plan_is(tiny_settings: dict[str, Any]) -> None:
    config = parse({**tiny_settings, **SAMPLE, "privacy.unsafe-seed": 3})
    *told, last = cautions(config, preflight(config, 4), 4)
    assert "fedpeft plan" in last
    assert [line for line in told if "unsafe-seed" in line]
    assert all(
        f"mind: {line}" in planned({**tiny_settings, **SAMPLE, "privacy.unsafe-seed": 3})
        for line in told
    )
    plain = parse(tiny_settings)
    assert cautions(plain, preflight(plain, 4), 4) == []


def test_what_a_run_would_refuse_is_refused(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="min-nodes"):
        planned({**tiny_settings, "strategy.min-nodes": 9})
