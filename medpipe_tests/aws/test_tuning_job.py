"""SageMaker's search over the guide's space: the request, and its life on moto's server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.stub import Stubber
from botocore.validate import ParamValidator

from medpipe.aws.request import Launch
from medpipe.aws.tuning import (
    OBJECTIVE,
    ONE_JOB,
    SEARCHED,
    best,
    is_search,
    of_trials,
    open_searches,
    search,
    status,
    stop,
    tune,
    tuning_job,
    tuning_name,
)
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe_tests.aws.conftest import IMAGE, ROLE, Cloud
from medpipe_tests.aws.sagemaker_server import End, SageMakerServer

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def guide() -> Settings:
    return of_trials(load_profile("sagemaker-qwen2.5"))


@pytest.fixture
def server(aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerServer]:
    """Searches run until the test ends them, as moto's do not; botocore's pauses between its own tries are none."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)
    with SageMakerServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", server.endpoint)
        yield server


def launched(**changes: Any) -> Launch:
    environment = {"MEDPIPE_X": "1", ONE_JOB[0]: "a", ONE_JOB[1]: "b"}
    given = {"hyperparameters": {"lr": "1e-5", "sagemaker_container_log_level": "20"}, "environment": environment}
    addresses = {f"{name}_uri": f"s3://bucket/medpipe/{name}" for name in ("code", "train", "eval", "launch")}
    return Launch(**{"digest": DIGEST, "profile": "guide", **addresses, **given, **changes})


def requested(aws: Cloud, settings: Settings, trials: int = 8, parallel: int = 2) -> dict[str, Any]:
    name = tuning_name(settings, launched(), trials, parallel)
    return tuning_job(settings, aws.account, launched(), name, trials, parallel)


def problems(request: dict[str, Any]) -> str:
    model = botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateHyperParameterTuningJob")
    assert model.input_shape is not None
    return ParamValidator().validate(request, model.input_shape).generate_report()


def test_the_space_is_the_guides(aws: Cloud, guide: Settings) -> None:
    space = requested(aws, guide)["HyperParameterTuningJobConfig"]["ParameterRanges"]
    rate, batch = space["CategoricalParameterRanges"]
    assert (rate["Name"], [float(value) for value in rate["Values"]]) == ("lr", [1e-5, 3e-5, 5e-5])
    assert (batch["Name"], batch["Values"]) == ("batch_size", ["4", "8", "12"])
    (epochs,), (penalty,) = space["IntegerParameterRanges"], space["ContinuousParameterRanges"]
    assert (epochs["Name"], epochs["MinValue"], epochs["MaxValue"]) == ("epochs", "10", "20")
    assert (penalty["Name"], penalty["MinValue"], penalty["MaxValue"]) == ("safety_penalty_weight", "1", "5")


def test_botocore_takes_the_request_with_every_option(aws: Cloud, guide: Settings) -> None:
    options = {"subnets": ("subnet-1",), "security_groups": ("sg-1",), "kms_key": "alias/key", "tags": {"team": "one"}}
    full = guide.model_copy(update={"aws": guide.aws.model_copy(update=options)})
    request = requested(aws, full)
    assert problems(request) == ""
    assert "VpcConfig" in request["TrainingJobDefinition"] and {"Key": "team", "Value": "one"} in request["Tags"]
    request["TrainingJobDefinition"]["AlgorithmSpecification"]["ContainerEntrypoint"] = ["python3"]
    assert "ContainerEntrypoint" in problems(request)  # the validator does see what a tuning job can't take


def test_the_goal_is_the_teams_value_and_never_a_benchmark(aws: Cloud, guide: Settings) -> None:
    request = requested(aws, guide)
    goal = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    assert goal == {"Type": "Maximize", "MetricName": OBJECTIVE}
    told = {metric["Name"] for metric in request["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]}
    assert OBJECTIVE in told
    evaluating = guide.model_copy(update={"aws": guide.aws.model_copy(update={"evaluate": True})})
    with pytest.raises(MedpipeError, match=r"aws.evaluate = true.*of_trials"):
        requested(aws, evaluating)


def test_every_trial_and_the_whole_search_are_capped(aws: Cloud, guide: Settings) -> None:
    request = requested(aws, guide, trials=9, parallel=2)
    limits = request["HyperParameterTuningJobConfig"]["ResourceLimits"]
    caps = request["TrainingJobDefinition"]["StoppingCondition"]
    assert caps["MaxRuntimeInSeconds"] == guide.aws.max_hours * 3600
    assert (limits["MaxNumberOfTrainingJobs"], limits["MaxParallelTrainingJobs"]) == (9, 2)
    assert limits["MaxRuntimeInSeconds"] == 5 * max(caps.values())


def test_trials_share_neither_checkpoints_nor_messages(aws: Cloud, guide: Settings) -> None:
    definition = requested(aws, guide)["TrainingJobDefinition"]
    assert "CheckpointConfig" not in definition
    assert definition["Environment"] == {"MEDPIPE_X": "1"}


def test_what_is_searched_is_not_fixed_and_the_script_is_named(aws: Cloud, guide: Settings) -> None:
    fixed = requested(aws, guide)["TrainingJobDefinition"]["StaticHyperParameters"]
    assert not set(fixed) & set(SEARCHED)
    assert fixed["sagemaker_container_log_level"] == "20"
    folder, script = (json.loads(fixed[f"sagemaker_{name}"]) for name in ("submit_directory", "program"))
    assert f"{folder}/{script}" == "/opt/ml/input/data/code/scripts/sagemaker_entry.py"


def test_a_name_belongs_to_one_search(guide: Settings) -> None:
    name = tuning_name(guide, launched(), 8, 2)
    assert name == tuning_name(guide, launched(), 8, 2) and len(name) <= 32
    space = guide.model_copy(update={"tuning": guide.tuning.model_copy(update={"epochs": (2, 3)})})
    others = (
        tuning_name(space, launched(), 8, 2), tuning_name(guide, launched(), 9, 2), tuning_name(guide, launched(), 8, 1),
        tuning_name(guide, launched(digest="f" * 64), 8, 2), tuning_name(guide.model_copy(update={"seed": 99}), launched(), 8, 2),
    )  # fmt: skip
    assert len({name, *others}) == 6


@pytest.mark.parametrize(("trials", "parallel"), [(0, 0), (2, 3), (4, 0)])
def test_numbers_that_do_not_fit(aws: Cloud, guide: Settings, trials: int, parallel: int) -> None:
    with pytest.raises(MedpipeError, match="--trials and --parallel"):
        requested(aws, guide, trials, parallel)


# --- its life


def test_a_search_is_started_once_and_found_again(aws: Cloud, guide: Settings, tmp_path: Path) -> None:
    client, said = aws.account.client("sagemaker"), []
    request = requested(aws, guide)
    name = request["HyperParameterTuningJobName"]
    assert tune(client, request, tmp_path, said.append).name == name
    first = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert first["TrainingJobDefinition"]["RoleArn"] == ROLE
    assert first["TrainingJobDefinition"]["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    tune(client, request, tmp_path, said.append)
    assert client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)["CreationTime"] == first["CreationTime"]
    assert "started, 8 trials, 2 at once" in said[0] and "taken up" in said[1]
    assert json.loads((tmp_path / f"{name}.json").read_text())["state"] == "started"


def test_a_search_from_settings_to_what_is_printed(aws: Cloud, guide: Settings, tmp_path: Path) -> None:
    here = in_folder(guide, tmp_path)
    lines = search(here, aws.account, launched(), 8, 2, lambda line: None)
    name = tuning_name(here, launched(), 8, 2)
    assert lines[0].startswith(f"{name}: ") and (tmp_path / "aws" / "tuning" / f"{name}.json").is_file()


def test_the_intent_is_on_disk_before_the_call(aws: Cloud, guide: Settings, tmp_path: Path) -> None:
    client, request = aws.account.client("sagemaker"), requested(aws, guide)
    with Stubber(client) as stub:
        stub.add_client_error("describe_hyper_parameter_tuning_job", "ResourceNotFound")
        stub.add_client_error("create_hyper_parameter_tuning_job", "ResourceLimitExceeded", "20 trials", http_status_code=400)
        with pytest.raises(MedpipeError, match="quota"):
            tune(client, request, tmp_path, lambda line: None)
    (record,) = tmp_path.iterdir()
    assert json.loads(record.read_text())["state"] == "refused"


def test_a_search_that_nobody_answered_stays_asked_for(aws: Cloud, guide: Settings, tmp_path: Path, server: SageMakerServer) -> None:
    client, here = aws.account.client("sagemaker"), in_folder(guide, tmp_path)
    states: list[str] = []
    server.on_call = lambda operation, name: states.append(recorded(tmp_path, name)["state"]) if operation.startswith("Create") else None
    server.fault("CreateHyperParameterTuningJob", *["lost before"] * 8)
    with pytest.raises(MedpipeError, match="no answer from AWS"):
        search(here, aws.account, launched(), 8, 2, lambda line: None)
    name = tuning_name(here, launched(), 8, 2)
    assert set(states) == {"asked"} and recorded(tmp_path, name)["state"] == "asked"
    (line,) = open_searches(client, tmp_path)
    assert line.startswith(f"{name}: asked for, and this account does not know it")


@pytest.mark.parametrize("end", ["Stopped", "Failed"])
def test_a_search_that_failed_or_was_stopped_is_begun_anew(
    aws: Cloud, guide: Settings, tmp_path: Path, server: SageMakerServer, end: str
) -> None:
    client, here, said = aws.account.client("sagemaker"), in_folder(guide, tmp_path), []
    first, second = (tuning_name(here, launched(), 8, 2, attempt) for attempt in (1, 2))
    assert search(here, aws.account, launched(), 8, 2, said.append)[0].startswith(f"{first}: InProgress")
    assert open_searches(client, tmp_path)[0].startswith(f"{first}: InProgress")
    if end == "Failed":
        server.end(first, End("Failed", "no trial ended well"))
    else:
        stop(client, first, said.append, poll_seconds=0.0)
    assert open_searches(client, tmp_path) == [] and recorded(tmp_path, first)["state"] == "ended"
    assert search(here, aws.account, launched(), 8, 2, said.append)[0].startswith(f"{second}: InProgress")
    assert f"tuning job {first}: {end}; the next attempt is due" in said
    search(here, aws.account, launched(), 8, 2, said.append)
    server.end(second)
    (line,) = search(here, aws.account, launched(), 8, 2, said.append)
    assert line.startswith(f"{second}: Completed") and server.accepted() == [first, second]


def test_what_is_printed_tells_how_long_it_goes_on_and_what_it_may_cost(
    aws: Cloud, guide: Settings, tmp_path: Path, server: SageMakerServer
) -> None:
    here = in_folder(guide, tmp_path)
    line = search(here, aws.account, launched(), 8, 2, lambda line: None)[-1]
    hours, most = 4 * max(here.aws.max_hours, here.aws.max_wait_hours), 8 * 7.09 * here.aws.max_hours
    assert "it goes on by itself" in line and f"for {hours:g} h at most" in line and f"at most {most:,.2f} USD" in line
    assert f"medpipe aws stop {tuning_name(here, launched(), 8, 2)};" in line


def test_a_search_in_another_region_is_named(aws: Cloud, guide: Settings, tmp_path: Path, server: SageMakerServer) -> None:
    tune(aws.account.client("sagemaker"), requested(aws, guide), tmp_path / "aws" / "tuning", lambda line: None)
    asked, elsewhere = len(server.journal), replace(aws.account, region="eu-west-1").client("sagemaker")
    (line,) = open_searches(elsewhere, tmp_path)
    assert line.endswith("in us-east-1, not looked at from eu-west-1") and len(server.journal) == asked


def test_a_trial_is_not_taken_for_a_search(guide: Settings) -> None:
    name = tuning_name(guide, launched(), 8, 2, 12)
    assert is_search(name)
    others = (
        f"{name}-001-0a1b2c3d",
        name[:-4],
        f"x{name}",
        f"{name}\n",
        "medpipe-tune-of-profile-0123456789ab-a1",
        "medpipe-smoke-0123456789ab-a1",
    )
    assert not any(is_search(other) for other in others)


def in_folder(settings: Settings, outputs: Path) -> Settings:
    return settings.model_copy(update={"paths": settings.paths.model_copy(update={"outputs": str(outputs)})})


def recorded(outputs: Path, name: str) -> dict[str, Any]:
    return json.loads((outputs / "aws" / "tuning" / f"{name}.json").read_text())


def test_a_call_that_was_accepted_without_an_answer_is_taken_up(aws: Cloud, guide: Settings, tmp_path: Path) -> None:
    client, request, said = aws.account.client("sagemaker"), requested(aws, guide), []
    name = request["HyperParameterTuningJobName"]
    with Stubber(client) as stub:
        stub.add_client_error("describe_hyper_parameter_tuning_job", "ResourceNotFound")
        stub.add_client_error("create_hyper_parameter_tuning_job", "ResourceInUse", http_status_code=400)
        stub.add_response("describe_hyper_parameter_tuning_job", described(name, "InProgress"))
        assert tune(client, request, tmp_path, said.append).status == "InProgress"
    assert "taken up" in said[0]


def described(name: str, state: str, **more: Any) -> dict[str, Any]:
    counters = {"Completed": 3, "InProgress": 2, "RetryableError": 0, "NonRetryableError": 1, "Stopped": 0}
    return {
        "HyperParameterTuningJobName": name, "HyperParameterTuningJobArn": f"arn:aws:sagemaker:us-east-1:1:{name}",
        "HyperParameterTuningJobConfig": {"Strategy": "Bayesian", "ResourceLimits": {"MaxParallelTrainingJobs": 1}},
        "HyperParameterTuningJobStatus": state, "CreationTime": datetime(2026, 11, 22, tzinfo=UTC),
        "TrainingJobStatusCounters": counters, "ObjectiveStatusCounters": {"Succeeded": 3, "Pending": 2, "Failed": 1}, **more,
    }  # fmt: skip


def test_the_best_trial_comes_with_its_settings(aws: Cloud) -> None:
    summary = {
        "TrainingJobName": "medpipe-tune-x-003", "TrainingJobArn": "arn:aws:sagemaker:us-east-1:1:training-job/x",
        "CreationTime": datetime(2026, 11, 22, tzinfo=UTC), "TrainingJobStatus": "Completed",
        "TunedHyperParameters": {"lr": '"3e-05"', "epochs": "12", "batch_size": "8", "safety_penalty_weight": "2.5"},
        "FinalHyperParameterTuningJobObjectiveMetric": {"Type": "Maximize", "MetricName": OBJECTIVE, "Value": 0.5},
    }  # fmt: skip
    client = aws.account.client("sagemaker")
    with Stubber(client) as stub:
        stub.add_response("describe_hyper_parameter_tuning_job", described("x", "Completed", BestTrainingJob=summary))
        found = best(client, "x")
    assert (found.job, found.value) == ("medpipe-tune-x-003", 0.5)
    assert found.flags == (
        "--set training.learning_rate=3e-05 --set training.epochs=12 --set training.batch_size=8 --set rewards.safety_penalty_weight=2.5"
    )
    assert status_lines(client, summary)[1] == f"best so far: 0.5000 by medpipe-tune-x-003: {found.flags}"
    chosen = load_profile("smoke", {key: str(value) for key, value in found.values.items()})
    assert (chosen.training.learning_rate, chosen.training.epochs, chosen.rewards.safety_penalty_weight) == (3e-5, 12, 2.5)


def status_lines(client: Any, summary: dict[str, Any]) -> list[str]:
    with Stubber(client) as stub:
        stub.add_response("describe_hyper_parameter_tuning_job", described("x", "Completed", BestTrainingJob=summary))
        return status(client, "x").lines()


def test_no_finished_trial_is_told(aws: Cloud) -> None:
    client = aws.account.client("sagemaker")
    with Stubber(client) as stub:
        stub.add_response("describe_hyper_parameter_tuning_job", described("x", "Failed", FailureReason="all trials failed"))
        with pytest.raises(MedpipeError, match=r"no finished trial \(Failed: all trials failed\)"):
            best(client, "x")


def test_a_search_that_is_not_there_is_told(aws: Cloud) -> None:
    with pytest.raises(MedpipeError, match="got no tuning job medpipe-tune-none"):
        status(aws.account.client("sagemaker"), "medpipe-tune-none")


def test_stopping_waits_until_it_stands(aws: Cloud) -> None:
    client, said = aws.account.client("sagemaker"), []
    with Stubber(client) as stub:
        for state in ("InProgress", "", "Stopping", "Stopped"):
            if state:
                stub.add_response("describe_hyper_parameter_tuning_job", described("x", state))
            else:
                stub.add_response("stop_hyper_parameter_tuning_job", {}, {"HyperParameterTuningJobName": "x"})
        assert stop(client, "x", said.append, poll_seconds=0.0).status == "Stopped"
        stub.assert_no_pending_responses()
    assert said == ["tuning job x: asked to stop", "tuning job x: Stopped"]


def test_a_search_that_does_not_stop_is_told(aws: Cloud) -> None:
    client = aws.account.client("sagemaker")
    with Stubber(client) as stub:
        stub.add_response("describe_hyper_parameter_tuning_job", described("x", "Stopping"))
        stub.add_response("stop_hyper_parameter_tuning_job", {})
        stub.add_response("describe_hyper_parameter_tuning_job", described("x", "Stopping"))
        with pytest.raises(MedpipeError, match="still paid for"):
            stop(client, "x", lambda line: None, poll_seconds=0.0, patience=-1.0)
