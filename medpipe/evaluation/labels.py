"""What the evaluated systems are called, and which of their differences are told; how they answer stands in systems.py.

Left out: everything that needs a model, so that leaderboard and report do not depend on how answers are made.
"""

from __future__ import annotations

from medpipe.schema import ROLES

SYSTEMS: dict[str, str] = {
    "retrieval_alone": "retrieval alone, no model",
    "base_agent": "base model, one agent",
    "one_agent_with_evidence": "fine-tuned, one agent",
    "one_agent_rl": "one agent after RL",
    "self_consistency": "fine-tuned, one agent, the team's tokens",
    "base_team": "base model, team of four",
    "sft_team": "SFT team of four",
    "maporl_team": "MAPoRL team of four",
    **{f"without_{role}": f"MAPoRL team without the {role}" for role in ROLES},
    "one_round": "MAPoRL team, one round",
    "without_evidence": "MAPoRL team without evidence",
}
"""System, as in `evaluation.systems` → its name for people, in the order in which they are shown."""

TEAM = "maporl_team"
BASELINES = ("retrieval_alone", "one_agent_with_evidence", "one_agent_rl", "sft_team")
"""What the co-trained team has to beat: the best of them on each benchmark, not the weakest."""

COMPARED = (
    *((TEAM, system) for system in BASELINES), (TEAM, "self_consistency"), (TEAM, "base_agent"), (TEAM, "base_team"),
    ("sft_team", "one_agent_with_evidence"), ("sft_team", "base_agent"),
    *((TEAM, f"without_{role}") for role in ROLES), (TEAM, "one_round"), (TEAM, "without_evidence"),
)  # fmt: skip
"""Pairs a, b of which the difference a − b is told, where both were asked: one family for Holm's correction on each benchmark."""

HEADLINE = (*((TEAM, system) for system in BASELINES), (TEAM, "self_consistency"), ("sft_team", "one_agent_with_evidence"))
"""The differences that stand in the table: the team against each baseline and against one agent with as many tokens, and what four
fine-tuned roles are worth beside one."""
