"""The audit: what it plays, what it finds, what it says of a reward that is attacked with success, and its asset."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medpipe import store
from medpipe.config import Rewards, Settings
from medpipe.errors import MedpipeError
from medpipe.rewards.attacks import ATTACKS, Case
from medpipe.rewards.audit import Audit, Played, Reworded, allowed, audit, checks, markdown, message, run
from medpipe.rewards.compose import COMPONENTS, MedicalReward
from medpipe.rewards.fuzz import fuzz
from medpipe.rewards.honest import honest_cases
from medpipe.rewards.paraphrases import PARAPHRASES
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe.schema import QAExample
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL

ROWS = [case.row for case in (*ORIGINAL, *CHOICE)]


@pytest.fixture(scope="module")
def result(lexicon: Lexicon, similarity: Similarity) -> Audit:
    return audit(ROWS, Rewards(), lexicon, similarity, 4, 0)


def test_every_attack_and_every_rewording_is_played(result: Audit) -> None:
    assert [played.name for played in result.attacks] == [attack.name for attack in ATTACKS]
    assert [kind.name for kind in result.reworded] == list(PARAPHRASES)
    assert (result.free, result.choice) == (3, 1)
    for played in result.attacks:
        assert played.changed <= {"choice": 1}.get(played.kind, 3)
        assert set(played.exploitable) == set(COMPONENTS)
        assert all(0.0 <= share <= 1.0 for share in (played.caught, played.zero, *played.exploitable.values()))


def test_negation_fools_a_cosine_and_not_the_reward(result: Audit) -> None:
    negated = next(played for played in result.attacks if played.name == "negated")
    assert negated.caught == 1.0 and negated.mean < 0.2 < negated.honest
    assert negated.plain_caught == 0.0 and negated.exploitable["relevance"] == 1.0


def test_the_tables_name_everything(result: Audit) -> None:
    text = markdown(result)
    assert all(f"| {attack.name}" in text for attack in ATTACKS) and all(f"| {name} |" in text for name in PARAPHRASES)


def _with(result: Audit, name: str, **changes: object) -> Audit:
    return replace(result, attacks=tuple(replace(played, **changes) if played.name == name else played for played in result.attacks))


def _passed(result: Audit) -> dict[str, bool]:
    return {check.name: check.passed for check in checks(result)}


def test_a_tuned_attack_that_pays_blocks_and_an_unseen_one_only_warns(result: Audit) -> None:
    quiet = replace(
        result,
        attacks=tuple(replace(p, missed=0, zero=1.0) for p in result.attacks),
        reworded=tuple(replace(kind, punished=0) for kind in result.reworded),
    )
    assert set(_passed(quiet).values()) == {True}
    assert {check.name: check.severity for check in checks(quiet)} == {
        "no_attack_pays": "error", "honest_paraphrases_pass": "warn", "unseen_attacks": "warn",
    }  # fmt: skip
    paying = checks(_with(quiet, "negated", missed=3))[0]
    assert not paying.passed and list(paying.values) == ["free_text", "multiple_choice", "negated"]
    assert not _passed(_with(quiet, "danger appended", zero=0.9))["no_attack_pays"]
    assert _passed(_with(quiet, "Spanish", missed=3)) == {"no_attack_pays": True, "honest_paraphrases_pass": True, "unseen_attacks": False}
    punished = replace(quiet, reworded=(Reworded("hedged", 10, 2, 0.7, 0.4),))
    assert not _passed(punished)["honest_paraphrases_pass"]


def test_shares_of_few_round_up() -> None:
    assert [allowed(count, 0.05) for count in (0, 1, 6, 20, 21, 100)] == [0, 1, 1, 1, 2, 5]


def test_honest_rewordings_are_not_punished(reward: MedicalReward, cases: list[Case]) -> None:
    for name, reword in PARAPHRASES.items():
        pairs = [(case, text) for case in cases if (text := reword(case.text, case.row.focus)) != case.text]
        assert pairs, name
        before, after = (
            reward.score([message(case) for case, _ in pairs]),
            reward.score([message(replace(case, text=text)) for case, text in pairs]),
        )
        punished = [
            (case.row.id, text) for (case, text), old, new in zip(pairs, before, after, strict=True) if new.total < old.total - 0.05
        ]
        assert len(punished) <= allowed(len(pairs), 0.05), (name, punished)


def test_honest_messages_do_not_depend_on_the_order_of_rows() -> None:
    assert honest_cases(ROWS, 5, 3) == honest_cases(ROWS[::-1], 5, 3)
    assert {case.kind for case in honest_cases(ROWS, 6, 0)} == {"answer", "team", "cited", "choice"}
    assert len(honest_cases([case.row for case in CHOICE], 10, 0)) == len(CHOICE)


def test_rows_without_an_honest_answer_say_so(lexicon: Lexicon, similarity: Similarity) -> None:
    row = QAExample(id="list", question="What is it?", answer="One word.", source="test", focus="it")
    with pytest.raises(MedpipeError, match="without one in prose"):
        audit([row], Rewards(), lexicon, similarity, 4, 0)


def test_odd_strings_stay_in_bounds(reward: MedicalReward) -> None:
    """`python -m medpipe.rewards.fuzz --count 10000` looks at more of them."""
    least, most = fuzz(reward, 250, 1)
    assert 0.0 == least <= most <= 1.0


def test_the_asset_holds_every_number(settings: Settings, tmp_path: Path, make_job: Callable, reporter) -> None:
    train = tmp_path / "train"
    train.mkdir()
    store.write_examples(train, ROWS)
    small = settings.model_copy(update={"rewards": settings.rewards.model_copy(update={"audit_answers": 2})})
    job = make_job("rewards/audit", small, {"splits/train": train}, sections=("rewards",))
    outcome = run(job)
    written = json.loads((job.out / "audit.json").read_text(encoding="utf-8"))
    assert len(written["attacks"]) == len(ATTACKS) and set(written["attacks"][0]) == set(Played.__dataclass_fields__)
    assert [check.name for check in outcome.checks] == ["no_attack_pays", "honest_paraphrases_pass", "unseen_attacks"]
    assert outcome.checks[0].passed
    assert "| negated |" in outcome.metadata["attacks"]["markdown"]
    assert reporter.steps[0] == (0, len(ATTACKS), "negated")
