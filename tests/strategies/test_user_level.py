"""User-level privacy around strategies: who is drawn, what is folded, what is refused."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decoded import Decoded
from flwr.app import Message
from low_rank_samples import low_rank_state
from strategy_samples import (
    ScriptedGrid,
    failure,
    ledger,
    members,
    plan,
    reply_of,
    state_of,
    update,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.algebra import norm
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.errors import BudgetSpentError, PrivacyError, QuorumError, RollCallError
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.randomness import randomness
from fedpeft_app.privacy.user_level import Follow, NoisyMean
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.guard import NOTHING
from fedpeft_app.strategies.rounds import RoundResult, run_rounds
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, Strategy
from fedpeft_app.strategies.user_level import UserLevel, poisson_cohort
