"""Near duplicates: our search against datasketch and semhash on the same rows in one run, time and what each finds.

    python bench/dedup.py --mirror <folder> [--repeat 3] [--json]

Rows: MedQuAD's answered ones with 500 near duplicates and 200 hard negatives planted (medpipe_tests/corpus/planted.py). Each
measurement is a process of its own, forked when the rows are in memory; libraries are imported and semhash's encoder is loaded before the
clock starts. Peers take turns. Time runs from rows to the decision about each row; process time counts all threads, and of semhash not
the processes that model2vec encodes in.
- datasketch: the loop of its documentation: 128 permutations, threshold 0.7, question and answer as one text; once over
  runs of three words, once over our shingles (words and pairs).
- semhash: its defaults (threshold 0.9), columns question and answer, with a static encoder that model2vec distils
  from the bundled all-MiniLM-L6-v2. That is done once, minutes, not counted, and kept in --encoder.
Needs: pip install -e '.[bench]'. What this leaves out: rows of several sources, and memory.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import mirror

from medpipe.corpus.dedup import NearDuplicates
from medpipe.corpus.shingles import word_list
from medpipe.schema import QAExample
from medpipe_tests.corpus.planted import Planted, hard_negatives, near_duplicates, score

ENCODER = Path("outputs/bench/static-minilm")
Gone = dict[str, str]  # id of a dropped row → id of the row that stays for it
Search = Callable[[Sequence[QAExample]], Gone]


def ours(encoder: Path) -> Search:
    """medpipe's NearDuplicates as a whole."""
    import numpy  # noqa: F401
    import rensa  # noqa: F401

    def search(rows: Sequence[QAExample]) -> Gone:
        with tempfile.TemporaryDirectory() as folder:
            near = NearDuplicates(Path(folder))
            near.add(rows, 0)
            return {rows[gone].id: rows[stays].id for gone, stays in near.replaced().items()}

    return search


def datasketch(cut: Callable[[list[str]], set[str]]) -> Callable[[Path], Search]:
    """A plain loop: a row goes if the index holds one like it, otherwise it joins the index."""

    def load(encoder: Path) -> Search:
        from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports]

        def search(rows: Sequence[QAExample]) -> Gone:
            index, gone = MinHashLSH(threshold=0.7, num_perm=128), Gone()
            shingles = ([shingle.encode() for shingle in cut(word_list(f"{row.question} {row.answer}"))] for row in rows)
            for row, mark in zip(rows, MinHash.generator(shingles, num_perm=128), strict=True):
                if found := index.query(mark):
                    gone[row.id] = str(found[0])
                else:
                    index.insert(row.id, mark)
            return gone

        return search

    return load


def semhash(encoder: Path) -> Search:
    """semhash as its documentation shows it."""
    from model2vec import StaticModel  # pyright: ignore[reportMissingImports]
    from semhash import SemHash  # pyright: ignore[reportMissingImports]

    model = StaticModel.from_pretrained(str(encoder))

    def search(rows: Sequence[QAExample]) -> Gone:
        records = [{"id": row.id, "question": row.question, "answer": row.answer} for row in rows]
        result = SemHash.from_records(records, columns=["question", "answer"], model=model).self_deduplicate()
        return {each.record["id"]: each.duplicate_of["id"] for each in result.filtered}

    return search


def _threes(words: list[str]) -> set[str]:
    return {" ".join(words[at : at + 3]) for at in range(max(len(words) - 2, 1))}


def _words_and_pairs(words: list[str]) -> set[str]:
    return {*words, *map(" ".join, pairwise(words))}


PEERS: dict[str, Callable[[Path], Search]] = {
    "medpipe": ours,
    "datasketch, runs of 3 words": datasketch(_threes),
    "datasketch, our shingles": datasketch(_words_and_pairs),
    "semhash, static MiniLM": semhash,
}


def measure(peer: str, encoder: Path, rows: Sequence[QAExample], answer: Connection) -> None:
    """In a process of its own: seconds of wall and process time, and what is gone."""
    search = PEERS[peer](encoder)
    wall, process = time.perf_counter(), time.process_time()
    gone = search(rows)
    answer.send((time.perf_counter() - wall, time.process_time() - process, gone))


def in_process(peer: str, encoder: Path, rows: Sequence[QAExample]) -> tuple[float, float, Gone]:
    """One measurement."""
    fork = multiprocessing.get_context("fork")
    ours_end, its_end = fork.Pipe(duplex=False)
    process = fork.Process(target=measure, args=(peer, encoder, rows, its_end))
    process.start()
    its_end.close()
    try:
        return ours_end.recv()
    except EOFError:
        sys.exit(f"got no result, expected what {peer!r} finds, in its process: read its error above")
    finally:
        process.join()


def distil(encoder: Path) -> None:
    """Write the static encoder, unless it is there; in a process of its own, so that torch stays out of this one."""

    def work() -> None:
        from model2vec.distill import distill  # pyright: ignore[reportMissingImports]

        from medpipe.minilm import model_folder

        distill(str(model_folder()), device="cpu").save_pretrained(encoder)

    if not (encoder / "model.safetensors").is_file():
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()


def result(peer: str, runs: list[tuple[float, float, Gone]], near: list[Planted], hard: list[Planted]) -> dict[str, Any]:
    """A peer's line: medians of its times, and what it found (the same in every run, or it says so)."""
    gone = runs[0][2]
    judged = score(near, hard, gone)
    planted = {id for each in (*near, *hard) for id in (each.row.id, each.original)}
    return {
        "peer": peer, "wall_s": round(median(run[0] for run in runs), 2), "process_s": round(median(run[1] for run in runs), 2),
        "found": judged.found, "false": judged.false, "recall": round(judged.recall, 4), "precision": round(judged.precision, 4),
        "other_rows_gone": len(gone.keys() - planted), "runs": len(runs), "stable": all(run[2] == gone for run in runs),
    }  # fmt: skip


def main() -> None:
    """Measure all peers."""
    parser = mirror.arguments("Near duplicates: time, recall and precision beside peers.")
    parser.add_argument("--encoder", type=Path, default=ENCODER, help="folder of semhash's static encoder, made where it is missing")
    options = parser.parse_args()
    real, _ = mirror.read(options.mirror)
    near, hard = near_duplicates(real, 500, options.seed), hard_negatives(real, 200, options.seed)
    rows = [*real, *(each.row for each in (*near, *hard))]
    distil(options.encoder)
    runs: dict[str, list[tuple[float, float, Gone]]] = {peer: [] for peer in PEERS}
    for _ in range(options.repeat):
        for peer in PEERS:
            runs[peer].append(in_process(peer, options.encoder, rows))
    lines = [result(peer, runs[peer], near, hard) for peer in PEERS]
    if options.json:
        print(*map(json.dumps, lines), sep="\n")
        return
    print(f"{len(real)} rows of MedQuAD, {len(near)} near duplicates and {len(hard)} hard negatives planted; medians of {options.repeat}\n")
    print("| peer | process s | wall s | recall | precision | near duplicates found | hard negatives taken | other rows gone |")
    print("|---|---|---|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line['peer']} | {line['process_s']} | {line['wall_s']} | {line['recall']} | {line['precision']} "
            f"| {line['found']} of {len(near)} | {line['false']} of {len(hard)} | {line['other_rows_gone']} |"
        )


if __name__ == "__main__":
    main()
