"""The command that makes the same results again, from the settings that they were made with.

    command_of(job.settings)        # "medpipe run --profile quickstart --set training.epochs=2"

Left out: what the commit, the mirror folder and the machine add to it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from medpipe.config import DEFAULT_PROFILE, Settings, load_profile, profile_names

SECTIONS = ("corpus", "model", "training", "team", "rewards", "maporl", "evaluation", "release", "hardware")
"""Settings that decide what a result is, or where it is made."""


def command_of(settings: Settings) -> str:
    """What makes the same results again: the profile and every exception to it; of a profile in a file all that differs from the
    defaults."""
    bundled = settings.name in profile_names()
    name = settings.name if bundled else DEFAULT_PROFILE
    plain = load_profile(name)
    words = [] if settings.seed == plain.seed else [f"seed={settings.seed}"]
    for section in SECTIONS:
        own, other = (dict(_flat(getattr(one, section).model_dump(mode="json"), section)) for one in (settings, plain))
        words += [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in own.items() if other.get(key) != value]
    if not words:
        return f"make run PROFILE={name}"
    return " ".join(["medpipe run --profile", name, *(f"--set {shlex.quote(word)}" for word in words)])


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """{"lora_rank": 8} → ("training.lora_rank", 8)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value
