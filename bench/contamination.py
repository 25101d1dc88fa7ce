"""Leaked exam questions: are 50 real ones, planted into MedQuAD's rows, all kept out, and which real rows go with them?

    python bench/contamination.py --mirror <folder> [--repeat 3] [--json]

Every benchmark of the mirror is searched for. The 50 are planted in turn verbatim, in other case without punctuation, inside a longer
answer, and with their options behind them (medpipe_tests/corpus/planted.py). A real row that matches is listed with the words that it
shares, for a person to judge. Time: from rows to the decision about each row, and for preparing the benchmarks.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median

import mirror

from medpipe.corpus.contamination import Items, Match
from medpipe.corpus.funnel import BATCH
from medpipe.schema import QAExample
from medpipe_tests.corpus.planted import exam_leaks

LEAKS = 50
SHOWN_CHARS = 80


def search(items: Items, rows: Sequence[QAExample]) -> dict[str, Match]:
    """Id of each row that matches → what it shares; in batches, as cleaning does it."""
    found: dict[str, Match] = {}
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        found |= {batch[number].id: match for number, match in items.matches(batch).items()}
    return found


def main() -> None:
    """Plant, search and tell."""
    options = mirror.arguments("Leaked exam questions among MedQuAD's rows.").parse_args()
    real, questions = mirror.read(options.mirror)
    if not questions:
        raise SystemExit("got no benchmark, expected at least one, in the mirror folder: see data/README.md for the files' names")
    leaks = exam_leaks(questions, LEAKS, options.seed, hosts=real)
    rows = [*real, *(leak.row for leak in leaks)]
    prepared, searched = list[float](), list[float]()
    found: dict[str, Match] = {}
    for _ in range(options.repeat):
        start = time.process_time()
        items = Items.of(questions)
        middle = time.process_time()
        found = search(items, rows)
        prepared.append(middle - start)
        searched.append(time.process_time() - middle)
    blocked = Counter(leak.kind for leak in leaks if leak.row.id in found)
    real_matches = {row.id: found[row.id] for row in real if row.id in found}
    line = {
        "rows": len(real), "questions": dict(Counter(item.source for item in questions)), "planted": LEAKS,
        "blocked": blocked.total(), "blocked_by_kind": dict(blocked), "real_rows_gone": len(real_matches),
        "prepare_s": round(median(prepared), 2), "search_s": round(median(searched), 2), "runs": options.repeat,
    }  # fmt: skip
    if options.json:
        print(json.dumps(line))
        return
    print("| rows | benchmark questions | planted | blocked | real rows gone | process s to prepare | process s to search |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {line['rows']} | {len(questions)} | {LEAKS} | {line['blocked']} | {line['real_rows_gone']} | {line['prepare_s']} "
        f"| {line['search_s']} |\n"
    )
    for id, match in real_matches.items():
        print(f"{id}: {match.how} with {match.benchmark} {match.item}: {match.words[:SHOWN_CHARS]}")


if __name__ == "__main__":
    main()
