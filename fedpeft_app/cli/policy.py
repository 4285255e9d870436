"""`fedpeft policy`: what a node's owner may write, and what it would tell a run."""

from pathlib import Path

import typer
from rich.console import Console

from fedpeft_app.admission import code_digest, model_objection, objections
from fedpeft_app.backbone.locate import locate
from fedpeft_app.config import RunConfig
from fedpeft_app.config.policy import policy_template, read_policy

_DIGITS = 16  # of the digest of the code


def template() -> str:
    """Give a policy to start from, with this fedpeft's own digest in it."""
    return policy_template(code_digest()[:_DIGITS])


def judge(file: Path, config: RunConfig, console: Console) -> None:
    """Say what a policy has against a run, as a node would.

    The model is looked for, and downloaded if need be, only where its weights are asked for and
    nothing else is wrong. What a node has spent before is not looked at: it may be another one.

    Args:
        file: The policy.
        config: The run's configuration.
        console: Where to print.

    Raises:
        PolicyError: If the policy cannot be read.
        ConfigError: If there is something wrong with it.
        SourceError: If the model has to be looked at and is not to be had.
        typer.Exit: With status 1, if the run is refused.
    """
    policy = read_policy(file)
    found = objections(policy, config)
    if policy.model_fingerprints is not None and not found:
        located = locate(config.model.name, config.model.revision)
        found = [one for one in [model_objection(policy, located.fingerprint)] if one]
    if not found:
        console.print(
            f"allowed by {file}", style="green", markup=False, highlight=False, soft_wrap=True
        )
        return
    console.print(f"refused by {file}:", style="red", markup=False, highlight=False, soft_wrap=True)
    for objection in found:
        console.print(f"  {objection}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
