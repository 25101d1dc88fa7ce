"""The sensor on the user's own rows: real files, one run for each change of content, none for anything else."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from medpipe.assets.automation import custom_rows
from medpipe.config import Settings
from medpipe.definitions import defs
from medpipe.resources import Profile

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
