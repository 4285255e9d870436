"""`fedpeft plan`: what it says is what a run does."""

import io
from typing import Any

import pytest
from rich.console import Console

from fedpeft_app.cli.plan import print_plan
from fedpeft_app.config import parse
from fedpeft_app.errors import ConfigError, PrivacyError

SAMPLE = {"privacy.mode": "sample", "privacy.target-epsilon": 4.0}


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


def test_codecs_make_the_messages_smaller(tiny_settings: dict[str, Any]) -> None:
    assert "a message is 3.2 KiB up and 3.2 KiB down" in planned(tiny_settings)
    lossy = {**tiny_settings, "wire.uplink": "int4", "wire.downlink": "int8"}
    assert "3.2 KiB" not in planned(lossy)


def test_sample_level_is_forecast_for_every_node(tiny_settings: dict[str, Any]) -> None:
    text = planned({**tiny_settings, **SAMPLE})
    assert "(4.00, 1e-05)-differential privacy for each training example" in text
    assert all(f"{node}: " in text.split("epsilon of each node: ")[1] for node in range(4))
    assert "611 numbers and 8 contributions gives the mean noise of norm" in text


def test_user_level_is_forecast_for_all_nodes(tiny_settings: dict[str, Any]) -> None:
    user = {**SAMPLE, "privacy.mode": "user", "privacy.trust": "server"}
    text = planned({**tiny_settings, **user})
    assert "(4.00, 1e-05)-differential privacy for each node" in text
    assert "each of 4 nodes takes part in a round with probability 0.5" in text
    assert "611 numbers and 2 contributions" in text


def test_a_delta_that_promises_nothing_is_refused(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match="not below 1 over"):
        planned({**tiny_settings, **SAMPLE, "privacy.delta": 0.5})


def test_a_delta_that_promises_users_nothing_is_refused(tiny_settings: dict[str, Any]) -> None:
    user = {"privacy.mode": "user", "privacy.trust": "server", "privacy.target-epsilon": 4.0}
    with pytest.raises(PrivacyError, match="not below 1 over 4 nodes"):
        planned({**tiny_settings, **user, "privacy.delta": 0.25})


def test_what_a_run_would_refuse_is_refused(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="min-nodes"):
        planned({**tiny_settings, "strategy.min-nodes": 9})
