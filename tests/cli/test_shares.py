"""Which share of a GPU clients may be given; on a machine that plays one with GPUs."""

from pathlib import Path

import pytest

from fedpeft_app.cli import shares
from fedpeft_app.cli.shares import gpus_here, names_of_gpus, require_share, share_caution
from fedpeft_app.config import parse
from fedpeft_app.errors import ConfigError


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    monkeypatch.setattr(shares, "_GPUS", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "_GPUS", tmp_path / "none")
    monkeypatch.setattr(shares, "_DEV", tmp_path / "dev")
    monkeypatch.setattr("shutil.which", lambda _: None)


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, 2), ("", 0), ("-1", 0), ("1", 1), ("0,1", 2), ("1,0,2", 2)]
)
def test_gpus_are_those_that_are_visible(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: int
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_here() == expected
    assert names_of_gpus() == ((visible or "0,1").split(",") if expected else [])


@pytest.mark.parametrize("hint", ["dxg", "nvidia0", "nvidia-smi"])
def test_where_proc_lists_none_torch_is_asked(
    no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hint: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert gpus_here() == 0  # nothing speaks for one, so torch is not imported for it
    if hint == "nvidia-smi":
        monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    else:
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev" / hint).touch()
    assert gpus_here() == 2
    require_share(parse({}), 0.5, here=True)


def test_a_fraction_is_taken_where_there_is_a_gpu(two_gpus: None) -> None:
    require_share(parse({}), 0.25, here=True)
    require_share(parse({}), 0.0, here=True)


def test_a_share_of_nothing_is_refused(no_gpu: None) -> None:
    with pytest.raises(ConfigError, match=r"--client-gpus = 0.5: this machine has no NVIDIA GPU"):
        require_share(parse({}), 0.5, here=True)
    require_share(parse({}), 0.5, here=False)  # the cluster may have some


def test_more_than_one_gpu_for_a_client_is_refused(two_gpus: None) -> None:
    with pytest.raises(ConfigError, match="a client trains on one GPU"):
        require_share(parse({}), 2.0, here=True)


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"train.precision": "fp16"}, "fp16"),
        ({"model.dtype": "float16"}, "fp16"),
        ({"model.quantization": "nf4", "model.dtype": "bfloat16"}, "model.quantization = 'nf4'"),
    ],
)
def test_what_only_a_gpu_can_do_needs_a_share(
    two_gpus: None, settings: dict[str, str], culprit: str
) -> None:
    with pytest.raises(ConfigError, match=f"{culprit}.* needs a GPU, and clients get none"):
        require_share(parse(settings), 0.0, here=True)
    require_share(parse(settings), 1.0, here=True)


def test_an_idle_gpu_is_pointed_at(two_gpus: None) -> None:
    assert "--client-gpus" in share_caution(0.0)[0]
    assert share_caution(0.5) == []


def test_without_a_gpu_there_is_nothing_to_point_at(no_gpu: None) -> None:
    assert share_caution(0.0) == []
