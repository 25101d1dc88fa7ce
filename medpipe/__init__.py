"""medpipe: from raw medical questions to an evaluated team of four co-trained language models.

The graph is in `medpipe/definitions.py`; the settings are in `medpipe/config.py` and `medpipe/profiles/`. From Python:
`from medpipe import MedicalTeamTrainer` (medpipe/library.py).
Research software: nothing here is medical advice.
"""

import logging
from typing import Any

# bitsandbytes, which peft imports, warns of a kernel that it would download from a hub: the one that it has is used.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

NOTICE = "Research software. Not a medical device and not medical advice: answers come from small language models and can be wrong."


def __getattr__(name: str) -> Any:
    """Find the public class when it is first asked for: importing medpipe stays free of everything else."""
    if name != "MedicalTeamTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("medpipe.library").MedicalTeamTrainer
