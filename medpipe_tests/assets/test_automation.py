"""The sensor on the user's own rows: real files, one run for each change of content, none for anything else.

And the one on changed data: the real graph's conditions over assets of the same shape that take no time, with real runs and events.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from medpipe.assets.automation import CHANGED_INPUTS, custom_rows
from medpipe.config import Settings
from medpipe.definitions import defs
from medpipe.resources import Profile
from medpipe.schema import LEARNERS

Answer = dg.RunRequest | dg.SkipReason
LINE = '{"question": "What is a test?", "answer": "A question that is asked of a program."}\n'
LONG_AGO = 1_700_000_000.0


@pytest.fixture
def folder(settings: Settings) -> Path:
    place = settings.data / "custom"
    place.mkdir(parents=True)
    (place / "README.md").write_text("not rows")
    return place


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture
def tick(settings: Settings, instance: dg.DagsterInstance) -> Callable[[], Answer]:
    """One look of the sensor, as the daemon makes it: with the cursor that the look before left."""
    cursor: list[str | None] = [None]
    profile = Profile(name="smoke", overrides=[f"paths.data={settings.data}"])

    def once() -> Answer:
        context = dg.build_sensor_context(instance=instance, cursor=cursor[0], resources={"profile": profile})
        answer = custom_rows(context)
        cursor[0] = context.cursor
        assert isinstance(answer, (dg.RunRequest, dg.SkipReason))
        return answer

    return once


def write(path: Path, text: str, time: float = LONG_AGO) -> None:
    """A file that was last written to at a time, in seconds since 1970."""
    path.write_text(text)
    os.utime(path, (time, time))


def reason(answer: Answer) -> str:
    assert isinstance(answer, dg.SkipReason)
    return str(answer.skip_message)


def key(answer: Answer) -> str:
    assert isinstance(answer, dg.RunRequest)
    assert answer.run_key
    return answer.run_key


@pytest.mark.parametrize("name", ["own.jsonl", "own.csv"])
def test_a_new_file_asks_for_one_run(folder: Path, tick: Callable[[], Answer], name: str) -> None:
    assert "no files yet" in reason(tick())
    assert "nothing new" in reason(tick())
    write(folder / name, LINE)
    assert "being written" in reason(tick())
    assert key(tick())
    assert [reason(tick()) for _ in range(3)] == ["nothing new"] * 3


def test_files_that_lie_there_when_it_is_switched_on_are_new_too(folder: Path, tick: Callable[[], Answer]) -> None:
    write(folder / "own.jsonl", LINE)
    assert "being written" in reason(tick())
    assert key(tick())


def test_a_file_that_grows_is_waited_for(folder: Path, tick: Callable[[], Answer]) -> None:
    for lines in range(1, 4):
        write(folder / "own.jsonl", LINE * lines)
        assert "being written" in reason(tick())
    assert key(tick())
    assert reason(tick()) == "nothing new"


def test_a_file_written_to_just_now_is_waited_for(folder: Path, tick: Callable[[], Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "own.jsonl", LINE)
    for seconds in (0.0, 1.0, 4.0):
        monkeypatch.setattr("time.time", lambda now=LONG_AGO + seconds: now)
        assert "being written" in reason(tick())
    monkeypatch.setattr("time.time", lambda: LONG_AGO + 5.0)
    assert key(tick())


def test_a_file_with_a_time_to_come_is_not_waited_for_until_then(folder: Path, tick: Callable[[], Answer]) -> None:
    write(folder / "own.jsonl", LINE, time=4_000_000_000.0)
    tick()
    assert key(tick())


def test_a_touched_file_with_equal_content_asks_for_nothing(folder: Path, tick: Callable[[], Answer]) -> None:
    write(folder / "own.jsonl", LINE)
    tick()
    assert key(tick())
    write(folder / "own.jsonl", LINE, time=LONG_AGO + 1000)
    assert [reason(tick()) for _ in range(3)][1:] == ["written anew with the same content", "nothing new"]


def test_changed_renamed_and_removed_files_each_ask_for_a_run(folder: Path, tick: Callable[[], Answer]) -> None:
    path = folder / "own.jsonl"
    write(path, LINE)
    tick()
    keys = [key(tick())]
    write(path, LINE.replace("test", "text"), time=LONG_AGO + 1000)  # of the same size
    tick()
    keys.append(key(tick()))
    path.rename(folder / "other.jsonl")
    tick()
    keys.append(key(tick()))
    (folder / "other.jsonl").unlink()
    tick()
    keys.append(key(tick()))
    write(path, LINE)  # as at first: Dagster would not start a run with the first key again
    tick()
    keys.append(key(tick()))
    assert len(set(keys)) == 5
    assert keys[0].partition("-")[0] == keys[4].partition("-")[0]


def test_other_files_ask_for_nothing(folder: Path, tick: Callable[[], Answer]) -> None:
    tick()
    write(folder / "notes.txt", "x")
    (folder / "folder.csv").mkdir()
    assert [reason(tick()) for _ in range(2)] == ["nothing new"] * 2


def test_a_missing_folder_is_no_files(settings: Settings, tick: Callable[[], Answer]) -> None:
    assert "no files yet" in reason(tick())


def test_the_graph_has_it_and_it_is_off_until_switched_on() -> None:
    sensor = defs.resolve_sensor_def("custom_rows")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 60
    assert sensor.job_name == "everything"


DATA = ["splits/train", "splits/validation"]
TUNED = sorted(f"models/{learner}" for learner in LEARNERS)
BENCHMARKS = [
    "medmcqa", "medqa", "medquad_heldout", "medquad_questions_heldout", "medxpertqa", "mmlu_medical", "own_choice", "own_text",
    "phenotypes_heldout", "pubmedqa", "safety", "synthetic_heldout",
]  # fmt: skip
EVALUATIONS = sorted(f"evaluation/{name}" for name in BENCHMARKS)
SHOWN = ["evaluation/leaderboard", "release/champion"]
MEASURED = [EVALUATIONS, SHOWN, ["release/report"]]
"""What follows new models, look by look."""
MADE_BY_CHANGE = sorted([*TUNED, "models/maporl_team", "models/agent_rl", "rewards/audit", *EVALUATIONS, *SHOWN, "release/report"])


class Graph:
    """Assets with the keys, arrows, steps and conditions of the real graph; an asset's version follows from those that it reads."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.own: dict[str, str] = {}  # what a person changed
        self.broken: set[str] = set()
        self.failed_check: set[str] = set()
        self.during: dict[str, Callable[[], object]] = {}  # what happens while an asset is being made
        self._version: dict[str, str] = {}
        self._cursor: str | None = None
        specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
        self._parents = {key: sorted(dep.asset_key.to_user_string() for dep in spec.deps) for key, spec in specs.items()}
        self._definitions = dg.Definitions([self._one(spec) for spec in specs.values()], sensors=[CHANGED_INPUTS])
        self._job = self._definitions.resolve_implicit_global_asset_job_def()
        self._repository = self._definitions.get_repository_def()

    def look(self) -> list[str]:
        """One tick of the sensor, as the daemon evaluates it; the keys that it asks for."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self._cursor, repository_def=self._repository)
        done = CHANGED_INPUTS.evaluate_tick(context)
        self._cursor = done.cursor
        return sorted(key.to_user_string() for request in done.run_requests or [] for key in request.asset_selection or [])

    def make(self, keys: Iterable[str] | None = None) -> bool:
        """A real run of these assets, or of the whole graph as a schedule starts it: without a selection."""
        chosen = None if keys is None else [dg.AssetKey(key.split("/")) for key in keys]
        return self._job.execute_in_process(instance=self.instance, asset_selection=chosen, raise_on_error=False).success

    def settle(self) -> list[list[str]]:
        """Look and make until nothing is asked for; what was asked for, look by look."""
        asked = []
        while keys := self.look():
            asked.append(keys)
            assert len(asked) < 10, asked
            assert self.make(keys)
        return asked

    def _plain(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        return dg.AssetSpec(spec.key, deps=spec.deps, group_name=spec.group_name, automation_condition=spec.automation_condition)

    def _one(self, spec: dg.AssetSpec) -> dg.AssetsDefinition:
        checks = [dg.AssetCheckSpec("gate", asset=spec.key, blocking=True)]

        @dg.multi_asset(name=spec.key.to_python_identifier(), specs=[self._plain(spec)], check_specs=checks)
        def made() -> Iterator[dg.MaterializeResult]:
            passed = spec.key.to_user_string() not in self.failed_check
            yield self._result(spec.key)._replace(check_results=[dg.AssetCheckResult(passed=passed, check_name="gate")])

        return made

    def _result(self, key: dg.AssetKey) -> dg.MaterializeResult:
        name = key.to_user_string()
        if name in self.broken:
            raise dg.Failure(f"{name} is broken", allow_retries=False)
        read = [self._version.get(parent, "") for parent in self._parents[name]]
        self.during.pop(name, lambda: None)()
        self._version[name] = hashlib.sha256(repr([name, self.own.get(name), *read]).encode()).hexdigest()
        return dg.MaterializeResult(key, data_version=dg.DataVersion(self._version[name]))


@pytest.fixture(scope="module")
def one_graph() -> Iterator[Graph]:
    with dg.instance_for_test() as own:
        made = Graph(own)
        assert made.make()
        assert made.look() == []
        yield made


@pytest.fixture
def graph(one_graph: Graph) -> Graph:
    """Everything was made and nothing is asked for; each test changes something that no other test changed so."""
    one_graph.broken, one_graph.failed_check, one_graph.during = set(), set(), {}
    one_graph.settle()
    return one_graph


def test_every_model_evaluation_and_release_is_made_anew_by_change_and_no_data_is() -> None:
    conditions = {spec.key.to_user_string(): spec.automation_condition for spec in defs.resolve_all_asset_specs()}
    assert sorted(key for key, condition in conditions.items() if condition) == MADE_BY_CHANGE


def test_the_graph_has_the_sensor_on_changed_inputs_and_it_is_off_until_switched_on() -> None:
    sensor = defs.resolve_sensor_def("changed_inputs")
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    names = [each.name for each in defs.get_repository_def().sensor_defs]
    # and no sensor that Dagster adds by itself
    assert sorted(names) == ["changed_inputs", "check_failures", "custom_rows", "orphaned_jobs", "run_failures"]


@pytest.mark.slow
def test_data_made_anew_with_the_same_version_asks_for_nothing(graph: Graph) -> None:
    for keys in ([*DATA, "sources/benchmarks", "models/base"], TUNED, ["models/maporl_team"]):
        assert graph.make(keys)
        assert [graph.look() for _ in range(2)] == [[], []]


@pytest.mark.slow
def test_new_training_data_asks_for_what_depends_on_it_step_by_step_and_once(graph: Graph) -> None:
    graph.own["splits/train"] = "more rows 0"
    graph.make(DATA)
    assert graph.settle() == [sorted([*TUNED, "rewards/audit"]), ["models/maporl_team"], ["models/agent_rl"], *MEASURED]
    assert [graph.look() for _ in range(2)] == [[], []]
    graph.make(DATA)
    assert graph.look() == []


@pytest.mark.slow
def test_a_change_further_down_asks_only_for_what_is_below_it(graph: Graph) -> None:
    graph.own["sources/benchmarks"] = "a new edition"
    graph.make(["sources/benchmarks"])
    assert graph.settle() == MEASURED
    graph.own["models/planner"] = "trained by hand with other settings"
    graph.make(["models/planner"])
    assert graph.settle() == [["models/maporl_team"], ["models/agent_rl"], *MEASURED]


@pytest.mark.slow
def test_a_run_of_the_whole_graph_is_not_followed_by_another(graph: Graph) -> None:
    """Looked at in the middle of the run, as the daemon does, and started without a selection, as the schedule does."""
    looks: list[list[str]] = []
    for key in ("models/reporter", "models/maporl_team", "release/champion"):
        graph.during[key] = lambda: looks.append(graph.look())
    graph.own["splits/train"] = "more rows 1"
    graph.make()
    assert looks == [[], [], []]
    assert [graph.look() for _ in range(2)] == [[], []]


@pytest.mark.slow
def test_data_that_changes_while_it_is_being_learned_from_is_learned_from_next(graph: Graph) -> None:
    asked_meanwhile: list[str] = []

    def meanwhile() -> None:
        graph.own["splits/train"] = "rows that came while the planner was trained"
        graph.make(DATA)
        asked_meanwhile.extend(graph.look())

    graph.during["models/planner"] = meanwhile
    graph.make(["models/planner"])
    assert "models/planner" not in asked_meanwhile and "models/analyst" in asked_meanwhile
    assert graph.look() == ["models/planner"]


@pytest.mark.slow
def test_what_failed_is_asked_for_once_and_holds_up_what_would_be_built_on_it(graph: Graph) -> None:
    graph.broken = {"models/planner"}
    graph.own["splits/train"] = "more rows 2"
    graph.make(DATA)
    assert "models/planner" in (asked := graph.look())
    assert not graph.make(asked)
    assert [graph.look() for _ in range(2)] == [[], []]
    graph.broken = set()
    graph.make(["models/planner"])  # mended by a person
    assert graph.settle()[0] == ["models/maporl_team"]


@pytest.mark.slow
def test_data_that_failed_a_check_asks_for_nothing_until_it_is_mended(graph: Graph) -> None:
    graph.failed_check = {"splits/train"}
    graph.own["splits/train"] = "rows that are on two sides"
    graph.make(DATA)
    assert [graph.look() for _ in range(2)] == [[], []]
    graph.failed_check = set()
    graph.make(DATA)
    assert set(TUNED) <= set(graph.look())
