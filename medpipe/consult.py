"""Test-only mode: the finished models of an outputs folder answer questions; nothing is trained.

    medpipe test                                       # the built-in questions
    medpipe test --question "What is anaemia?"         # your own

Who answers: the co-trained team where it stands, else the four fine-tuned roles as a team, else each role that stands, alone.
The same workflow, transcript and evidence as in the evaluation; on multiple choice a message's answer is the option that it names.
What is said goes to outputs/test_results.json, with the content hash of every model that spoke. Left out: scores of free
text (the evaluation has them), and waiting for a GPU that a training holds.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from medpipe import NOTICE, results, store
from medpipe.config import Settings
from medpipe.corpus.biomcp import CACHE, open_evidence
from medpipe.corpus.evidence import Passage
from medpipe.errors import MedpipeError
from medpipe.launch.devices import place_team, visible_gpus
from medpipe.launch.order import QUIET, commit
from medpipe.questions import BUILT_IN, Question
from medpipe.schema import AGENT, LEARNERS, LETTERS, ROLES, Manifest, Role
from medpipe.team.ask import ask, look_up
from medpipe.team.episode import Episode
from medpipe.team.transcript import Frame
from medpipe.team.workflow import Team

if TYPE_CHECKING:
    from medpipe.models.adapters import AdapterModel

RESULTS = "test_results.json"
Way = Literal["auto", "maporl_team", "roles", "base", "alone", "agent"]
WAYS: dict[str, str] = {
    "maporl_team": "the co-trained team",
    "roles": "the four fine-tuned roles as a team",
    "base": "the bare base model in all four roles",
    "alone": "each fine-tuned role on its own",
    "agent": "one fine-tuned agent on its own",
}
"""Who can be asked; `auto` takes the first of maporl_team, roles and alone that stands."""
LIMITS = "A handful of questions shows how the models answer; it measures no skill (see the leaderboard for what was measured)."
IDENTITY = ("sha256", "fingerprint", "commit", "created_at")
"""What the results name a model by, from its manifest."""
BASE, TEAM, TRAIN = "models/base", "models/maporl_team", "splits/train"


@dataclass(frozen=True)
class Finished:
    """A model folder that can be used: where it lies and what it was made from."""

    folder: Path
    manifest: Manifest


@dataclass
class Asked:
    """One question, what was shown with it, and the episodes on it: the team's, or one for each role that answered alone."""

    question: Question
    passages: list[Passage]
    cut: bool  # the header had no room for the whole question
    episodes: list[Episode] = field(default_factory=list)
    seconds: float = 0.0


def consult(
    settings: Settings, questions: Sequence[Question] | None = None, team: str = "auto", say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Ask the finished models and write outputs/test_results.json; returns what it holds.

    Args:
        questions: the built-in ones where None.
        team: who answers: "auto", or a key of WAYS.
        say: is told, in one line, whenever a role has spoken, and once if team.evidence_source fails.

    Raises:
        MedpipeError: nothing that could answer is finished (the message names the command that makes it).
    """
    asked = list(BUILT_IN if questions is None else questions)
    usable, left_out = find(settings)
    way = choose(team, usable, left_out, settings)
    tell = say or (lambda text: None)
    source = open_evidence(newest(settings, TRAIN) / "evidence", settings.team, settings.outputs / CACHE, tell)
    device, used = _device(settings), _used(way, usable)
    models = _load({key: usable[key].folder for key in used}, settings, device)
    found = look_up(source, [question.row() for question in asked], settings.team)
    work = [Asked(q, passages, _is_cut(models, q, settings)) for q, passages in zip(asked, found, strict=True)]
    _play(models, way, used, settings, work, tell)
    told = _results(settings, device, work, way, {key: usable[key].manifest for key in used}, left_out)
    store.write_json(settings.outputs / RESULTS, told)
    return told


def find(settings: Settings) -> tuple[dict[str, Finished], dict[str, str]]:
    """The models that are finished and fit together, and of the others that lie there: why they can't be asked."""
    usable: dict[str, Finished] = {}
    left_out: dict[str, str] = {}
    for key in (BASE, *(f"models/{learner}" for learner in LEARNERS), TEAM):
        folder = newest(settings, key)
        try:
            manifest = store.read_manifest(folder)
        except store.DamagedManifest as error:
            left_out[key] = str(error)
            continue
        if manifest is None:
            continue
        one = Finished(folder, manifest)
        reason = _unfit(one, settings) or ("" if key == BASE else _unfit_for(usable.get(BASE), one)) or _older(one, usable)
        if reason:
            left_out[key] = reason
        else:
            usable[key] = one
    return usable, left_out


def newest(settings: Settings, key: str) -> Path:
    """The folder of what was handed on last under these settings; where there is none, of what was made last at all."""
    ref = results.find_ref(settings, key)
    return Path(ref.path) if ref and Path(ref.path).is_dir() else settings.outputs / key


def choose(team: str, usable: Mapping[str, Finished], left_out: Mapping[str, str], settings: Settings) -> str:
    """Who answers, a key of WAYS.

    Raises:
        MedpipeError: no such way, or what it needs is not finished.
    """
    if team not in get_args(Way):
        raise MedpipeError(got=f"team {team!r}", expected=f"one of {', '.join(get_args(Way))}", where="--team", do="choose one of these")
    roles = [f"models/{role}" for role in ROLES]
    stands = {
        "maporl_team": TEAM in usable,
        "roles": all(key in usable for key in roles),
        "alone": any(key in usable for key in roles),
        "base": BASE in usable,
        "agent": f"models/{AGENT}" in usable,
    }
    for way in ("maporl_team", "roles", "alone") if team == "auto" else (team,):
        if stands[way]:
            return way
    made_by = {
        "roles": ",".join(f"*{key}" for key in roles), "alone": "*models/reporter", "base": f"*{TRAIN},*{BASE}",
        "agent": f"*models/{AGENT}",
    }  # fmt: skip
    why = "; ".join(f"{key}: {reason}" for key, reason in left_out.items())
    raise MedpipeError(
        got="nothing that could answer" + (f" ({why})" if why else ""), expected=WAYS.get(team, "a finished team or role"),
        where=str(settings.outputs / "models"),
        do=f"make it: medpipe run --profile {settings.name} --select '{made_by.get(team, f'*{TEAM}')}'",
    )  # fmt: skip


def as_text(told: Mapping[str, Any]) -> str:
    """The results for a person at a terminal: the notice first, each question with the last round's messages, the totals."""
    summary = told["summary"]
    lines = [told["notice"], "", f"Asked: {WAYS[told['team']]} (profile {told['profile']}, on {told['device']})."]
    lines += [f"Not asked: {key}, {reason}." for key, reason in told["left_out"].items()]
    for number, item in enumerate(told["questions"], 1):
        lines += ["", f"{number}. {_short(item['question'], 300)}"]
        lines += [f"   {_short(option, 100)} ({letter})" for letter, option in zip(LETTERS, item["options"], strict=False)]
        lines += ["   (the question was shortened)"] if item["question_cut"] else []
        for message in item["messages"]:
            if message["last"]:
                lines.append(f"   {message['role'] + ':':<12}{_short(message['text'], 400) or '(no message)'}{_marks(message)}")
    right = ", ".join(f"{role} {count}" for role, count in summary["right"].items())
    lines += ["", f"Right: {right}, of {summary['known']} multiple-choice questions with a known answer."] if summary["known"] else [""]
    unusable = f"{summary['messages']} messages, {summary['malformed']} of them can't be used"
    lines += [f"{unusable}; {summary['tokens']} tokens in {summary['seconds']} s.", told["about"]]
    return "\n".join(lines)


def _used(way: str, usable: Mapping[str, Finished]) -> list[str]:
    """Keys of the models that speak."""
    roles = [f"models/{role}" for role in ROLES if f"models/{role}" in usable]
    return [BASE, *{"base": [], "maporl_team": [TEAM], "agent": [f"models/{AGENT}"]}.get(way, roles)]


def _load(folders: Mapping[str, Path], settings: Settings, device: str) -> AdapterModel:
    for name in QUIET.keys() & {"GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM"}:  # as in a worker; they hold where torch is not loaded yet
        os.environ.setdefault(name, QUIET[name])
    from medpipe.models.adapters import AdapterModel

    adapters = {key.partition("/")[2]: folder for key, folder in folders.items() if key not in (BASE, TEAM)}
    if TEAM in folders:
        adapters = {role: folders[TEAM] / role for role in ROLES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft's use of transformers
        return AdapterModel.load(folders[BASE], adapters, device, settings.model)


def _play(
    models: AdapterModel, way: str, used: Sequence[str], settings: Settings, work: Sequence[Asked], say: Callable[[str], None]
) -> None:
    """Let the team, or each role by itself, answer all questions, greedily."""
    rules = settings.team
    casts: list[dict[Role, str | None]] = [{role: None if way == "base" else role for role in ROLES}]
    if way == "agent":
        casts = [{"reporter": AGENT}]
    elif way == "alone":
        rules = rules.model_copy(update={"max_rounds_per_episode": 1})  # nobody is there to answer to
        casts = [{role: role} for role in ROLES if f"models/{role}" in used]
    rows, passages = [one.question.row() for one in work], [one.passages for one in work]
    for cast in casts:
        started = time.monotonic()
        episodes = ask(Team(models, cast, rules, on_message=say), rows, passages, settings.evaluation.batch_size)
        seconds = time.monotonic() - started
        for one, episode in zip(work, episodes, strict=True):
            one.episodes.append(episode)
            one.seconds += seconds / len(work)


def _is_cut(models: AdapterModel, question: Question, settings: Settings) -> bool:
    """Whether the question alone, without evidence, is longer than team.max_header_tokens."""
    whole = Frame(models.tokenizer).header(question.row(), (), sys.maxsize)
    return len(whole) > settings.team.max_header_tokens


def _unfit(one: Finished, settings: Settings) -> str:
    """Why a finished folder can't be used by itself; empty for a good one."""
    failed = [check.name for check in one.manifest.checks if check.severity == "error" and not check.passed]
    if failed:
        return f"its check {', '.join(failed)} failed"
    damaged = results.damage(one.folder.resolve(), one.manifest)
    if damaged:
        return f"files missing or changed since it was made: {', '.join(damaged)}"
    made, wanted = one.manifest.settings["model"], settings.model.model_dump(mode="json")
    names = [f"{key} {made.get(key)}, not {wanted[key]}" for key in ("kind", "name", "revision") if made.get(key) != wanted[key]]
    return f"made for another model than profile {settings.name} has ({'; '.join(names)})" if names else ""


def _unfit_for(base: Finished | None, one: Finished) -> str:
    if base is None:
        return f"its {BASE} can't be used or is not there"
    return "" if one.manifest.inputs.get(BASE) == base.manifest.sha256 else f"made on another {BASE} than the one that lies there"


def _older(one: Finished, usable: Mapping[str, Finished]) -> str:
    older = results.older_than(one.manifest, {key: other.manifest.sha256 for key, other in usable.items() if key != BASE})
    return f"older than {', '.join(older)}, which it was made from: materialise it again" if older else ""


def _device(settings: Settings) -> str:
    place = place_team(settings)
    if place.gpu is None:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise MedpipeError(
            got="no usable GPU in PyTorch", expected=f"GPU {place.gpu}", where="hardware.devices",
            do="check nvidia-smi and that torch is a CUDA build, or test on the CPU with CUDA_VISIBLE_DEVICES=''",
        )  # fmt: skip
    return f"cuda:{visible_gpus().index(place.gpu)}"


def _results(
    settings: Settings, device: str, work: Sequence[Asked], way: str, used: Mapping[str, Manifest], left_out: Mapping[str, str]
) -> dict[str, Any]:
    train = store.read_manifest(newest(settings, TRAIN))
    inputs = {**used, **({TRAIN: train} if train else {})}
    items = [_item(one) for one in work]
    messages = [message for item in items for message in item["messages"]]
    known = [item for item in items if item["known_answer"]]
    last = [message for item in known for message in item["messages"] if message["last"]]
    speakers: list[Role] = [role for role in ROLES if any(message["role"] == role for message in last)]
    return {
        "notice": NOTICE, "about": LIMITS, "made": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(),
        "profile": settings.name, "config_hash": settings.config_hash(), "device": device, "team": way,
        "made_from": {key: {name: getattr(m, name) for name in IDENTITY} for key, m in inputs.items()},
        "left_out": dict(left_out),
        "summary": {
            "questions": len(items), "known": len(known),
            "right": {role: sum(message["right"] for message in last if message["role"] == role) for role in speakers},
            "messages": len(messages), "malformed": sum(bool(message["malformed"]) for message in messages),
            "tokens": sum(item["tokens"] for item in items), "seconds": round(sum(one.seconds for one in work), 2),
        },
        "questions": items,
        "agents": {
            role: [{"question": item["question"], "response": text} for item in items for text in _last_words(item, role)] for role in ROLES
        },
    }  # fmt: skip


def _item(one: Asked) -> dict[str, Any]:
    messages = [
        {
            "role": turn.role, "round": turn.round, "last": turn.round == episode.rounds - 1, "text": turn.text, "answer": turn.answer,
            "right": turn.answer == one.question.answer if one.question.answer else None, "malformed": turn.malformed,
            "tokens": len(turn.tokens),
        }
        for episode in one.episodes
        for turn in episode.turns
    ]  # fmt: skip
    final = {key: messages[-1][key] for key in ("role", "text", "answer", "right", "malformed")}
    return {
        "id": one.question.id, "question": one.question.question, "options": list(one.question.options),
        "known_answer": one.question.answer, "question_cut": one.cut, "evidence": one.episodes[0].evidence,
        "evidence_from": one.episodes[0].evidence_from, "rounds": max(episode.rounds for episode in one.episodes), "messages": messages,
        "final": final, "malformed": bool(final["malformed"]), "tokens": sum(message["tokens"] for message in messages),
        "seconds": round(one.seconds, 3),
    }  # fmt: skip


def _last_words(item: Mapping[str, Any], role: Role) -> list[str]:
    return [message["text"] for message in item["messages"] if message["role"] == role and message["last"]]


def _marks(message: Mapping[str, Any]) -> str:
    marks = [f"answers {message['answer']}"] if message["answer"] else []
    marks += [] if message["right"] is None else ["right" if message["right"] else "wrong"]
    marks += [f"can't be used: {message['malformed']}"] if message["malformed"] else []
    return f"  [{', '.join(marks)}]" if marks else ""


def _short(text: str, most: int) -> str:
    """One line that a terminal shows and does not obey: control characters of a question or a message are left out."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
