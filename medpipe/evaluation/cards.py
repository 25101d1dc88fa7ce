"""Cards that travel with what was made: one per model folder, and one for the splits with Croissant metadata.

Written by release/report below `cards/`: `<model>/README.md` with a model-index, `<model>/.eval_results/<benchmark>.yaml` for
benchmarks that the Hugging Face hub knows, `splits/README.md` and `splits/croissant.json` (MLCommons Croissant 1.0). Copy a card
beside its folder before sharing that. Left out: uploading, and numbers that no evaluation of this run has measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medpipe import NOTICE, store
from medpipe.corpus.sources import SOURCES, Source
from medpipe.evaluation.benchmarks import ASKED
from medpipe.evaluation.labels import SYSTEMS
from medpipe.evaluation.reproduce import command_of
from medpipe.job import Job
from medpipe.schema import LEARNERS

HUB_IDS = {
    "medxpertqa": ("TsinghuaC3I/MedXpertQA", "Text"), "medqa": ("GBaker/MedQA-USMLE-4-options", "default"),
    "pubmedqa": ("qiaojin/PubMedQA", "pqa_labeled"), "medmcqa": ("openlifescienceai/medmcqa", "default"),
    "mmlu_medical": ("cais/mmlu", "medical"),
}  # fmt: skip
"""Benchmark → its dataset at the hub and the task's name there."""
MODELS = (*(f"models/{learner}" for learner in LEARNERS), "models/agent_rl", "models/maporl_team")
SPEAKS_AS = {"models/agent": "one_agent_with_evidence", "models/agent_rl": "one_agent_rl", "models/maporl_team": "maporl_team"}
"""Model folder → the system that it is by itself; the roles are only ever measured as parts of the SFT team."""
WHAT = {
    "models/agent": "An adapter for one agent that answers alone from the evidence.",
    "models/agent_rl": "That agent's adapter after reinforcement learning, on as many drawn tokens as the team's.",
    "models/maporl_team": "Four adapters, co-trained with MAPoRL (arXiv 2502.18439).",
}
SPLITS = {"splits/train": "train", "splits/cotrain": "cotrain", "splits/validation": "validation"}
FIELDS = {"id": "sc:Text", "question": "sc:Text", "answer": "sc:Text", "category": "sc:Text", "source": "sc:Text", "difficulty": "sc:Text"}


def write(job: Job, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """All cards, below job.out/cards."""
    for key in MODELS:
        _model(job, key, summaries, job.out / "cards" / key.partition("/")[2])
    _splits(job, job.out / "cards" / "splits")


def _model(job: Job, key: str, summaries: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

    manifest, base = store.read_manifest(job.inputs[key]), store.read_manifest(job.inputs["models/base"])
    assert manifest and base, "the report has refused a model without its manifest"
    system, name = SPEAKS_AS.get(key, ""), f"medpipe {key.partition('/')[2].replace('_', ' ')}"
    scores = {bench: summary["systems"][system] for bench, summary in summaries.items() if system in summary["systems"]}
    results = [
        EvalResult(
            task_type="question-answering", dataset_type=HUB_IDS.get(bench, (f"medpipe/{bench}",))[0], dataset_name=ASKED[bench].title,
            metric_type=ASKED[bench].metric.replace(" ", "_"), metric_value=round(found["mean"], 4),
            metric_name=f"{ASKED[bench].metric}, n = {summaries[bench]['n']}, {found['low']:.3f} to {found['high']:.3f}",
        )
        for bench, found in scores.items()
    ]  # fmt: skip
    licence = str(base.metadata.get("licence", "other")).lower()
    about = ModelCardData(
        license=licence if licence == "apache-2.0" else "other", language="en", library_name="peft", base_model=str(base.metadata["model"]),
        tags=["medical", "research-only", "lora"], model_name=name if results else None, eval_results=results or None,
    )  # fmt: skip
    told = (f"---\n{about.to_yaml()}\n---", f"# {name}", NOTICE, _told(key, manifest.metadata), _scores(system, scores, summaries))
    hashes = {"configuration": manifest.config_hash, "weights": manifest.sha256, "base": base.sha256}
    made = ", ".join([f"commit {manifest.commit or 'unknown'}", *(f"{what} {sha256[:12]}" for what, sha256 in hashes.items())])
    again = f"## How to make it again\n\n`{command_of(job.settings)}`: {made}."
    store.write_text(folder / "README.md", "\n\n".join([*told, again]) + "\n")
    for bench, found in scores.items():
        if bench in HUB_IDS:
            id, task = HUB_IDS[bench]
            notes = f"{SYSTEMS[system]}; n = {summaries[bench]['n']}, 95% interval {100 * found['low']:.1f} to {100 * found['high']:.1f}"
            entry = EvalResultEntry(dataset_id=id, task_id=task, value=round(100 * found["mean"], 2), notes=notes)
            store.write_text(
                folder / ".eval_results" / f"{bench}.yaml", yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
            )


def _told(key: str, metadata: Mapping[str, Any]) -> str:
    """Plain numbers of the training, as the asset shows them."""
    plain = {name: value for name, value in metadata.items() if isinstance(value, int | float | str) and not isinstance(value, bool)}
    rows = [f"| {name.replace('_', ' ')} | {str(value).replace('|', '/').replace('<', '&lt;')} |" for name, value in plain.items()]
    return "\n".join([WHAT.get(key, "An adapter for one role of a team."), "", "| training | |", "|---|---|", *rows])


def _scores(system: str, scores: Mapping[str, Mapping[str, Any]], summaries: Mapping[str, Mapping[str, Any]]) -> str:
    if not scores:
        return "## Evaluation\n\nNot measured by itself: see the card of the team, and the report."
    rows = [
        f"| {ASKED[bench].title} | {ASKED[bench].metric} | {found['mean']:.3f} | {found['low']:.3f} to {found['high']:.3f} "
        f"| {summaries[bench]['n']} | {summaries[bench]['chance']:.3f} |"
        for bench, found in scores.items()
    ]  # fmt: skip
    head = ["| benchmark | metric | mean | 95% interval | questions | chance |", "|---|---|---|---|---|---|"]
    return "\n".join([f"## Evaluation ({SYSTEMS[system]})", "", *head, *rows])


def _splits(job: Job, folder: Path) -> None:
    rows = {key: sum(1 for _ in store.iter_jsonl(job.inputs[key] / store.ROWS)) for key in SPLITS}
    files = {key: (f"medxpert_{part}.jsonl", job.inputs[key] / f"medxpert_{part}.jsonl") for key, part in SPLITS.items()}
    hashes = {key: store.sha256_file(path) for key, (_, path) in files.items()}
    used = [SOURCES[name] for name in job.settings.corpus.use]
    store.write_json(folder / "croissant.json", croissant({files[key][0]: hashes[key] for key in SPLITS}, used))
    lines = [f"| {part} | {rows[key]} | `{files[key][0]}` | {hashes[key][:12]} |" for key, part in SPLITS.items()]
    sources = "\n".join(f"- {source.title}: {source.licence}. {source.citation}" for source in used)
    text = "\n".join(["| split | rows | file | sha256 |", "|---|---|---|---|", *lines])
    head = "---\nlanguage: en\ntask_categories: [question-answering]\ntags: [medical]\n---\n"
    store.write_text(
        folder / "README.md",
        f"{head}\n# Splits of a medpipe run\n\n{NOTICE}\n\n{text}\n\nSources:\n{sources}\n\nWhat a benchmark asks is kept out.\n",
    )


def croissant(files: Mapping[str, str], sources: Sequence[Source]) -> dict[str, Any]:
    """Croissant 1.0 for JSON-lines files, given with their sha256: one record set per file.

    Source: MLCommons, Croissant Format Specification 1.0.
    """
    return {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0", "name": "medpipe-splits",
        "description": f"Medical question-answer rows, split by disease. {NOTICE}",
        "license": sorted({source.licence for source in sources}),
        "url": next((source.url for source in sources if source.url.startswith("http")), ""), "version": "1.0.0",
        "datePublished": "1970-01-01", "citeAs": "; ".join(source.citation for source in sources),
        "distribution": [
            {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "encodingFormat": "application/jsonlines",
             "sha256": sha256}
            for name, sha256 in files.items()
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet", "@id": part, "name": part,
                "field": [
                    {"@type": "cr:Field", "@id": f"{part}/{field}", "name": field, "dataType": kind,
                     "source": {"fileObject": {"@id": name}, "extract": {"column": field}}}
                    for field, kind in FIELDS.items()
                ],
            }
            for name in files
            for part in [name.removesuffix(".jsonl")]
        ],
    }  # fmt: skip


CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column", "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field", "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject", "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField",
    "path": "cr:path", "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
"""The names that the specification asks a file of version 1.0 to declare."""
