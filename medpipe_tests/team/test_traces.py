"""What a played episode leaves for a person: its transcript, and the trace of it in MLflow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from medpipe.config import Team as Rules
from medpipe.launch.worker import WorkReporter
from medpipe.models.adapters import AdapterModel
from medpipe.schema import ROLES
from medpipe.team.episode import Episode
from medpipe.team.workflow import Team, rollout
from medpipe.tracking import Tracker, tracking_uri
from medpipe_tests.tiny_team import BUDGETS, choice_row, text_row, tiny_settings

RULES = Rules(max_rounds_per_episode=2, consensus_share=1.0, max_header_tokens=300, max_new_tokens=cast(Any, BUDGETS))


@pytest.fixture(scope="module")
def model(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AdapterModel:
    return AdapterModel.load(tiny_base, {role: tiny_adapters[f"models/{role}"] for role in ROLES})


def played(model: AdapterModel) -> list[Episode]:
    team = Team(model, {role: role for role in ROLES}, RULES, 1.0, torch.Generator().manual_seed(0))
    episodes = team.begin([choice_row(1), text_row(2)], [["asthma: Wheezing."], []], samples=2)[1:3]
    for episode, origin in zip(episodes, ("biomcp (cached)", "nothing found"), strict=True):
        episode.evidence_from = origin
    rollout(team, episodes)
    return episodes


def test_a_transcript_tells_where_the_evidence_is_from_and_how_long_each_message_is(model: AdapterModel) -> None:
    first, second = played(model)
    told = first.transcript()
    assert (told["sample"], told["evidence_from"], second.transcript()["evidence_from"]) == (1, "biomcp (cached)", "nothing found")
    assert [turn["tokens"] for turn in told["turns"]] == [len(turn.tokens) for turn in first.turns]


def test_times_stand_in_a_timed_transcript_only(model: AdapterModel) -> None:
    """Files that must come again byte for byte (examples.json) hold no times."""
    before = time.time_ns()
    episodes = played(model)
    after = time.time_ns()
    again = played(model)
    assert [episode.transcript() for episode in episodes] == [episode.transcript() for episode in again]
    for episode in episodes:
        times = [(turn["started_ns"], turn["ended_ns"]) for turn in episode.transcript(timed=True)["turns"]]
        flat = [before, *(moment for pair in times for moment in pair), after]
        assert flat == sorted(flat), "one role speaks after the other"
    one, other = (episode.transcript(timed=True)["turns"] for episode in episodes)
    assert one[0]["started_ns"] == other[0]["started_ns"], "a role speaks in all episodes at once"


def test_a_played_episode_can_be_found_in_mlflow_message_by_message(model: AdapterModel, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    settings = tiny_settings({"paths.outputs": str(tmp_path), "tracking.trace_share": 1.0})
    reporter = WorkReporter(tmp_path / "log.txt", tmp_path, lambda level, text: pytest.fail(text))
    reporter.tracker = Tracker(settings, "models/maporl_team", "run", {}, {}, reporter.warn)
    episodes = played(model)
    reporter.episodes(1, [episode.transcript(timed=True) for episode in episodes])
    reporter.tracker.close(False, {})

    client = MlflowClient(tracking_uri(settings))
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    assert experiment is not None
    for episode in episodes:
        (trace,) = client.search_traces(
            locations=[experiment.experiment_id], filter_string=f"tags.`medpipe.question` = '{episode.question.id}'"
        )
        whole, *messages = sorted(trace.data.spans, key=lambda span: span.attributes.get("number", -1))
        assert whole.attributes["evidence_from"] == episode.evidence_from
        assert [(span.attributes["role"], span.attributes["round"], span.attributes["text"]) for span in messages] == [
            (turn.role, turn.round, turn.text) for turn in episode.turns
        ]
        assert [(span.start_time_ns, span.end_time_ns) for span in messages] == [turn.drawn for turn in episode.turns]
