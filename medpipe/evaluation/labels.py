"""What the evaluated systems are called, and which of their differences are told; how they answer stands in systems.py.

Left out: everything that needs a model, so that leaderboard and report do not depend on how answers are made.
"""

from __future__ import annotations

from medpipe.schema import ROLES

SYSTEMS: dict[str, str] = {
    "base_agent": "base model, one agent",
    "sft_agent": "fine-tuned, one agent",
    "self_consistency": "fine-tuned, one agent, the team's tokens",
    "base_team": "base model, team of four",
    "sft_team": "SFT team of four",
    "maporl_team": "MAPoRL team of four",
    **{f"without_{role}": f"MAPoRL team without the {role}" for role in ROLES},
    "without_evidence": "MAPoRL team without evidence",
    "one_round": "MAPoRL team, one round",
}
"""System, as in `evaluation.systems` → its name for people, in the order in which they are shown."""

COMPARED = (
    ("maporl_team", "sft_team"), ("sft_team", "base_agent"), ("maporl_team", "base_agent"), ("maporl_team", "self_consistency"),
    ("maporl_team", "base_team"), *(("maporl_team", f"without_{role}") for role in ROLES), ("maporl_team", "without_evidence"),
    ("maporl_team", "one_round"),
)  # fmt: skip
"""Pairs a, b of which the difference a − b is told, where both were asked: one family for Holm's correction on each benchmark."""

HEADLINE = (("maporl_team", "sft_team"), ("sft_team", "base_agent"), ("maporl_team", "self_consistency"))
"""The differences that stand in the table: what co-training added, what the fine-tuned team added to the base model, and whether
the team is worth its tokens."""
