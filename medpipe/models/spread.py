"""The four roles on devices of their own: a base and two adapters each, behind the same calls as one shared base.

`maporl.placement: per_role`, planner on the first GPU … reporter on the fourth, as far as there are so many. It needs the base once
per role, and gives each role the memory of a whole device. Left out: roles that speak at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medpipe.config import Model
from medpipe.models.policy import Policies, Sample
from medpipe.schema import ROLES, Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Spread:
    """Adapters by name, each on the base of its role."""

    def __init__(self, of: Mapping[str, Policies]) -> None:
        self._of = dict(of)

    @classmethod
    def load(cls, base: Path, adapters: Mapping[Role, Mapping[str, Path]], devices: Mapping[Role, str], choice: Model) -> Spread:
        """Load the base and a role's adapters (name → folder) on the role's device, role by role."""
        found: dict[str, Policies] = {}
        for role, own in adapters.items():
            policies = Policies.load(base, own, devices[role], choice)
            found |= dict.fromkeys(own, policies)
        return cls(found)

    def of(self, adapter: str | None) -> Policies:
        """Where an adapter lives."""
        return self._of[adapter] if adapter else next(iter(self._of.values()))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which all share."""
        return self.of(None).tokenizer

    @property
    def everyone(self) -> list[Policies]:
        """Each base once."""
        return list({id(policies): policies for policies in self._of.values()}.values())

    def parameters(self, adapter: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's own weights by name."""
        return self.of(adapter).parameters(adapter)

    def generate(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Sample]:  # fmt: skip
        """As `Policies.generate`."""
        return self.of(adapter).generate(adapter, prompts, max_new_tokens, temperature, generator)

    def mean_logp(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], batch: int
    ) -> list[float]:
        """As `Policies.mean_logp`."""
        return self.of(adapter).mean_logp(adapter, prompts, completions, batch)


def devices_of_roles(device: str) -> dict[Role, str]:
    """The role's GPUs in order, as many as this process may see; all on the CPU where the job is there."""
    if device == "cpu":
        return dict.fromkeys(ROLES, "cpu")
    return {role: f"cuda:{number % torch.cuda.device_count()}" for number, role in enumerate(ROLES)}
