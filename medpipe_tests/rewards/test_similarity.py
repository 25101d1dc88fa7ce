"""The encoder: whole, offline, in bounds, and the same from the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe import minilm
from medpipe.config import Rewards
from medpipe.errors import MedpipeError
from medpipe.rewards.compose import MedicalReward
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL
from medpipe_tests.rewards.conftest import message


def test_near_texts_are_nearer_than_far_ones(similarity: Similarity) -> None:
    near, far, same = similarity.pairs([("high blood sugar", "raised glucose"), ("high blood sugar", "a broken ankle"), ("x", "x")])
    assert 0.0 <= far < 0.4 < 0.5 < near < same == 1.0


def test_the_cache_changes_nothing(similarity: Similarity) -> None:
    pairs = [("fever and cough", "flu"), ("flu", "influenza"), ("", "flu")]
    assert similarity.pairs(pairs) == pytest.approx(similarity.pairs(pairs), abs=0)
    assert similarity.pairs([]) == []


def test_multiple_choice_loads_no_encoder(lexicon: Lexicon) -> None:
    minilm.encoder.cache_clear()
    encoder = Similarity()
    reward = MedicalReward(Rewards(), lexicon, encoder)
    reward.score([message(case, case.text) for case in CHOICE])
    assert minilm.encoder.cache_info().misses == 0
    reward.score([message(case, case.text) for case in ORIGINAL[:1]])
    assert minilm.encoder.cache_info().misses == 1


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_here")
    with pytest.raises(MedpipeError, match="make setup"):
        minilm.model_folder()


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tmp_path / "damaged_model_package" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(minilm, "PACKAGE", "damaged_model_package")
    with pytest.raises(MedpipeError, match="no file"):
        minilm.model_folder()
    (model / "model.safetensors").write_bytes(b"not these")
    with pytest.raises(MedpipeError, match="sha256"):
        minilm.model_folder()
