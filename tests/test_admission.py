"""Admission: what an owner's policy has against a run, all of it, before anything is touched."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from private_settings import SAMPLE, USER

from fedpeft_app import admission
from fedpeft_app.admission import (
    code_digest,
    model_objection,
    objections,
    policy_of,
    require_allowed,
)
from fedpeft_app.config import RunConfig, parse
from fedpeft_app.config.policy import Policy, parse_policy
from fedpeft_app.errors import ConfigError, NodeStateError, PolicyError
from fedpeft_app.node.shared_home import SHARED_MARK
from fedpeft_app.strategies.guard import short_reason

LIMITED = "max-epsilon = 3\nmax-delta = 1e-5"
COUNTED = {"privacy.mode": "sample", "privacy.target-epsilon": 3.0}


def against(text: str, asked: str = "", **settings: Any) -> list[str]:
    """What a policy has against a run."""
    return objections(parse_policy(text, "the policy"), parse(settings), asked)


def write(home: Path, text: str, name: str = "policy.toml") -> Path:
    home.mkdir(parents=True, exist_ok=True)
    path = home / name
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------ what is allowed


@pytest.mark.parametrize("settings", [{}, SAMPLE, USER, {"rounds": 10**6}, {"mode": "local"}])
def test_what_no_key_names_is_allowed(settings: dict[str, Any]) -> None:
    assert against("", **settings) == []


@pytest.mark.parametrize(
    ("key", "policy", "allowed", "refused"),
    [
        (
            "model.name",
            'models = ["org/*", "gpt2"]',
            ("org/x", "org/", "gpt2"),
            ("gpt2-xl", "Org/x"),
        ),
        ("method.name", 'methods = ["lora*"]', ("lora", "lora-fa"), ("full", "dora")),
        ("data.name", 'data = ["reuters-r8"]', ("reuters-r8",), ("/home/me/letters.csv",)),
        ("task", 'tasks = ["text-*"]', ("text-classification",), ("causal-lm",)),
    ],
)
def test_names_have_to_fit_a_pattern(
    key: str, policy: str, allowed: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    for name in allowed:
        assert against(policy, **{key: name}) == []
    for name in refused:
        (found,) = against(policy, **{key: name})
        assert found.startswith(f"{key} = '{name}' ({policy.partition(' ')[0]}: ")


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("/srv/public/a.csv", True),
        ("/srv//public/./a/b.csv", True),
        ("//srv/public/a.csv", True),
        ("/srv/public/../private.csv", False),
        ("/srv/public/..", False),
        ("/srv/publicly.csv", False),
        ("~/open/a.csv", True),
        ("~/letters.csv", False),
        ("reuters-r8", True),
        ("./reuters-r8", False),  # a folder
    ],
)
def test_a_path_is_judged_by_where_it_leads(
    name: str, *, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    policy = 'data = ["/srv/public/*", "~/open/*", "reuters-r8"]'
    assert (against(policy, **{"data.name": name}) == []) is fits
    if name.startswith("~"):
        assert (against(policy, **{"data.name": name.replace("~", "/home/me")}) == []) is fits


def test_a_model_in_no_folder_that_is_allowed_is_refused_however_it_is_written() -> None:
    policy = 'models = ["org/*", "scratch:*"]'
    for name in ("org/../letters", "scratch:../letters"):
        assert len(against(policy, **{"model.name": name})) == 1


def test_an_empty_list_allows_nothing() -> None:
    assert against("models = []")[0].endswith("(models: none)")


def test_rounds_have_a_limit() -> None:
    assert against("max-rounds = 5", rounds=5) == []
    assert against("max-rounds = 5", rounds=6) == ["rounds = 6 (max-rounds = 5)"]


def test_a_node_that_does_not_evaluate_refuses_runs_and_orders_that_would() -> None:
    no = "evaluation = false"
    assert against(no, "train") == []
    assert against(no, **{"strategy.fraction-evaluate": 0.5}) == [
        "strategy.fraction-evaluate = 0.5 (evaluation = false)"
    ]
    assert against(no, "evaluate") == ["an order to evaluate (evaluation = false)"]
    assert against("evaluation = true", "evaluate", **{"strategy.fraction-evaluate": 0.5}) == []


def test_a_models_weights_are_told_by_their_fingerprint() -> None:
    policy = Policy(model_fingerprints=("0" * 16,))
    assert model_objection(policy, "0" * 16) == ""
    assert "f" * 16 in model_objection(policy, "f" * 16)
    assert model_objection(Policy(), "f" * 16) == ""


# ------------------------------------------------------------------ code


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"strategy.name": "my_rules:Median"}, "strategy.name names 'my_rules:Median'"),
        ({"task": "a.b:Task"}, "task names 'a.b:Task'"),
        ({"method.name": "mine:Method"}, "method.name names 'mine:Method'"),
        ({"data.partitioner": "mine:split"}, "data.partitioner names 'mine:split'"),
        ({"strategy.cohort": "mine:draw"}, "strategy.cohort names 'mine:draw'"),
        (
            {"strategy.options": json.dumps({"folded_by": [{"name": "mine:Rule"}]})},
            "strategy.options names 'mine:Rule'",
        ),
        ({"task.options": r'{"read": "mine\u003aRead"}'}, "task.options names 'mine:Read'"),
        ({"method.options": '{"mine:Key": 1}'}, "method.options names 'mine:Key'"),
        ({"strategy.options": r'{"a": "größe:Regel"}'}, "strategy.options names 'größe:Regel'"),
    ],
)
def test_code_of_a_runs_own_is_found_wherever_it_is_named(
    settings: dict[str, Any], found: str
) -> None:
    assert against("", **settings) == [f"{found} by its path (own-code = false)"]
    assert against("own-code = true", **settings) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"method.name": "peft:LOHA"},
        {"method.options": '{"target": "a b:c", "text": "http://x", "time": "12:30"}'},
        {"model.name": "scratch:bert"},
        {"method.layers": "last:2"},
    ],
)
def test_what_only_looks_like_a_path_is_none(settings: dict[str, Any]) -> None:
    assert against("", **settings) == []


def test_code_is_told_by_the_start_of_its_digest() -> None:
    assert against(f'code = ["{"0" * 12}", "{code_digest()[:12]}"]') == []
    assert against(f'code = ["{code_digest()}"]') == []
    (found,) = against(f'code = ["{"0" * 12}"]')
    assert found.startswith(f"fedpeft's code is {code_digest()[:16]}")


def test_the_digest_of_the_code_follows_names_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(**files: str) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for name, text in files.items():
            write(folder, text, f"{name}.py")
        write(folder / "__pycache__", "", "x.pyc")
        monkeypatch.setattr(admission, "_PACKAGE", folder)
        return code_digest.__wrapped__()

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert (
        len({digest(a="1", b="2"), digest(a="2", b="1"), digest(a="1", c="2"), digest(a="1")}) == 4
    )


# ------------------------------------------------------------------ privacy


def test_modes_of_privacy_can_be_named() -> None:
    assert against('privacy = ["sample", "user"]', **SAMPLE) == []
    assert against('privacy = ["sample", "user"]', **USER) == []
    (found,) = against('privacy = ["sample", "user"]')
    assert found == "privacy.mode = 'none' (privacy: 'sample', 'user')"


@pytest.mark.parametrize("settings", [{}, USER], ids=["none", "user"])
@pytest.mark.parametrize("limit", ["max-epsilon", "max-total-epsilon"])
def test_where_epsilon_has_a_limit_the_node_counts_itself(
    limit: str, settings: dict[str, Any]
) -> None:
    (found,) = against(f"{limit} = 100\nmax-delta = 0.1", **settings)
    assert found.endswith("(a limit on epsilon needs 'sample')")


def test_a_run_has_to_state_a_target_within_the_limit() -> None:
    assert against(LIMITED, **COUNTED) == []
    assert against(LIMITED, **{**COUNTED, "privacy.target-epsilon": 3.1}) == [
        "privacy.target-epsilon = 3.1 (max-epsilon = 3)"
    ]
    (found,) = against(LIMITED, **SAMPLE)
    assert found == "privacy.target-epsilon = 0, none is set (max-epsilon = 3)"


@pytest.mark.parametrize("policy", [LIMITED, "max-delta = 1e-5"])
def test_delta_has_a_limit_with_epsilon_and_without(policy: str) -> None:
    assert against(policy, **{**COUNTED, "privacy.delta": 2e-5}) == [
        "privacy.delta = 2e-05 (max-delta = 1e-05)"
    ]


@pytest.mark.parametrize("policy", [LIMITED, 'privacy = ["sample"]'])
def test_noise_that_somebody_knows_is_none(policy: str) -> None:
    (found,) = against(policy, **COUNTED, **{"privacy.unsafe-seed": 0})
    assert found.startswith("privacy.unsafe-seed = 0")
    assert against('privacy = ["sample", "none"]', **COUNTED, **{"privacy.unsafe-seed": 0}) == []


# ------------------------------------------------------------------ where policies are

RUN = RunConfig()
REFUSING = "max-rounds = 1"


def test_without_a_policy_everything_is_allowed_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    admission._say_once.cache_clear()
    own = parse({"strategy.name": "my_rules:Median"})
    with caplog.at_level(logging.WARNING):
        require_allowed(own, {}, "train")
        assert not caplog.records  # whose process may be another one
        require_allowed(own, {}, "query.roll_call")
        require_allowed(own, {}, "query.roll_call")
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "This node has no policy"
    ]


def test_a_policy_at_home_holds_and_changes_at_once(own_home: Path) -> None:
    write(own_home, REFUSING)
    with pytest.raises(PolicyError, match=r"rounds = 5 \(max-rounds = 1\)"):
        require_allowed(RUN, {})
    write(own_home, "max-rounds = 5")
    require_allowed(RUN, {})


def test_a_policy_that_the_node_names_takes_the_place_of_that_at_home(
    own_home: Path, tmp_path: Path
) -> None:
    write(own_home, REFUSING)
    path = write(tmp_path, "max-rounds = 7")
    assert policy_of({"policy": str(path)}).max_rounds == 7


@pytest.mark.parametrize("name", ["gone.toml", "", "policy.toml", 3, True])
def test_a_policy_that_is_named_but_not_there_refuses_every_run(
    name: object, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_home.parent)
    write(Path.cwd(), "own-code = true")  # where a relative path would lead
    missing = str(tmp_path / "gone.toml") if name == "gone.toml" else name
    with pytest.raises(PolicyError, match="every run is refused"):
        require_allowed(RUN, {"policy": missing})


def test_a_policy_at_home_that_cannot_be_read_refuses_every_run(own_home: Path) -> None:
    path = write(own_home, "max-rounds = 5")
    path.unlink()
    path.symlink_to(own_home / "on-a-disk-that-is-gone.toml")
    with pytest.raises(PolicyError, match="every run is refused"):
        require_allowed(RUN, {})
    path.unlink()
    write(own_home, "max-rouds = 5")
    with pytest.raises(ConfigError, match="Did you mean 'max-rounds'"):
        require_allowed(RUN, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_home_that_cannot_be_searched_refuses_every_run(own_home: Path) -> None:
    write(own_home, "max-rounds = 5")
    own_home.chmod(0)
    try:
        with pytest.raises(PolicyError, match="every run is refused"):
            require_allowed(RUN, {})
    finally:
        own_home.chmod(0o700)


def test_all_objections_fit_into_one_reason(own_home: Path) -> None:
    long = "x" * 200
    patterns = json.dumps([f"{long}{number}" for number in range(9)])
    keys = ("models", "tasks", "methods", "data")
    names = "\n".join(f"{key} = []" for key in keys)
    write(
        own_home, f'{names}\nmax-rounds = 1\nevaluation = false\n{LIMITED}\ncode = ["{"0" * 12}"]'
    )
    worst = {
        "model.name": "sentence-transformers/all-MiniLM-L6-v2",
        "data.name": f"/{long}",
        "strategy.name": "my_rules:Median",
        "strategy.fraction-evaluate": 0.5,
        "rounds": 10**6,
    }
    with pytest.raises(PolicyError) as caught:
        require_allowed(parse(worst), {})
    said = short_reason(str(caught.value))
    assert said == str(caught.value)  # nothing is cut off
    assert said.count(";") == 8  # nine objections
    assert all(key in said for key in (*keys, "own-code", "code is", "evaluation", "'sample'"))
    assert len(against(f"models = {patterns}")[0]) < 250


def test_no_policy_is_missed_where_the_home_of_a_cluster_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED_MARK, str(tmp_path / "flower-1-2-3"))
    with pytest.raises(NodeStateError, match="all machines of the cluster share"):
        policy_of({})
