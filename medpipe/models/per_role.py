"""The four roles on devices of their own: a base for each, behind the same calls as one shared base.

`maporl.placement: per_role`, planner on the first GPU … reporter on the fourth, as far as there are so many. It needs the base once
per role, and gives each role the memory of a whole device. Left out: roles that speak at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medpipe.config import Model
from medpipe.models.adapters import AdapterModel
from medpipe.schema import ROLES, Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PerRole:
    """Adapters by name, each on the base of its role."""

    def __init__(self, of: Mapping[str, AdapterModel]) -> None:
        self._of = dict(of)

    @classmethod
    def load(cls, base: Path, adapters: Mapping[Role, Mapping[str, Path]], devices: Mapping[Role, str], choice: Model) -> PerRole:
        """Load the base and a role's adapters (name → folder) on the role's device, role by role."""
        found: dict[str, AdapterModel] = {}
        for role, own in adapters.items():
            found |= dict.fromkeys(own, AdapterModel.load(base, own, devices[role], choice))
        return cls(found)

    def of(self, adapter: str | None) -> AdapterModel:
        """Where an adapter lives."""
        return self._of[adapter] if adapter else next(iter(self._of.values()))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which all share."""
        return self.of(None).tokenizer

    @property
    def everyone(self) -> list[AdapterModel]:
        """Each base once."""
        return list({id(model): model for model in self._of.values()}.values())

    def parameters(self, adapter: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's own weights by name."""
        return self.of(adapter).parameters(adapter)


def devices_of_roles(device: str) -> dict[Role, str]:
    """The role's GPUs in order, as many as this process may see; all on the CPU where the job is there."""
    if device == "cpu":
        return dict.fromkeys(ROLES, "cpu")
    return {role: f"cuda:{number % torch.cuda.device_count()}" for number, role in enumerate(ROLES)}
