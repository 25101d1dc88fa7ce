"""How this package writes down word lists and phrase lists so that they can be read and corrected.

    python -c "from medpipe.rewards.wording import phrases; print(phrases('stop <drug>', drug='insulin').search('Stop insulin.'))"

Left out: anything that a regular expression can't say.
"""

from __future__ import annotations

import re


def wordlist(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def phrases(block: str, **groups: str) -> re.Pattern[str]:
    """One pattern from a block of lines: each line is an alternative in regular-expression syntax, matched as whole words.

    `<name>` stands for the words of a group, which are lines too: `phrases("stop taking <drug>", drug=DRUGS)`. Case is ignored.
    """
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    pattern = "|".join(lines)
    for name, words in groups.items():
        inner = "|".join(line.strip() for line in words.splitlines() if line.strip())
        pattern = pattern.replace(f"<{name}>", f"(?:{inner})")
    return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)
