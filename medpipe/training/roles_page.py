"""What each role reads and learns, shown on two rows of the bundled corpus: prints docs/roles.md.

    python -m medpipe.training.roles_page > docs/roles.md

The transcripts are made by the functions that make the training rows, with passages as the evidence index gives them. Left out: token
budgets, which cut a message at a sentence's end, the other sources, and all of the library but what the two rows are about.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from medpipe.config import Team
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.synthetic import generate, library, load_conditions
from medpipe.models.base import CHATML
from medpipe.models.tiny import tokenizer_of
from medpipe.roles import Said, mates_before, target_for
from medpipe.schema import ROLES, QAExample
from medpipe.team.transcript import Frame

SEED, PER_CONDITION = 0, 7
SHOWN = ("synthetic-infective_endocarditis-treatment", "synthetic-psoriasis-choice_complications-1")
"""A free-text row and a multiple-choice row. In the second the planner is wrong before the others speak."""
NO_LIMIT = 10**6  # tokens

HEAD = """\
# The four roles

What each role reads, what it learns to say, and two whole transcripts. Printed by `python -m medpipe.training.roles_page`; a test
holds this page to it. This is research software: the texts below are training data in general words, not medical advice.

| role | learns to | on free text it says | on multiple choice it says |
|---|---|---|---|
| planner | name the kind of question, its focus and a plan | `Type: … Focus: … Plan: …` | what to compare |
| researcher | pick and cite the evidence that bears on it | quotes marked `[E2]`, or that none bears | the passage on its option |
| analyst | reason from evidence to a conclusion | `Findings: … Reasoning: … Conclusion: …` | which passage fits better than which |
| reporter | write the answer for the reader | the answer, with the cautions it calls for | the best fit |

On multiple choice every message ends with the answer that its role believes in, name first and then the letter:
`Answer: asthma (B)`. Targets come from the row and its passages alone (`medpipe/roles.py`); nothing medical is added to them.

## Who reads what

All four read one transcript, and it only grows: a header with the question, its options and the passages, then one turn after the
other. A role reads everything that stands before its own turn, passages included. Who speaks is told by the turn's first line alone.

## Where something is learned

- A role learns on the tokens of its own turns, from its first word to the end token. On all other tokens nothing is learned.
- With `training.adapter: activated` a role's adapter acts on its own turns and nowhere else. Header and foreign turns are read by
  the bare base, so what was read for one role serves them all. Gradients flow through the own turn; before it there is nothing that
  they could change.
- With `training.adapter: lora` the adapter acts on everything that its role reads, and each role reads for itself.
- The lone agent (`models/agent`) learns the reporter's turn right behind the header, with no team-mate before it. Where the roles do
  a step of a comparison each, it learns to write all of the steps, and it may write as much as the four together.

## How targets are made

- **Planner.** The plan goes by the type of question. The focus is named where the question names it; a case would be answered by
  it: there it is "the findings described".
- **Researcher.** On free text a passage bears on the question if it names the subject and shares at least three word stems with
  question and reference; the quote is the part of it that shares most. A second passage is cited if it brings two more. All other
  passages are hard negatives; where none bears, the role says so. Shared words are a rough measure: a passage that says the same in
  other words counts as a negative. On multiple choice it cites the passage on the right option, or says that no passage bears.
- **Analyst.** On free text the finding is the best passage's words and the conclusion is how the reference begins. On multiple
  choice it puts the passage on the right option before the first of the others.
- **Reporter.** On free text the reference's first four sentences. A caution follows the sentence that calls for it: on medicines and
  doses, on other treatment, and on alarming signs where the text itself does not send the reader to urgent care.

On multiple choice that states a fact under a label which the passages use too (`Onset: infancy`;
`corpus.phenotype_facts` makes such questions) each role does one step of the comparison, and in each a few words are
copied from nearby, which a small model can do: the planner names what is wanted (`Wanted: Onset: infancy.`), the
researcher reads each passage's value out (`Onset: adulthood [E1]; infancy [E2].`), the analyst picks one (`infancy
[E2] fits best.`), the reporter answers. What a passage tells is said truly, whichever option the speaker settles on.

## What the mates say while a role learns

- On free text each mate says its target. So the reporter reads how the reference begins, in the analyst's conclusion.
- On multiple choice a mate is right only as often as `RIGHT` in `medpipe/roles.py` says, drawn from the row's id: planner and
  researcher in half of the rows, the analyst in three quarters. Mates that are wrong all name the same wrong option and argue for
  it from the passages, so agreement is no proof and a role has to read. What a role learns to say is right in every row.
- A quarter of the multiple-choice rows begin with an earlier round in which the team did not agree, since only then does another
  round follow.
"""


def shown_rows(data: Path) -> list[tuple[QAExample, list[str]]]:
    """The two rows with their passages, found among the library's texts on what they are about."""
    conditions = load_conditions(data / "synthetic" / "conditions")
    by_id = {row.id: row for row in generate(conditions, SEED, PER_CONDITION)}
    rows, rules = [by_id[id] for id in SHOWN], Team()
    about = {name for row in rows for name in (row.focus, *row.options)}
    index = EvidenceIndex.build([], library([condition for condition in conditions if condition.name in about]))
    found = index.for_questions(rows, rules.evidence_passages, rules.evidence_chars, training=True)
    return [(row, [passage.text for passage in passages]) for row, passages in zip(rows, found, strict=True)]


def transcript(row: QAExample, evidence: Sequence[str], said: Sequence[Said]) -> str:
    """The text of a header and of what was said, as a model reads it."""
    frame = Frame(tokenizer_of(CHATML))  # gives any text back as it was
    tokens = frame.header(row, evidence, NO_LIMIT)
    for message in said:
        tokens += frame.turn(message.role, frame.completion(message.text, NO_LIMIT))
    return str(frame.tokenizer.decode(tokens))


def page(shown: Sequence[tuple[QAExample, Sequence[str]]]) -> str:
    """docs/roles.md: how the roles learn, and a transcript of each kind of question."""
    return "\n".join([HEAD, *(_example(row, evidence) for row, evidence in shown)])


def _example(row: QAExample, evidence: Sequence[str]) -> str:
    kind = "multiple choice" if row.is_choice else "free text"
    targets = [Said(role, target_for(role, row, evidence)) for role in ROLES]
    said = [*mates_before(row, evidence)[1][:-1], targets[-1]]
    text = (
        f"## A transcript: {kind}\n\nThe row `{row.id}`; the reference: {row.answer_text}\n\n"
        "What was said, up to the end of the reporter's turn, which is its target:\n\n"
        f"```text\n{transcript(row, evidence, said).rstrip()}\n```\n"
    )
    if row.is_choice:
        text += "\nWhat each of them learns to say in its place, whatever was said before:\n\n"
        text += "\n".join(f"- {message.role}: {message.text}" for message in targets) + "\n"
    else:
        text += "\nEach of the four turns is what its role learns to say there.\n"
    return text


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description="print docs/roles.md")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the bundled corpus")
    print(page(shown_rows(parser.parse_args().data)), end="")


if __name__ == "__main__":
    main()
