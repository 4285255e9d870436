"""AdaLoRA: known, and refused, because there is nothing sound to average.

Reference:
    Zhang et al. 2023, arXiv 2303.10512.
"""

from typing import Any, NoReturn

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import MethodSettings


class AdaLora:
    """Says why AdaLoRA does not federate."""

    name = "adalora"
    learning_rate = 2e-3
    head_learning_rate = 1e-2
    peft = True
    merges = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> NoReturn:
        """Refuse.

        Raises:
            BackboneError: Always.
        """
        raise BackboneError(
            "method.name = 'adalora' does not federate: every client would prune singular values "
            "of its own, by sensitivities that it gathers over its steps, and neither those nor "
            "the masks are among the tensors that travel, so a mean has no meaning. Use 'lora', "
            "or 'pissa', which starts from singular values too."
        )
