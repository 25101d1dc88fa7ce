"""What each role learns, shown on two rows of the bundled corpus: prints docs/roles.md.

    python -m medpipe.training.lessons > docs/roles.md

The examples are made by the functions that make the training rows, from the bundled corpus alone and with evidence of its
training part. Left out: token budgets, which cut a target at a sentence's end, and the other sources.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from medpipe.config import load_profile
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.groups import part_of
from medpipe.corpus.synthetic import generate, library, load_conditions
from medpipe.roles import prompt_for, reference_said, reference_verdict, target_for
from medpipe.schema import ROLES, QAExample, Role

PROFILE = "local-qwen3"
SHOWN = ("synthetic-infective_endocarditis-treatment_and_complications", "synthetic-cataract-choice_warning-2")
"""A free-text row and a multiple-choice row of the training part."""

HEAD = """\
# The four roles

What each role learns, what it reads while it learns, and an example of each. Printed by `python -m medpipe.training.lessons`;
a test holds this page to it. This is research software: the texts below are training data in general words, not medical advice.

| role | learns to | reads, besides the question | says |
|---|---|---|---|
| planner | name the kind of question, its focus and a plan | nothing | `Type: … Focus: … Plan: …` |
| researcher | pick and cite the evidence that bears on it | passages, planner | quotes with marks like `[E2]`, or that none bears |
| analyst | reason from evidence to a conclusion | passages, planner, researcher | `Findings: … Reasoning: … Conclusion: …` |
| reporter | write the answer for the reader | planner, researcher, analyst | the answer, with the cautions it calls for |

On multiple choice each message ends with `Answer:` and a letter. A third of the rows begin with the previous round's answer, as a
second round does at run time. Targets come from the row alone (`medpipe/roles.py`); nothing medical is added to them.

- **Planner.** The plan goes by the type of question. The focus is named where the question names it; a case, and a question with
  options, would be answered by it: there it is "the findings described".
- **Researcher.** A passage bears on the question if it names the subject and shares at least three word stems with question and
  reference; the quote is the part of it that shares most. A second passage is cited if it brings two more. All other passages that
  were found are hard negatives; where none bears, the role says so. Shared words are a rough measure: a passage that says the same
  in other words counts as a negative.
- **Analyst.** On free text the finding is the best passage's words and the conclusion is how the reference begins. On multiple
  choice the finding is the row's rationale; weighed against it is what the rationale says of a wrong option, or else the wrong
  option that a passage is about. All that is known of that one is that it fits less, so no more is said.
- **Reporter.** The reference's first four sentences. A caution follows the sentence that calls for it: on medicines and doses, on
  other treatment, and on alarming signs where the text itself does not send the reader to urgent care.

## What stands in an input by design, and what does not

- No input of planner, researcher or analyst holds a sentence of the reference answer, or of a multiple-choice question's rationale,
  unless that sentence only repeats the question. A row's own answer is never among its passages.
- The researcher, and the analyst on free text, quote passages. The rationale of a bundled question repeats the findings asked about.
- The reporter reads the analyst's conclusion, which is how the reference begins, and on multiple choice the analyst's right letter.
- The letters of planner and researcher are right in half of the messages, drawn from the row's id, and so is the previous round's.
  When they err they name the same wrong option, so that agreement tells nothing; where the evidence names it, the researcher quotes
  the passage on it. On free text the previous round's answer is what the best passage says.
"""


def bundled(data: Path) -> tuple[list[QAExample], EvidenceIndex]:
    """The rows made from the bundled knowledge base that fall into the training part, and their evidence index."""
    settings = load_profile(PROFILE)
    conditions = load_conditions(data / "synthetic" / "conditions")
    rows = generate(conditions, settings.seed, settings.corpus.choice_questions_per_condition)
    rows = [row for row in rows if part_of(row.focus, settings.corpus, settings.seed) == "train"]
    return rows, EvidenceIndex.build(rows, library(conditions))


def passages(rows: Sequence[QAExample], index: EvidenceIndex) -> list[list[str]]:
    """The evidence of each row, without the row's own answer."""
    team = load_profile(PROFILE).team
    found = index.search_for_training(rows, team.evidence_passages, team.evidence_chars)
    return [[passage.text for passage in each] for each in found]


def page(rows: Sequence[QAExample], index: EvidenceIndex) -> str:
    """docs/roles.md: what each role learns, and an example of each."""
    shown = [next(row for row in rows if row.id == id) for id in SHOWN]
    parts = [HEAD]
    for row, evidence in zip(shown, passages(shown, index), strict=True):
        kind = "multiple choice" if row.is_choice else "free text"
        parts.append(f"## An example: {kind}\n\nThe row `{row.id}`; its reference:\n\n> {row.rationale or row.answer}\n")
        parts += [_example(role, row, evidence) for role in ROLES]
    return "\n".join(parts)


def _example(role: Role, row: QAExample, evidence: Sequence[str]) -> str:
    said, verdict = reference_said(role, row, evidence), reference_verdict(row, evidence)
    system, user = (message["content"] for message in prompt_for(role, row, evidence, said, verdict))
    target = target_for(role, row, evidence)
    return f"### {role.capitalize()}\n\nReads\n\n```text\n{system}\n\n{user}\n```\n\nLearns to say\n\n```text\n{target}\n```\n"


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description="print docs/roles.md")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the bundled corpus")
    print(page(*bundled(parser.parse_args().data)), end="")


if __name__ == "__main__":
    main()
