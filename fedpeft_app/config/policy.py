"""What the owner of a node allows: a small TOML file on the node, every key optional."""

import textwrap
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from fedpeft_app.config.fields import Count, Section
from fedpeft_app.config.flat import worded
from fedpeft_app.errors import ConfigError, Fault, PolicyError
from fedpeft_app.registry import near_miss

_Names = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists
_Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12,64}$")]  # 48 bits at least
_Mode = Literal["none", "sample", "user"]
_Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_MEANING_WIDTH = 92


class Policy(Section):
    """What runs may ask of a node. What is not named is allowed, but for code of a run's own."""

    models: _Names | None = Field(
        None, description="patterns of model.name, such as 'sentence-transformers/*'"
    )
    model_fingerprints: Annotated[tuple[_Fingerprint, ...], Field(strict=False)] | None = Field(
        None,
        description="the weights themselves: the 16 hex digits that the roll call calls backbone",
    )
    tasks: _Names | None = Field(None, description="patterns of task")
    methods: _Names | None = Field(
        None, description="patterns of method.name, such as 'lora*' or 'bias'"
    )
    data: _Names | None = Field(
        None,
        description="patterns of data.name, in which * crosses / too; a node without a data-path "
        "of its own reads from its disk, or downloads, what a run names there",
    )
    max_rounds: Count | None = Field(None, description="largest value of rounds")
    evaluation: bool = Field(
        True, description="whether the node tells how well a model does on its data"
    )
    own_code: bool = Field(
        False,
        description="whether a run may name plug-ins by their path, 'package.module:Name': "
        "whatever this machine can import",
    )
    code: Annotated[tuple[_Digest, ...], Field(strict=False)] | None = Field(
        None,
        description="the fedpeft that may run here, by the first 12 or more hex digits of its "
        "SHA-256 (of the package fedpeft_app, not what `fedpeft worker status` shows); binds "
        "honest code alone (docs/policy.md)",
    )
    privacy: Annotated[tuple[_Mode, ...], Field(strict=False)] | None = Field(
        None,
        description="values of privacy.mode: 'none', 'sample', 'user'. Promises nothing without "
        "max-epsilon: the run chooses how much noise there is",
    )
    max_epsilon: _Positive | None = Field(
        None,
        description="largest privacy.target-epsilon of one run; every run must then have one, and "
        "privacy.mode = 'sample', where this node counts for itself",
    )
    max_total_epsilon: _Positive | None = Field(
        None,
        description="epsilon at max-delta that all runs together stay within which ever trained on "
        "this machine; likewise",
    )
    max_delta: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="largest privacy.delta; below 1 over the number of examples that the node "
        "holds. Needed with max-epsilon and max-total-epsilon",
    )

    @property
    def counted(self) -> bool:
        """Whether epsilon has a limit, so that the node must be the one who counts it."""
        return self.max_epsilon is not None or self.max_total_epsilon is not None

    @property
    def private(self) -> bool:
        """Whether nothing may run without privacy."""
        return self.counted or (self.privacy is not None and "none" not in self.privacy)


# What the template shows behind each key: an example, never what holds without the key.
_EXAMPLES = {
    "models": '["sentence-transformers/*"]',
    "model-fingerprints": '["0123456789abcdef"]',
    "tasks": '["text-classification"]',
    "methods": '["lora*", "bias", "head"]',
    "data": '["reuters-r8"]',
    "max-rounds": "50",
    "evaluation": "false",
    "own-code": "true",
    "code": '["<code>"]',
    "privacy": '["sample"]',
    "max-epsilon": "3.0",
    "max-total-epsilon": "8.0",
    "max-delta": "1e-5",
}


def parse_policy(text: str, where: str) -> Policy:
    """Read a policy.

    Args:
        text: TOML.
        where: What it is called in errors.

    Raises:
        PolicyError: If it is not TOML.
        ConfigError: With every fault: unknown keys, wrong values, and what contradicts itself.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(
            f"Expected TOML in {where}, found something else: {error}. While it is there, every "
            f"run is refused; `fedpeft policy` prints one to start from."
        ) from error
    if faults := _faults(table):
        raise ConfigError(faults, where=where)
    return Policy.model_validate(table)


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Args:
        path: The file.

    Raises:
        PolicyError: If it is missing, cannot be read, or is not TOML.
        ConfigError: With every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise PolicyError(
            f"Expected this node's policy in {path}, but cannot read it: {reason}. Until it can "
            f"be read, every run is refused."
        ) from error
    return parse_policy(text, f"the policy {path}")


def policy_template(code: str) -> str:
    """Write a policy of comments alone: one about each key, and an example of it.

    Args:
        code: The first hex digits of the SHA-256 of the fedpeft that is installed.
    """
    lines = [
        "# What runs may ask of this node (docs/policy.md). What no key names is allowed, but for",
        "# plug-ins named by their path. Take the '#' from the keys that you want.",
    ]
    for name, field in Policy.model_fields.items():
        key = field.alias or name
        wrapped = textwrap.wrap(
            field.description or "", _MEANING_WIDTH, initial_indent="# ", subsequent_indent="# "
        )
        example = _EXAMPLES[key].replace("<code>", code)
        lines += ["", *wrapped, f"# {key} = {example}"]
    return "\n".join(lines)


def _faults(table: dict[str, Any]) -> list[Fault]:
    """Collect everything that is wrong with a policy."""
    known = [field.alias or name for name, field in Policy.model_fields.items()]
    faults = [
        Fault(key=key, value=value, problem=f"unknown key.{near_miss(key, known)}")
        for key, value in table.items()
        if key not in known
    ]
    given = {key: value for key, value in table.items() if key in known}
    try:
        return faults + _contradictions(Policy.model_validate(given))
    except ValidationError as error:
        return faults + [_fault(detail) for detail in error.errors()]


def _fault(detail: ErrorDetails) -> Fault:
    """Word one pydantic error."""
    key, *place = detail["loc"]
    meaning = {field.alias or name: field for name, field in Policy.model_fields.items()}
    which = f" (entry {int(place[0]) + 1})" if place else ""
    expected = str(detail.get("ctx", {}).get("expected", ""))
    named = expected.replace(" or ", ", ").replace("'", "").split(", ") if expected else []
    problem = worded(detail["msg"]).replace("a valid tuple", "a list")
    hint = near_miss(str(detail["input"]), named)
    return Fault(
        key=f"{key}{which}",
        value=detail["input"],
        problem=f"{problem} ({meaning[str(key)].description}).{hint}",
    )


def _contradictions(policy: Policy) -> list[Fault]:
    """Collect what no run could obey, or what a limit would mean nothing without."""
    faults = []
    for key, most in (
        ("max-epsilon", policy.max_epsilon),
        ("max-total-epsilon", policy.max_total_epsilon),
    ):
        if most is None:
            continue
        if policy.max_delta is None:
            problem = "no epsilon means anything without a delta: set max-delta too."
            faults.append(Fault(key=key, value=most, problem=problem))
        if policy.privacy is not None and set(policy.privacy) - {"sample"}:
            problem = (
                f"privacy = {list(policy.privacy)} allows what this node does not count; leave "
                f"'sample' alone there, or take this limit out."
            )
            faults.append(Fault(key=key, value=most, problem=problem))
    return faults
