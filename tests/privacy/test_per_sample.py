"""Two engines and a loop: the same rows, and a model that is as it was."""

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from privacy_models import TOKENS, Net, llama, points, squares

from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.per_sample import Engine, hooked, one_by_one, trained, vmapped

ENGINES = pytest.mark.parametrize("engine", [hooked, vmapped], ids=["hooks", "vmap"])


class Embeds(torch.nn.Module):
    """The sum of a text's rows of an embedding."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(4, 1, padding_idx=padding)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).sum(dim=(1, 2))


def left(model: torch.nn.Module) -> set[str]:
    """What modules and parameters carry beyond what torch gives them."""
    plain = torch.nn.Linear(1, 1).__dict__.keys() | {"padding_idx", "in_features"}
    names = {name for module in model.modules() for name in module.__dict__.keys() - plain}
    names |= {name for value in model.parameters() for name in value.__dict__}
    hooks = [module for module in model.modules() if module._forward_hooks]
    hooks += [module for module in model.modules() if module._backward_hooks]
    return names | ({"hooks"} if hooks else set())


@ENGINES
def test_rows_by_hand(engine: Engine) -> None:
    # The gradient of (w·x + v − y)² is 2 (w·x + v − y) (x, 1); from zeros, −2y (x, 1).
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    batch = {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "y": torch.tensor([1.0, 10.0])}

    def losses(model: Any, batch: Any) -> Any:
        return (model(batch["x"]).squeeze(1) - batch["y"]).square()

    with engine(model, losses) as gradients:
        weight, bias = gradients(batch)
    assert weight.tolist() == [[[-2.0, -4.0]], [[-60.0, -80.0]]]
    assert bias.tolist() == [[-2.0], [-20.0]]
    assert all(parameter.grad is None for parameter in model.parameters())


@ENGINES
@pytest.mark.parametrize("size", [1, 2, 5])
def test_engines_equal_the_loop_batch_after_batch(engine: Engine, size: int) -> None:
    model = Net()
    expected = one_by_one(model, squares, points(size))
    with engine(model, squares) as gradients:
        for _ in range(2):
            for got, right in zip(gradients(points(size)), expected, strict=True):
                torch.testing.assert_close(got, right)


@ENGINES
def test_the_model_is_left_as_it_was(engine: Engine) -> None:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clean = left(model)
    with engine(model, squares) as gradients:
        gradients(points(2))
    assert left(model) == clean
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@ENGINES
def test_what_failed_leaves_nothing_that_the_next_trips_over(engine: Engine) -> None:
    model = Net()
    clean = left(model)

    def failing(model: Any, batch: Any) -> Any:
        squares(model, batch)  # activations are kept by now
        raise RuntimeError("out of memory")

    with (
        pytest.raises(RuntimeError, match="out of memory"),
        engine(model, failing) as gradients,
    ):
        gradients(points(3))
    assert left(model) == clean
    with engine(model, squares) as gradients:
        found = gradients(points(2))
    for got, right in zip(found, one_by_one(model, squares, points(2)), strict=True):
        torch.testing.assert_close(got, right)


def test_a_layer_with_buffers_is_refused_by_hooks_and_leaves_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.BatchNorm1d(1), torch.nn.Flatten(0))
    clean = left(model)
    with pytest.raises(NotImplementedError, match="buffers"), hooked(model, squares):
        pass
    assert left(model) == clean


@ENGINES
def test_what_plays_no_part_has_rows_of_zeros(engine: Engine) -> None:
    model = Net()
    model.unused = torch.nn.Parameter(torch.ones(2))
    with engine(model, squares) as gradients:
        found = dict(zip(trained(model), gradients(points(3)), strict=True))
    assert found["unused"].tolist() == [[0.0, 0.0]] * 3


@ENGINES
def test_only_what_trains_now_has_rows(engine: Engine) -> None:
    model = Net()
    model.trained.bias.requires_grad_(requires_grad=False)
    with engine(model, squares) as gradients:
        assert [tuple(rows.shape) for rows in gradients(points(2))] == [(2, 1, 4)]


@ENGINES
def test_a_parameter_under_two_names_is_one(engine: Engine) -> None:
    model = llama(tie_word_embeddings=True)
    model.requires_grad_(requires_grad=False)
    model.lm_head.weight.requires_grad_(requires_grad=True)

    def losses(model: Any, batch: Any) -> Any:
        return model(input_ids=batch["input_ids"]).logits.square().mean(dim=(1, 2))

    batch = {"input_ids": torch.tensor([[3, 4], [5, 6]])}
    (right,) = one_by_one(model, losses, batch)
    with engine(model, losses) as gradients:
        (got,) = gradients(batch)
    torch.testing.assert_close(got, right)


def test_a_module_with_two_parents_is_whole_after_vmap() -> None:
    # torch.func.functional_call puts values into it twice and takes them out once.
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(3, 3)
            self.second = torch.nn.Sequential(self.first, torch.nn.Linear(3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)).squeeze(1)

    model = Twice()
    with vmapped(model, squares) as gradients:
        found = gradients(points(2))
    assert all(isinstance(value, torch.nn.Parameter) for value in model.first._parameters.values())
    for got, right in zip(found, one_by_one(model, squares, points(2)), strict=True):
        torch.testing.assert_close(got, right)


def test_rows_of_half_precision_are_float32() -> None:
    def losses(model: Any, batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return squares(model, batch).float()

    model = Net()
    exact = one_by_one(model, squares, points(3))
    for engine in (hooked, vmapped):
        with engine(model, losses) as gradients:
            for got, right in zip(gradients(points(3)), exact, strict=True):
                assert got.dtype == torch.float32
                torch.testing.assert_close(got, right, rtol=0.05, atol=0.05)


def test_each_example_has_dropout_of_its_own_under_vmap() -> None:
    model = Net(dropout=0.5).train()
    batch = {name: value[:1].expand(20, *value.shape[1:]) for name, value in points(1).items()}
    with vmapped(model, squares) as gradients:
        weight, _ = gradients(batch)
    assert len({tuple(row) for row in weight.flatten(1).tolist()}) > 1


def test_a_tensor_without_rows_is_named() -> None:
    class Lent(torch.nn.Module):
        """A layer that applies what another one owns, as (IA)³ and VeRA in PEFT."""

        def __init__(self) -> None:
            super().__init__()
            self.owner = torch.nn.ParameterDict({"scale": torch.nn.Parameter(torch.ones(3))})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.owner["scale"]).sum(1)

    with (
        pytest.raises(
            PrivacyError, match="of 'owner.scale', .* for each example of a batch, got none"
        ),
        hooked(Lent(), squares) as gradients,
    ):
        gradients(points(2))


def test_a_batch_counted_as_one_example_is_refused() -> None:
    # A prompt that a model computes once and repeats: Opacus sees a batch of one.
    class Prompted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = torch.nn.Embedding(1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            once = self.prompt(torch.zeros(1, 1, dtype=torch.long))[:, 0]
            return (x * once.repeat(len(x), 1)).sum(1)

    model = Prompted()
    with (
        pytest.raises(
            PrivacyError, match="of 'prompt.weight', .* for each example of a batch, got others"
        ),
        hooked(model, squares) as gradients,
    ):
        gradients(points(3))
    with vmapped(model, squares) as gradients:
        (got,) = gradients(points(3))
    torch.testing.assert_close(got, one_by_one(model, squares, points(3))[0])


def test_hooks_mistake_the_row_that_is_padding() -> None:
    # Autograd gives the padding row no gradient; Opacus' sampler of embeddings does.
    def losses(model: Any, batch: Any) -> Any:
        return model(batch["ids"])

    model, batch = Embeds(padding=0), {"ids": TOKENS["input_ids"].clamp(max=3)}
    (right,) = one_by_one(model, losses, batch)
    with hooked(model, losses) as gradients:
        (wrong,) = gradients(batch)
    with vmapped(model, losses) as gradients:
        (got,) = gradients(batch)
    assert right[2].flatten().tolist() == [0.0, 0.0, 0.0, 2.0]
    assert wrong[2].flatten().tolist() == [2.0, 0.0, 0.0, 2.0]
    assert torch.equal(got, right)


def test_importing_opacus_leaves_logging_alone() -> None:
    code = (
        "import logging, torch\n"
        "from fedpeft_app.privacy.per_sample import hooked\n"
        "with hooked(torch.nn.Linear(1, 1), None): pass\n"
        "import sys; assert 'opacus' in sys.modules; print(logging.root.handlers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.strip() == "[]"
    assert logging.root.handlers is not None
