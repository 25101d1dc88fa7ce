"""Where a result comes from: its data, sources and licences, base model, settings, commit, and what was measured on it.

    medpipe lineage models/maporl_team                        # an asset's key: what outputs/models/maporl_team shows
    medpipe lineage outputs/store/models/planner/1a2b3c4d…    # a result of any profile, or a copy of a model's folder
    medpipe lineage 1a2b3c4d                                  # a run of Dagster or MLflow, from its first eight characters on
    found = trace("models/maporl_team", Path("outputs"))

Read from the manifests of all results (medpipe/results.py) and the journals in outputs/tracking. Each manifest names its inputs by
content hash, so an input is found wherever a result with that content lies; only where none does, that is said.
Left out: runs that only found everything standing (they leave no journal), and what no manifest and no journal tells of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpipe import results, store
from medpipe.config import load_profile, profile_names
from medpipe.corpus.sources import SOURCES
from medpipe.errors import MedpipeError
from medpipe.evaluation.benchmarks import ASKED
from medpipe.evaluation.labels import SYSTEMS
from medpipe.schema import LEARNERS, Manifest
from medpipe.tracking.journal import journals, read, read_state

TEAM, LONE = "models/maporl_team", "models/agent_rl"
SUMMARY = "summary.json"
GROUPS = ("sources", "corpus", "splits", "models", "rewards", "tuning", "evaluation", "release")
LAST_FIRST = (TEAM, LONE, "models/verifier", *(f"models/{learner}" for learner in LEARNERS), "models/base")
"""Of a run that made several things, the one whose lineage is told."""
FEWEST, SHOWN = 8, 12  # characters of a run's id that have to be given, of a hash that are shown


@dataclass(frozen=True)
class Node:
    """One asset as it was handed on: its content hash at that time, and what a result with that content tells."""

    key: str
    sha256: str
    state: str  # "stands", "made again" (same content, later), "gone" (no result with this content lies here)
    rows: int | None = None
    about: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """One benchmark as it was measured on the asset in question."""

    key: str
    title: str
    sha256: str
    created_at: str
    status: str
    reason: str = ""
    n: int = 0
    metric: str = ""
    systems: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Lineage:
    """Everything that can be told of one result; `dataclasses.asdict` makes plain data of it."""

    key: str
    folder: str
    sha256: str
    state: str
    fingerprint: str
    created_at: str
    seconds: float
    commit: str
    config_hash: str
    profile: str
    runs: dict[str, str]  # "dagster", "mlflow": ids; empty where no journal tells
    damaged: tuple[str, ...]  # files that are not as they were recorded; not looked for in a copy
    base: dict[str, Any]
    settings: dict[str, Any]
    inputs: tuple[Node, ...]
    sources: tuple[Node, ...]
    evaluations: tuple[Evaluation, ...]
    elsewhere: tuple[str, ...]  # evaluations that lie here and were measured on another content
    unreadable: tuple[str, ...] = ()  # folders whose manifest is damaged, and damaged scores: nothing of them is told
    run_made: tuple[str, ...] = ()  # where a run was asked for: all that it made


@dataclass(frozen=True)
class Told:
    """The head of a journal: what was known when the work on an asset began."""

    key: str
    fingerprint: str
    dagster: str
    mlflow: tuple[str, str]  # the asset's run and its parent
    profile: str
    config_hash: str
    commit: str
    time_ms: int
    seconds: float
    inputs: dict[str, str]
    rows: dict[str, int]  # content hash → rows
    settings: dict[str, Any]


class _Results:
    """The finished results below some outputs folders, read once."""

    def __init__(self, *outputs: Path) -> None:
        self.outputs = tuple({folder.resolve(): folder for folder in outputs}.values())
        self.damaged: list[str] = []
        self._found: dict[str, list[tuple[Path, Manifest]]] = {}

    def of(self, key: str) -> list[tuple[Path, Manifest]]:
        """All of an asset, the oldest first; those too that lie at outputs/<key> itself, as a copied folder has them."""
        if key not in self._found:
            found: dict[Path, Manifest] = {}
            for outputs in self.outputs:
                for folder in (*sorted((outputs / results.STORE / key).glob("[!.]*")), outputs / key):
                    try:
                        if folder.resolve() not in found and (manifest := store.read_manifest(folder)):
                            found[folder.resolve()] = manifest
                    except store.DamagedManifest:
                        self.damaged.append(str(folder))
            self._found[key] = sorted(found.items(), key=lambda one: one[1].created_at)
        return self._found[key]

    def with_content(self, key: str, sha256: str, used_at: str) -> Manifest | None:
        """What has this content: the last that was made before it was used, else the first that was made later."""
        fits = [manifest for _, manifest in self.of(key) if manifest.sha256 == sha256]
        return next((one for one in reversed(fits) if one.created_at <= used_at), fits[0] if fits else None)


def trace(wanted: str, outputs: Path) -> Lineage:
    """The lineage of a folder, an asset or a run.

    Raises:
        MedpipeError: nothing by that name lies here, its manifest is damaged, or a run's id fits several runs.
    """
    folder = _folder(Path(wanted), outputs)
    if folder is None:
        return _of_run(wanted, outputs, _heads(outputs))
    manifest = store.read_manifest(folder)
    assert manifest
    key, home = _place(folder) or (_key(manifest), outputs)
    made = _Results(home, outputs)
    return _lineage(key, folder, manifest, made, [head for each in made.outputs for head in _heads(each)])


def _folder(path: Path, outputs: Path) -> Path | None:
    """A finished folder: named itself, by a link, by a file in it, by a role's part of it (…/team/planner), or by an asset's key."""
    for start in (path, outputs / path):
        if start.exists():
            for candidate in (resolved := start.resolve(), *resolved.parents[:2]):
                if (candidate / store.MANIFEST).is_file():
                    return candidate
    return None


def _place(folder: Path) -> tuple[str, Path] | None:
    """Key and outputs folder of a result in a store, or of one that lies at <outputs>/<key> itself; None for a copy elsewhere."""
    *_, top, group, name, _ = ("", "", *folder.parts)
    if top == results.STORE and group in GROUPS:
        return f"{group}/{name}", folder.parents[3]
    return (f"{name}/{folder.name}", folder.parents[1]) if name in GROUPS else None


def _heads(outputs: Path) -> list[Told]:
    return [each for each in map(_head, journals(outputs)) if each]


def _of_run(wanted: str, outputs: Path, heads: list[Told]) -> Lineage:
    fits = [each for each in heads if len(wanted) >= FEWEST and any(id.startswith(wanted) for id in (each.dagster, *each.mlflow) if id)]
    own = [each for each in fits if each.mlflow[0].startswith(wanted)]
    runs = {each.dagster for each in fits}
    if len(runs) != 1:
        some = ", ".join(sorted({each.dagster[:FEWEST] for each in heads})[:5])
        raise MedpipeError(
            got=f"{wanted!r}, which fits {len(runs) or 'no'} runs", where=str(outputs),
            expected=f"a finished folder, an asset's key such as models/maporl_team, or at least {FEWEST} characters of a run's id",
            do=(f"runs that a journal tells of: {some}" if some else "materialise it first (medpipe run)")
            + "; a run that found everything standing made nothing of its own",
        )  # fmt: skip
    made = own or fits
    order = [*LAST_FIRST, *sorted({each.key for each in made} - set(LAST_FIRST))]
    head = min(made, key=lambda each: (order.index(each.key), -each.time_ms))
    found = _Results(outputs)
    # Not told from their fingerprint's folder: one that an earlier version made has another name.
    folder, manifest = next((one for one in found.of(head.key) if one[1].fingerprint == head.fingerprint), (None, _as_it_was(head)))
    told = _lineage(head.key, folder, manifest, found, heads)
    return replace(told, run_made=tuple(sorted({each.key for each in fits})))


def _lineage(key: str, folder: Path | None, manifest: Manifest, made: _Results, heads: list[Told]) -> Lineage:
    known_rows = {sha: rows for head in heads for sha, rows in head.rows.items()}
    inputs = _nodes(manifest, made, known_rows)
    nodes = list(_all(inputs))
    if key.startswith("sources/"):
        nodes.append(Node(key, manifest.sha256, "stands", _rows(manifest), _about(key, manifest)))
    sources = {(node.key, node.sha256): node for node in nodes if node.key.startswith("sources/")}
    bases = {node.sha256: node for node in nodes if node.key == "models/base"}
    base = _about(key, manifest) if key == "models/base" else next(iter(bases.values())).about if len(bases) == 1 else {}
    mine = sorted((head for head in heads if head.fingerprint == manifest.fingerprint), key=lambda head: head.time_ms)
    head = mine[-1] if mine else None
    measured, elsewhere = _evaluations(key, manifest, made) if folder else ((), ())
    ids = {"dagster": head.dagster, "mlflow": head.mlflow[0]} if head else {}
    return Lineage(
        key=key, folder=str(folder or ""), sha256=manifest.sha256, state="stands" if folder else "gone", fingerprint=manifest.fingerprint,
        created_at=manifest.created_at, seconds=manifest.seconds, commit=manifest.commit, config_hash=manifest.config_hash,
        profile=manifest.profile or (head.profile if head else _bundled(manifest.config_hash)),
        runs={name: id for name, id in ids.items() if id},
        damaged=tuple(store.damaged_files(folder, manifest)) if folder and _place(folder) else (),
        base=base or dict(manifest.settings.get("model", {})), settings=manifest.settings, inputs=inputs,
        sources=tuple(sources[each] for each in sorted(sources)), evaluations=measured, elsewhere=elsewhere, unreadable=tuple(made.damaged),
    )  # fmt: skip


def _nodes(manifest: Manifest, made: _Results, known_rows: Mapping[str, int]) -> tuple[Node, ...]:
    """The inputs of a result, and theirs."""
    nodes = []
    for key, sha in sorted(manifest.inputs.items(), key=_order):
        found = made.with_content(key, sha, manifest.created_at)
        if found is None:
            nodes.append(Node(key, sha, "gone", known_rows.get(sha), _standing_facts(key)))
        else:
            state = "made again" if found.created_at > manifest.created_at and found.status == "ok" else "stands"
            nodes.append(Node(key, sha, state, _rows(found), _about(key, found), _nodes(found, made, known_rows)))
    return tuple(nodes)


def _evaluations(key: str, manifest: Manifest, made: _Results) -> tuple[tuple[Evaluation, ...], tuple[str, ...]]:
    """The newest evaluation of exactly this content on each benchmark, or those that it was made from; and benchmarks that have only
    evaluations of another content of the same asset."""
    found, elsewhere = [], []
    for name, benchmark in ASKED.items():
        place = f"evaluation/{name}"
        every = [one for one in made.of(place) if (place != key or one[1].sha256 == manifest.sha256) and _has_scores(*one, made.damaged)]
        used = [one for one in every if manifest.inputs.get(place) == one[1].sha256]
        mine = used or [one for one in every if place == key or one[1].inputs.get(key) == manifest.sha256]
        if mine:
            found.append(_evaluation(place, benchmark.title, *mine[-1]))
        elif place in manifest.inputs or any(key in other.inputs for _, other in every):
            elsewhere.append(place)
    return tuple(found), tuple(elsewhere)


def _has_scores(folder: Path, manifest: Manifest, damaged: list[str]) -> bool:
    """Whether an evaluation's numbers are those that were measured, or it says why there are none."""
    summary = folder / SUMMARY
    if manifest.status != "ok" or (summary.is_file() and store.sha256_file(summary) == manifest.files.get(SUMMARY)):
        return True
    damaged.append(str(summary))
    return False


def _evaluation(key: str, title: str, folder: Path, manifest: Manifest) -> Evaluation:
    summary = store.read_json(folder / SUMMARY) if manifest.status == "ok" else {}
    fields = ("mean", "low", "high", "n_unparsed")
    systems = tuple({"system": name, **{f: row.get(f) for f in fields}} for name, row in summary.get("systems", {}).items())
    return Evaluation(
        key, title, manifest.sha256, manifest.created_at, manifest.status, manifest.reason, summary.get("n", 0), summary.get("metric", ""),
        systems,
    )  # fmt: skip


def _head(path: Path) -> Told | None:
    lines = read(path, 0)
    if not lines or lines[0]["kind"] != "head":
        return None
    head, tags, state = lines[0], lines[0]["tags"], read_state(path, "mlflow")
    prefix = "medpipe.input."
    return Told(
        key=head["name"], fingerprint=tags.get("medpipe.fingerprint", ""), dagster=head["run"],
        mlflow=(state.get("run", ""), state.get("parent", "")), profile=head["shared"].get("medpipe.profile", ""),
        config_hash=head["shared"].get("medpipe.config_hash", ""), commit=tags.get("medpipe.commit", ""), time_ms=head["time_ms"],
        seconds=round((lines[-1]["time_ms"] - head["time_ms"]) / 1000, 1),
        inputs={name.removeprefix(prefix): sha for name, sha in tags.items() if name.startswith(prefix)},
        rows={each["sha256"]: each["rows"] for each in head["datasets"] if each.get("rows") is not None}, settings=head["params"],
    )  # fmt: skip


def _as_it_was(head: Told) -> Manifest:
    """What a journal still tells of a result that is gone; its content hash is not among it."""
    begun = datetime.fromtimestamp(head.time_ms / 1000, UTC).isoformat(timespec="seconds")
    return Manifest(
        task="", fingerprint=head.fingerprint, sha256="", files={}, inputs=head.inputs, settings=head.settings,
        config_hash=head.config_hash, commit=head.commit, created_at=begun, seconds=head.seconds,
    )  # fmt: skip


def _key(manifest: Manifest) -> str:
    """The asset of a copied folder; the lone agent is made by the team's task, and from the team."""
    if manifest.task == "sft":
        return f"models/{manifest.metadata.get('role', '')}"
    maporl = LONE if TEAM in manifest.inputs else TEAM
    return {"base": "models/base", "verifier": "models/verifier", "maporl": maporl}.get(manifest.task, manifest.task)


def _standing_facts(key: str) -> dict[str, Any]:
    """What holds for any content: a source's title, licence and citation."""
    source = SOURCES.get(key.partition("/")[2]) if key.startswith("sources/") else None
    return {"title": source.title, "licence": source.licence, "citation": source.citation} if source else {}


def _about(key: str, manifest: Manifest) -> dict[str, Any]:
    told = manifest.metadata
    if key == "models/base":
        return {name: told[name] for name in ("model", "revision", "licence", "parameters", "origin_sha256") if name in told}
    if key == "sources/benchmarks":
        return {"benchmarks": told.get("benchmarks", {}).get("table", [])}
    if key.startswith("sources/"):
        files = told.get("read_from", {}).get("table", [])
        names = ("licence", "url", "citation")
        facts = {"title": told.get("source", ""), **{name: told[name] for name in names if name in told}, "files": files}
        return facts | ({} if manifest.status == "ok" else {"not available": manifest.reason})
    return {}


def _rows(manifest: Manifest) -> int | None:
    rows = manifest.metadata.get("rows", manifest.metadata.get("questions"))
    return rows if isinstance(rows, int) else None


def _bundled(config_hash: str) -> str:
    """The bundled profile that has these very settings, if one still has."""
    return next((name for name in profile_names() if load_profile(name).config_hash() == config_hash), "")


def _all(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _all(node.inputs)


def _order(item: tuple[str, str]) -> tuple[int, str]:
    group = item[0].partition("/")[0]
    return (GROUPS.index(group) if group in GROUPS else len(GROUPS), item[0])


Branch = tuple[str, list[Any]]


def as_text(found: Lineage) -> str:
    """As a tree, for people."""
    content = f"content {found.sha256[:SHOWN]}" if found.sha256 else "it is gone; this is what the journal tells"
    branches: list[Branch] = [(_made(found), [])]
    if found.run_made:
        branches.append((f"the run made {', '.join(found.run_made)}", []))
    if found.damaged:
        branches.append((f"!! {len(found.damaged)} files are not as they were recorded: {', '.join(found.damaged[:5])}", []))
    if found.unreadable:
        branches.append((f"!! damaged, so nothing of it is told: {', '.join(found.unreadable)}", []))
    profile = found.profile or "not recorded: no journal, and no bundled profile has these settings"
    branches.append((f"settings {found.config_hash[:SHOWN]}, profile {profile}", []))
    base = ", ".join(f"{name} {_short(value)}" for name, value in found.base.items())
    branches.append((f"base     {base or 'no model was used'}", []))
    branches.append(("made from", _inputs(found.inputs, set())) if found.inputs else ("made from no other asset", []))
    broken = sorted({node.key for node in _all(found.inputs) if node.state == "gone" and not node.key.startswith("sources/")})
    lines = [line for node in found.sources for line in _source(node)]
    lines += [f"!! not all are known: the way to them ends at {', '.join(broken)}"] if broken else []
    branches.append(("sources and their licences" if lines else "no source went into it", [(line, []) for line in lines]))
    branches.append(_scores(found))
    return "\n".join([f"{found.key}  {content}" + (f"  ({found.folder})" if found.folder else ""), *_render(branches)])


def _made(found: Lineage) -> str:
    word = "made" if found.state == "stands" else "begun"
    runs = "".join(f", {name} run {id[:FEWEST]}" for name, id in found.runs.items())
    return f"{word}     {found.created_at} in {_duration(found.seconds)}, commit {found.commit or 'not recorded'}{runs}"


def _inputs(nodes: Iterable[Node], seen: set[tuple[str, str]]) -> list[Branch]:
    """Each content is told of once."""
    branches: list[Branch] = []
    for node in nodes:
        if (node.key, node.sha256) in seen:
            branches.append((f"{node.key}  {node.sha256[:SHOWN]}  (above)", []))
            continue
        seen.add((node.key, node.sha256))
        rows = "" if node.rows is None else f"  {node.rows:,} {'questions' if node.key == 'sources/benchmarks' else 'rows'}"
        text = f"{node.key}  {node.sha256[:SHOWN]}{rows}{_state(node)}"
        if node.inputs and all((each.key, each.sha256) in seen for each in node.inputs):
            branches.append((f"{text}  (from {len(node.inputs)} of the above)", []))
        else:
            branches.append((text, _inputs(node.inputs, seen)))
    return branches


def _state(node: Node) -> str:
    return {
        "stands": "",
        "made again": "  ! made again later with the same content: what follows is of the later making",
        "gone": "  !! gone: no result with this content lies here, so what it was made from is not known",
    }[node.state]


def _source(node: Node) -> list[str]:
    if "benchmarks" in node.about:
        told = [each for each in node.about["benchmarks"] if each.get("questions")]
        none = [] if told else [f"{node.key}  no benchmark could be had"]
        lines = [f"{each['benchmark']}: {each['questions']:,} questions, kept out of training; licence {each['licence']}" for each in told]
        return [f"{node.key}  {line}" for line in lines] + none
    if not node.about:
        return [f"{node.key}  {node.sha256[:SHOWN]}{_state(node)}"]
    rows = "rows not known" if node.rows is None else f"{node.rows:,} rows"
    missing = "  (could not be had)" if "not available" in node.about else ""
    title = f"{node.about['title']}: {rows}; licence {node.about.get('licence', 'not recorded')}"
    return [f"{node.key}  {title}{missing}{_state(node) if node.state == 'gone' else ''}"]


def _scores(found: Lineage) -> Branch:
    if found.state != "stands":
        return ("evaluations: not told, since its content is no longer here to compare with", [])
    branches: list[Any] = []
    for each in found.evaluations:
        if each.status != "ok":
            branches.append((f"{each.title}: not run ({each.reason.partition(', expected')[0]})", []))
            continue
        if not each.n:  # the user named no such questions
            continue
        rows = [
            (f"{SYSTEMS.get(row['system'], row['system'])}: {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})", [])
            for row in each.systems
        ]
        branches.append((f"{each.title}: {each.metric}, {each.n} questions, {each.created_at}", rows))
    if found.elsewhere:
        branches.append((f"!! not shown, since measured on another content: {', '.join(found.elsewhere)}", []))
    return ("evaluations of this very content" if found.evaluations else "no evaluation of this very content lies here", branches)


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text[:SHOWN] if len(text) == 64 else text


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _render(branches: list[Branch], lead: str = "") -> Iterator[str]:
    for number, (text, below) in enumerate(branches, 1):
        last = number == len(branches)
        yield f"{lead}{'└─ ' if last else '├─ '}{text}"
        yield from _render(below, lead + ("   " if last else "│  "))
