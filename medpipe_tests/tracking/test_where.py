"""Which MLflow is fed: the profile's, the environment's, or the outputs folder's own."""

from __future__ import annotations

import pytest

from medpipe.config import load_profile
from medpipe.errors import MedpipeError
from medpipe.tracking import Tracker, mlflow_server, tracking_uri


def test_the_profile_counts_before_the_environment_and_the_environment_before_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    silent, told = load_profile("smoke"), load_profile("smoke", {"tracking.uri": "http://127.0.0.1:1"})
    assert mlflow_server(silent) == "" and tracking_uri(silent).startswith("sqlite:////")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert mlflow_server(silent) == tracking_uri(silent) == "http://mlflow:5000"
    assert tracking_uri(told) == "http://127.0.0.1:1"


@pytest.mark.parametrize("uri", ["http://me:canary@127.0.0.1:5000", "postgresql://me:canary@127.0.0.1/mlflow"])
def test_an_address_with_a_password_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    with pytest.raises(MedpipeError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        load_profile("smoke", {"tracking.uri": uri})
    assert "canary" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(MedpipeError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        Tracker(load_profile("smoke"), "models/planner", "run", {}, {}, print)
    assert "canary" not in str(refused.value)
