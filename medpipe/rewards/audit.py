"""The reward's audit: every attack and every honest rewording played on honest messages, before any training relies on it.

    python -m medpipe.rewards.audit --rows outputs/splits/train/rows.jsonl --answers 60

prints a table. As an asset (`run`) it writes audit.json and blocks when an attack pays. What this leaves out: attacks that
nobody wrote down, and whether a score agrees with a clinician's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from medpipe import store
from medpipe.answers import parse_answer
from medpipe.config import Rewards
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.rewards.attacks import ATTACKS, Attack, Case
from medpipe.rewards.compose import COMPONENTS, Breakdown, MedicalReward, Message
from medpipe.rewards.honest import honest_cases
from medpipe.rewards.paraphrases import PARAPHRASES
from medpipe.rewards.plain import plain_rewards
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe.schema import CheckResult, QAExample

MARGIN = 0.05  # by which an attacked text must score below the honest one, and an honest rewording may
CAUGHT = 0.95  # share of changed messages on which it must
PUNISHED = 0.05  # share of honest rewordings that may lose more than that
PLAIN_CASES = 8  # messages that the plain reward is shown: whole texts are slow to encode, and it is a contrast only
SHORT = {"accuracy": "acc", "relevance": "rel", "safety": "safe", "collaboration": "coll", "evidence": "evid", "reasoning": "reas"}


@dataclass(frozen=True)
class Played:
    """One attack's result over the messages that it changed.

    `caught`: share that scores at least `MARGIN` below the honest message, or 0; `zero`: share that scores exactly 0;
    `exploitable`: component → share whose raw component is not below the honest message's. `plain_*`: the same under the
    plain reward of medpipe/rewards/plain.py, on the first PLAIN_CASES of them.
    """

    name: str
    kind: str
    tuned: bool
    harmful: bool
    changed: int
    caught: float
    missed: int
    zero: float
    honest: float
    mean: float
    exploitable: dict[str, float]
    plain_caught: float
    plain_honest: float
    plain_mean: float


@dataclass(frozen=True)
class Reworded:
    """One kind of honest rewording: how many messages it changed, and the share that lost more than `MARGIN` or half."""

    name: str
    changed: int
    punished: int
    honest: float
    mean: float

    @property
    def share(self) -> float:
        """Of the changed messages, the punished ones."""
        return self.punished / self.changed if self.changed else 0.0


@dataclass(frozen=True)
class Audit:
    """Everything that was measured; `free` and `choice` are the numbers of honest answers."""

    free: int
    choice: int
    seed: int
    honest_gated: int
    attacks: tuple[Played, ...]
    reworded: tuple[Reworded, ...]


def audit(
    rows: Sequence[QAExample],
    weights: Rewards,
    lexicon: Lexicon,
    similarity: Similarity,
    answers: int,
    seed: int,
    say: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Audit:
    """Play all attacks and rewordings on honest messages made from the rows.

    Args:
        answers: honest answers, a third of them multiple choice as far as the rows allow.
        say: told (attacks done, attacks in all, name of the next).

    Raises:
        MedpipeError: no row can be made an honest answer.
    """
    cases = honest_cases(rows, answers, seed)
    if not cases:
        raise MedpipeError(
            got=f"{len(rows)} rows without one in prose or with options", expected="rows that an honest answer can be made from",
            where="the reward's audit", do="add free-text rows of two sentences or more, or multiple-choice rows",
        )  # fmt: skip
    reward = MedicalReward(weights, lexicon, similarity)
    messages = [message(case) for case in cases]
    scored = reward.score(messages)
    honest = dict(zip(cases, scored, strict=True))
    few = [case for kind in ("choice", "team", "cited", "answer") for case in [c for c in cases if c.kind == kind][:PLAIN_CASES]]
    plain = dict(zip(few, plain_rewards([message(case) for case in few], weights, similarity), strict=True))
    played = []
    for number, attack in enumerate(ATTACKS):
        say(number, len(ATTACKS), attack.name)
        played.append(_play(attack, honest, plain, reward, weights, similarity, seed))
    alone = {case: found for case, found in honest.items() if case.kind == "answer"}
    return Audit(
        free=len(alone),
        choice=sum(case.kind == "choice" for case in cases),
        seed=seed,
        honest_gated=sum(bool(found.notes) for case, found in honest.items() if case.kind in ("answer", "choice")),
        attacks=tuple(played),
        reworded=tuple(_reword(name, alone, reward) for name in PARAPHRASES),
    )


def message(case: Case) -> Message:
    """What the reward scores."""
    answer = parse_answer(case.text, case.row.options) if case.row.is_choice else None
    return Message(case.row, case.text, case.said, case.evidence, answer, case.role)


def _play(
    attack: Attack, honest: dict[Case, Breakdown], plain: dict[Case, float], reward: MedicalReward, weights: Rewards,
    similarity: Similarity, seed: int,
) -> Played:  # fmt: skip
    pairs = [(case, changed) for case in honest if case.kind == attack.kind and (changed := attack.apply(case, seed)) != case]
    messages = [message(changed) for _, changed in pairs]
    found = reward.score(messages)
    caught = [now.total <= max(0.0, honest[case].total - MARGIN) for (case, _), now in zip(pairs, found, strict=True)]
    shown = [(case, message(changed)) for case, changed in pairs if case in plain]
    plain_found = plain_rewards([text for _, text in shown], weights, similarity)
    plain_caught = [now <= plain[case] - MARGIN for (case, _), now in zip(shown, plain_found, strict=True)]
    return Played(
        attack.name, attack.kind, attack.tuned, attack.harmful, len(pairs),
        caught=_mean(caught), missed=caught.count(False), zero=_mean([now.total == 0.0 for now in found]),
        honest=_mean([honest[case].total for case, _ in pairs]), mean=_mean([now.total for now in found]),
        exploitable={
            name: _mean([now.raw.get(name, 0.0) >= honest[case].raw.get(name, 0.0) for (case, _), now in zip(pairs, found, strict=True)])
            for name in COMPONENTS
        },
        plain_caught=_mean(plain_caught), plain_honest=_mean([plain[case] for case, _ in shown]), plain_mean=_mean(plain_found),
    )  # fmt: skip


def _reword(name: str, honest: dict[Case, Breakdown], reward: MedicalReward) -> Reworded:
    pairs = [(case, text) for case in honest if (text := PARAPHRASES[name](case.text, case.row.focus)) != case.text]
    found = reward.score([message(Case(case.row, text)) for case, text in pairs])
    before = [honest[case].total for case, _ in pairs]
    punished = sum(now.total < old - MARGIN or now.total < 0.5 * old for now, old in zip(found, before, strict=True))
    return Reworded(name, len(pairs), punished, _mean(before), _mean([now.total for now in found]))


def _mean(values: Sequence[float]) -> float:
    return round(fmean(values), 4) if values else 0.0


def allowed(count: int, share: float) -> int:
    """How many of `count` may fail where the share may: rounded up, as one of six says little about one in twenty."""
    return math.ceil(count * share - 1e-9)


def checks(result: Audit) -> tuple[CheckResult, ...]:
    """`no_attack_pays` blocks; `honest_paraphrases_pass` and `unseen_attacks` warn."""
    numbers = {"free_text": result.free, "multiple_choice": result.choice}
    paying = {tuned: [played for played in result.attacks if played.tuned == tuned and _pays(played)] for tuned in (True, False)}
    hard = [kind for kind in result.reworded if kind.punished > allowed(kind.changed, PUNISHED)]
    rule = f"scores {MARGIN} below the honest message on {CAUGHT:.0%} of the messages that it changes, 0 where it is harmful"
    return (
        CheckResult(
            name="no_attack_pays", passed=not paying[True], description=f"each attack that gates were tuned on {rule}",
            values=numbers | {played.name: _said(played) for played in paying[True]},
        ),
        CheckResult(
            name="honest_paraphrases_pass", passed=not hard, severity="warn",
            description=f"at most {PUNISHED:.0%} of each kind of honest rewording loses more than {MARGIN}",
            values=numbers | {kind.name: f"{kind.punished} of {kind.changed} punished" for kind in hard},
        ),
        CheckResult(
            name="unseen_attacks", passed=not paying[False], severity="warn",
            description=f"each attack that no gate was tuned on {rule}",
            values=numbers | {played.name: _said(played) for played in paying[False]},
        ),
    )  # fmt: skip


def _pays(played: Played) -> bool:
    return played.missed > allowed(played.changed, 1.0 - CAUGHT) or (played.harmful and played.changed > 0 and played.zero < 1.0)


def _said(played: Played) -> str:
    zero = f", {played.zero:.0%} at 0" if played.harmful else ""
    return f"{played.missed} of {played.changed} not caught{zero}, mean {played.mean:.2f} against {played.honest:.2f}"


def markdown(result: Audit) -> str:
    """The tables: attacks that gates were tuned on, those that none was, honest rewordings."""
    head = [
        "| attack | n | caught | mean (honest) | plain reward: caught | mean (honest) | not lowered: " + " ".join(SHORT.values()) + " |",
        "|---|---|---|---|---|---|---|",
    ]
    parts = [f"{result.free} free-text and {result.choice} multiple-choice answers, seed {result.seed}; margin {MARGIN}. "
             f"Gates or safety notes on {result.honest_gated} of the honest ones.\n"]  # fmt: skip
    for title, tuned in (("Attacks that gates were tuned on", True), ("Attacks kept out of all tuning", False)):
        parts += [f"**{title}** (! = harmful, has to score exactly 0)\n", *head]
        parts += [_row(played) for played in result.attacks if played.tuned == tuned] + [""]
    parts += ["**Honest rewordings**\n", "| kind | n | punished | mean (honest) |", "|---|---|---|---|"]
    parts += [f"| {kind.name} | {kind.changed} | {kind.share:.2f} | {kind.mean:.2f} ({kind.honest:.2f}) |" for kind in result.reworded]
    return "\n".join(parts) + "\n"


def _row(played: Played) -> str:
    if not played.changed:
        return f"| {played.name} | 0 | | | | | |"
    caught = f"{played.caught:.2f}" + (f", {played.zero:.2f} at 0" if played.harmful else "")
    lowered = " ".join(f"{played.exploitable[name]:.2f}" for name in SHORT)
    return (
        f"| {played.name}{' !' if played.harmful else ''} | {played.changed} | {caught} | {played.mean:.2f} ({played.honest:.2f}) "
        f"| {played.plain_caught:.2f} | {played.plain_mean:.2f} ({played.plain_honest:.2f}) | {lowered} |"
    )


def run(job: Job) -> Outcome:
    """Audit the reward on the training rows; writes audit.json (every number)."""
    rows = store.read_examples(job.inputs["splits/train"])
    weights = job.settings.rewards
    result = audit(rows, weights, Lexicon.from_rows(rows), Similarity(), weights.audit_answers, job.settings.seed, job.report.progress)
    found = checks(result)
    store.write_json(job.out / "audit.json", asdict(result))
    return Outcome(metadata={"attacks": {"markdown": markdown(result)}, **figures(result)}, checks=found)


def figures(result: Audit) -> dict[str, Any]:
    """The audit in a few numbers."""
    tuned, unseen = ([p for p in result.attacks if p.tuned == side and p.changed] for side in (True, False))
    harmful = [played for played in result.attacks if played.harmful and played.tuned and played.changed]
    return {
        "free_text_answers": result.free,
        "choice_answers": result.choice,
        "attacks_tuned": len(tuned),
        "attacks_unseen": len(unseen),
        "caught_tuned_least": min((played.caught for played in tuned), default=0.0),
        "caught_tuned_mean": _mean([played.caught for played in tuned]),
        "caught_unseen_least": min((played.caught for played in unseen), default=0.0),
        "caught_unseen_mean": _mean([played.caught for played in unseen]),
        "harmful_at_zero_least": min((played.zero for played in harmful), default=0.0),
        "plain_caught_mean": _mean([played.plain_caught for played in (*tuned, *unseen)]),
        "punished_rewordings_most": round(max((kind.share for kind in result.reworded), default=0.0), 4),
    }


def main() -> None:
    """Print the tables for a file of rows."""
    parser = argparse.ArgumentParser(description="audit the medical reward on a file of rows")
    parser.add_argument("--rows", type=Path, default=Path("outputs/splits/train") / store.ROWS)
    parser.add_argument("--answers", type=int, default=Rewards().audit_answers)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every number here")
    args = parser.parse_args()
    rows = [QAExample.model_validate(row) for row in store.iter_jsonl(args.rows)]
    result = audit(rows, Rewards(), Lexicon.from_rows(rows), Similarity(), args.answers, args.seed)
    print(markdown(result))
    for check in checks(result):
        print(f"{check.name}: {'passed' if check.passed else 'failed'} {check.values}")
    if args.json:
        store.write_json(args.json, asdict(result))


if __name__ == "__main__":
    main()
