"""The guard: what is silent elsewhere is found, said, and leaves the model as it was."""

from typing import Any

import peft
import pytest
import torch
from privacy_models import TOKENS, Net, llama, points, spoiling, squares

from fedpeft_app.data.tasks.causal_lm import CausalLM
from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.per_sample import Engine, Rows, hooked, trained, vmapped
from fedpeft_app.privacy.soundness import choose

PROBES = [points(2), points(3)]
TEXTS = [TOKENS, {name: value[:2] for name, value in TOKENS.items()}]
TASK = CausalLM()


def chosen(model: Any, losses: Any = squares, probes: Any = None, **engines: Engine) -> str:
    return choose(
        engines or {"hooks": hooked, "vmap": vmapped},
        model,
        losses,
        losses,
        probes or PROBES,
        tolerance=1e-5,
    )


def prompted() -> Any:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return peft.get_peft_model(llama(), config).train()


def test_the_first_that_is_right_is_taken() -> None:
    assert chosen(Net()) == "hooks"
    assert chosen(Net(), vmap=vmapped, hooks=hooked) == "vmap"


# ------------------------------------------------------------------ three silent failures


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # Opacus by itself
def test_a_causal_prompt_would_clip_the_batch_as_one_example() -> None:
    model = prompted()
    with pytest.raises(PrivacyError, match="hooks: .*prompt_encoder.*got others"):
        chosen(model, TASK.losses, TEXTS, hooks=hooked)
    # Nothing but the guard tells: Opacus finds rows for the one tensor that trains, and would
    # clip and add noise to them.
    from opacus.grad_sample import GradSampleHooks

    hooks = GradSampleHooks(model, loss_reduction="sum")
    TASK.losses(model, TOKENS).sum().backward()
    (found,) = [value.grad_sample for value in trained(model).values()]
    hooks.cleanup()
    assert found.shape[0] == 1
    assert len(TOKENS["input_ids"]) == 3


def test_the_loss_of_a_batch_of_texts_would_couple_them() -> None:
    # As transformers computes it from labels, and as training without privacy does: the mean
    # over the tokens of all texts. An example's part of it depends on the others' lengths.
    def shares(model: Any, batch: Any) -> Any:
        tokens = (batch["labels"][:, 1:] != -100).sum(dim=1)
        return TASK.losses(model, batch) * tokens / tokens.sum()

    model = llama()
    model.requires_grad_(requires_grad=False)
    model.lm_head.weight.requires_grad_(requires_grad=True)
    together = shares(model, TOKENS).sum()
    torch.testing.assert_close(together, TASK.loss(model, TOKENS))
    torch.testing.assert_close(together, model(**TOKENS).loss)
    with pytest.raises(PrivacyError, match="hooks: 'lm_head.weight' is off by"):
        chosen(model, shares, TEXTS, hooks=hooked)
    assert chosen(model, TASK.losses, TEXTS, hooks=hooked) == "hooks"


def test_images_cut_into_windows_would_be_counted_by_the_window() -> None:
    class Windows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            each = self.layer(torch.cat([x, -x]).view(-1, 1, 3))
            return each.view(2, -1).square().sum(dim=0)

    model = Windows()
    with pytest.raises(PrivacyError, match="hooks: .* of 'layer.weight', .* got others"):
        chosen(model, hooks=hooked)
    assert chosen(model) == "vmap"


# ------------------------------------------------------------------ what else it finds


def test_a_model_that_looks_at_the_mean_of_a_batch_is_found() -> None:
    class Centred(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x - 0.5 * x.mean(dim=0))

    with pytest.raises(PrivacyError, match="hooks: 'trained.weight' is off by"):
        chosen(Centred(), hooks=hooked)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model, rows: [tensor * 1.001 for tensor in rows], "is off by"),
        (lambda model, rows: [tensor * float("nan") for tensor in rows], "is off by nan"),
        (lambda model, rows: [tensor.flip(0) for tensor in rows], "is off by"),
        (lambda model, rows: [tensor.mean(0, True).expand_as(tensor) for tensor in rows], "is off"),
    ],
)
def test_rows_that_are_wrong_are_refused(spoil: Any, words: str) -> None:
    with pytest.raises(PrivacyError, match=f"broken: 'trained.weight' {words}"):
        chosen(Net(), broken=spoiling(hooked, spoil))


def test_a_fault_does_not_hide_behind_zeros_that_a_method_starts_from() -> None:
    class Lora(torch.nn.Module):
        """x ↦ B A x from B = 0, where A has no gradient, right or wrong."""

        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(3, 2, bias=False)
            self.b = torch.nn.Linear(2, 1, bias=False)
            torch.nn.init.zeros_(self.b.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)).squeeze(1)

    def spoil(model: Any, rows: Rows) -> Rows:
        return [2 * rows[0], rows[1]]

    with pytest.raises(PrivacyError, match="broken: 'a.weight' is off by"):
        chosen(Lora(), broken=spoiling(hooked, spoil))


def test_frozen_weights_that_move_are_refused() -> None:
    def drift(model: Any, rows: Rows) -> Rows:
        with torch.no_grad():
            model.frozen.weight.data.view(-1)[0] += 1e-7  # not even counted as a change by torch
        return rows

    with pytest.raises(PrivacyError, match="drifting: a step moves frozen weights"):
        chosen(Net(), drifting=spoiling(hooked, drift))


def test_weights_that_do_not_move_are_refused() -> None:
    def losses(model: Any, batch: Any) -> Any:
        return squares(model, batch) * 0.0

    with pytest.raises(PrivacyError, match="vmap: a step moves nothing"):
        chosen(Net(), losses)


def test_what_only_fails_in_training_is_refused() -> None:
    class Moody(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and bool(x.sum() > 0):  # vmap does not branch on values
                return super().forward(x)
            return super().forward(x)

    model = Moody().train()
    with pytest.raises(PrivacyError, match="vmap: .*data-dependent control flow"):
        chosen(model, vmap=vmapped)


@pytest.mark.parametrize("right", [True, False])
def test_afterwards_the_model_is_as_it_was(*, right: bool) -> None:
    model = Net(dropout=0.5).train()
    model.frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state()
    if right:
        chosen(model)
    else:
        with pytest.raises(PrivacyError):
            chosen(model, broken=spoiling(hooked, lambda model, rows: [2 * row for row in rows]))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(value.grad is None for value in model.parameters())


def test_dropout_hides_no_fault_and_makes_none() -> None:
    assert chosen(Net(dropout=0.5).train()) == "hooks"
