"""What is added to a node's gradients so that nodes with different data drift apart less.

A correction is called once a step: after the backward passes of all of its batches, unscaled,
and before clipping. It acts on what the node trains and shares; what is personal, and tensors
that a step gives no gradient, stay without.

References:
    Li et al. 2018, arXiv 1812.06127 (FedProx).
    Karimireddy et al. 2019, arXiv 1910.06378 (SCAFFOLD).
"""

from typing import Protocol

import torch

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import require_same_spec
from fedpeft_app.methods.adapted import Part


class Correction(Protocol):
    """Changes the gradients of a step."""

    def __call__(self) -> None:
        """Change the gradients that the parameters hold, in place."""
        ...


class Proximal:
    """FedProx: the gradient of F_k(w) + μ/2 · ‖w − w_start‖², so that w stays near its start.

    Args:
        trained: What is pulled back; it holds the round's starting state, w_start, now.
        strength: μ, above 0.

    Raises:
        ValueError: If the strength is not above 0.

    Reference:
        Li et al. 2018, arXiv 1812.06127, equation 2.
    """

    def __init__(self, trained: Part, strength: float) -> None:
        if not strength > 0:  # also NaN
            raise ValueError(
                f"Expected a proximal strength above 0, got {strength}. For none, leave it out."
            )
        self._strength = strength
        self._pairs = [(value, value.detach().clone()) for value in trained.parameters]

    @torch.no_grad()
    def __call__(self) -> None:
        """Add μ (w − w_start) to the gradient of w."""
        for parameter, start in self._pairs:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._strength)


class Control:
    """SCAFFOLD: the gradient gains c − c_i, and the node's next c_i is the mean of its gradients.

    The mean is over the steps of a round, of the gradients as they were before any correction
    (so this one comes first) and before clipping. It is what the paper's option II computes for
    plain SGD, c_i − c + (x − y) / (K·η), where the sum of corrected gradients is read off the
    movement; with momentum, an adaptive optimizer or clipping the movement does not tell it.
    As in option II, the gradients are those along the way, not at the round's start (option I).

    Args:
        trained: What is corrected.
        control: c − c_i, for the same tensors; zeros to measure the mean and correct nothing.

    Raises:
        AdapterMismatchError: If the control is for other tensors.

    Reference:
        Karimireddy et al. 2019, arXiv 1910.06378, algorithm 1, lines 10 to 12.
    """

    def __init__(self, trained: Part, control: AdapterState) -> None:
        require_same_spec(trained.initial, control)
        self._spec = trained.spec
        self._rows = [
            (value, torch.tensor(shift, device=value.device), torch.zeros_like(value.detach()))
            for value, (_, shift) in zip(trained.parameters, control.items(), strict=True)
        ]
        self._steps = torch.zeros(())  # on the device after the first step: nothing is awaited

    @torch.no_grad()
    def __call__(self) -> None:
        """Add the gradients to their sum, and c − c_i to the gradients."""
        gradients = [value.grad for value, _, _ in self._rows if value.grad is not None]
        # Under fp16 the scaler passes over steps that overflowed; so does the mean.
        sound = torch.nn.utils.get_total_norm(gradients).isfinite()
        self._steps = self._steps.to(sound.device) + sound
        for parameter, shift, total in self._rows:
            if parameter.grad is not None:
                total.add_(torch.where(sound, parameter.grad, 0.0))
                parameter.grad.add_(shift)

    def mean(self) -> AdapterState:
        """Give c_i⁺, the mean gradient so far; zeros where no step counted."""
        flat = torch.cat([total.reshape(-1).cpu() for _, _, total in self._rows])
        steps = self._steps.clamp(min=1.0).cpu()
        return AdapterState(spec=self._spec, vector=(flat / steps).numpy())
