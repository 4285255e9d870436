"""Whether a run may ask this node for anything: the policy of its owner, judged by the node.

Imports nothing heavy: it comes before everything else that a node does.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.config.policy import Policy, read_policy
from fedpeft_app.errors import PolicyError
from fedpeft_app.methods.catalogue import is_of_peft
from fedpeft_app.mirrors import home
from fedpeft_app.mirrors.digest import file_sha256
from fedpeft_app.node.shared_home import require_shared_home
from fedpeft_app.registry import is_path

_NODE_KEY = "policy"  # in --node-config
_FIRST = "query.roll_call"  # what a run asks a node first
_PACKAGE = Path(__file__).parent
_MOST_LISTED, _LONGEST = 3, 40  # entries, characters: all objections have to fit into one reason
_EVERYTHING = Policy(own_code=True)
_log = logging.getLogger(__name__)


def require_allowed(config: RunConfig, node_config: Mapping[str, Any], asked: str = "") -> None:
    """Refuse a run that this node's owner does not allow, before anything of it is looked at.

    Args:
        config: The run's configuration.
        node_config: The node's own.
        asked: Flower's type of the message, such as "train"; empty for a run as a whole.

    Raises:
        PolicyError: With every objection; or if the policy is missing though it is named, or
            cannot be read.
        ConfigError: If there is something wrong with the policy: nobody knows what it allows.
    """
    policy = policy_of(node_config)
    if policy is _EVERYTHING and asked == _FIRST:  # a process may live for one message alone
        _say_once(
            "This node has no policy, so it takes part in whatever run it is asked to. "
            "`fedpeft policy` prints one to start from."
        )
    if found := objections(policy, config, asked):
        raise PolicyError(_said(found))


def require_model(policy: Policy, fingerprint: str) -> None:
    """Refuse weights that the owner has not named, before data is touched.

    Args:
        policy: The owner's.
        fingerprint: That of the run's backbone, as this node has it.

    Raises:
        PolicyError: If it is not among those permitted.
    """
    if problem := model_objection(policy, fingerprint):
        raise PolicyError(_said([problem]))


def policy_of(node_config: Mapping[str, Any]) -> Policy:
    """Read the policy that holds for a node; anew every time, so that a change counts at once.

    Args:
        node_config: The node's own configuration; "policy" names a file.

    Returns:
        The policy of that file; without one that of $FEDPEFT_HOME/policy.toml; without that, one
        that allows everything.

    Raises:
        PolicyError: If a policy is named or is there, but cannot be read.
        ConfigError: If there is something wrong with it.
        NodeStateError: If this machine of a cluster does not share the home of the others.
    """
    if _NODE_KEY in node_config:
        path = Path(str(node_config[_NODE_KEY]))
        if not path.is_absolute():
            raise PolicyError(
                f"Expected an absolute path for {_NODE_KEY} in this node's --node-config, got "
                f"{node_config[_NODE_KEY]!r}. Until it is one, every run is refused."
            )
        return read_policy(path)
    require_shared_home()
    path = home() / "policy.toml"
    try:
        path.lstat()  # a link that leads nowhere is there, and cannot be read
    except FileNotFoundError:
        return _EVERYTHING
    except OSError:
        _log.debug("Cannot look for %s; reading it says why", path)
    return read_policy(path)


def objections(policy: Policy, config: RunConfig, asked: str = "") -> list[str]:
    """List all that a policy has against a run, but for what only its model's weights show.

    Args:
        policy: The owner's.
        config: The run's configuration.
        asked: As for `require_allowed`.

    Returns:
        Sentences without a full stop, each with the run's setting and the policy's key; empty if
        the run is allowed.
    """
    return [
        *_other_names(policy, config),
        *_other_code(policy, config),
        *_too_much(policy, config, asked),
        *_too_little_privacy(policy, config),
    ]


def model_objection(policy: Policy, fingerprint: str) -> str:
    """Say what a policy has against a model's weights; empty if nothing.

    Args:
        policy: The owner's.
        fingerprint: Sixteen hex digits.
    """
    allowed = policy.model_fingerprints
    if allowed is None or fingerprint in allowed:
        return ""
    return f"the model's weights are {fingerprint} ({_listed('model-fingerprints', allowed)})"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Give the SHA-256 of the fedpeft that is running: of names and content of its modules."""
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(_PACKAGE).as_posix()}:{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _other_names(policy: Policy, config: RunConfig) -> Iterator[str]:
    """Object to names that fit none of the patterns for them."""
    for key, value, name, patterns in (
        ("model.name", config.model.name, "models", policy.models),
        ("task", config.task, "tasks", policy.tasks),
        ("method.name", config.method.name, "methods", policy.methods),
        ("data.name", config.data.name, "data", policy.data),
    ):
        if patterns is not None and not _fits(value, patterns):
            yield f"{key} = {_short(value)} ({_listed(name, patterns)})"


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a name fits a pattern: a path by what it leads to, and never one that goes up."""
    if ".." in re.split("[/:]", name):  # behind a colon too: "scratch:../folder"
        return False
    named = _plain(name)
    return any(fnmatchcase(named, _plain(one)) for one in patterns)


def _plain(path: str) -> str:
    """Write out `~`, and leave out of an absolute path what means nothing.

    A relative one stays: "./reuters-r8" is a folder, "reuters-r8" is not.
    """
    path = os.path.expanduser(path)
    return "/" + os.path.normpath(path).lstrip("/") if path.startswith("/") else path


def _other_code(policy: Policy, config: RunConfig) -> Iterator[str]:
    """Object to code of the run's own, and to a fedpeft that is not named."""
    if not policy.own_code:
        for key, path in _paths(config):
            yield f"{key} names {_short(path)} by its path (own-code = false)"
    if policy.code is not None and not any(map(code_digest().startswith, policy.code)):
        yield f"fedpeft's code is {code_digest()[:16]}… ({_listed('code', policy.code)})"


def _too_much(policy: Policy, config: RunConfig, asked: str) -> Iterator[str]:
    """Object to more work than is allowed, and to telling how models do on the node's data."""
    if policy.max_rounds is not None and config.rounds > policy.max_rounds:
        yield f"rounds = {config.rounds} (max-rounds = {policy.max_rounds})"
    share = config.strategy.fraction_evaluate
    if not policy.evaluation and share:
        yield f"strategy.fraction-evaluate = {share:g} (evaluation = false)"
    elif not policy.evaluation and asked.startswith("evaluate"):  # against its own settings
        yield "an order to evaluate (evaluation = false)"


def _too_little_privacy(policy: Policy, config: RunConfig) -> Iterator[str]:
    """Object to what a run would tell of the node's data."""
    asked = config.privacy
    modes: tuple[str, ...] | None = ("sample",) if policy.counted else policy.privacy
    if modes is not None and asked.mode not in modes:
        why = "a limit on epsilon needs 'sample'" if policy.counted else _listed("privacy", modes)
        yield f"privacy.mode = '{asked.mode}' ({why})"
        return
    if policy.private and asked.unsafe_seed >= 0:
        yield f"privacy.unsafe-seed = {asked.unsafe_seed} (who knows it takes the noise off)"
    if asked.mode == "none":
        return
    if policy.max_epsilon is not None and not 0 < asked.target_epsilon <= policy.max_epsilon:
        unset = "" if asked.target_epsilon else ", none is set"
        yield (
            f"privacy.target-epsilon = {asked.target_epsilon:g}{unset} "
            f"(max-epsilon = {policy.max_epsilon:g})"
        )
    if policy.max_delta is not None and asked.delta > policy.max_delta:
        yield f"privacy.delta = {asked.delta:g} (max-delta = {policy.max_delta:g})"


def _paths(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Find what names a plug-in by its path, with its key."""
    from fedpeft_app.names import REGISTRIES  # a tenth of a second that no other policy needs

    flat = flatten(config)
    for key, registry in REGISTRIES.items():
        name = str(flat[key])
        of_peft = key == "method.name" and is_of_peft(name)
        if is_path(name) and name not in registry.names() and not of_peft:
            yield key, name
    for key, value in flat.items():
        if key.endswith(".options"):  # read as JSON, for an escape hides a path from who does not
            yield from ((key, text) for text in _texts(json.loads(str(value))) if is_path(text))


def _texts(value: object) -> Iterator[str]:
    """Walk over all texts in a JSON value, names of items too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _said(found: Sequence[str]) -> str:
    """Put objections into one sentence."""
    return (
        f"Expected a run that this node's policy allows, got one with {'; '.join(found)}. Change "
        f"the run, or leave this node out."
    )


def _listed(key: str, allowed: Sequence[str]) -> str:
    """Write what a key allows, as far as that is short."""
    more = ", …" if len(allowed) > _MOST_LISTED else ""
    return f"{key}: {', '.join(map(_short, allowed[:_MOST_LISTED])) or 'none'}{more}"


def _short(text: str) -> str:
    """Quote a text, as much of it as fits."""
    return repr(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


@lru_cache(maxsize=8)
def _say_once(text: str) -> None:
    """Write something into this process's log, unless it is there already."""
    _log.warning(text)
