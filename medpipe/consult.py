"""Test-only mode: the finished models of an outputs folder answer questions; nothing is trained.

    medpipe test                                       # the built-in questions
    medpipe test --question "What is anaemia?"         # your own

Who answers: the co-trained team where it stands, else the four fine-tuned roles as a team, else each role that stands, alone.
The same workflow, prompts and evidence as in the evaluation, and on multiple choice the same rule for what counts as the answer.
What is said goes to outputs/test_results.json, with the content hash of every model that spoke. Left out: scores of free
text (the evaluation has them), and waiting for a GPU that a training holds.
"""

from __future__ import annotations

import os
import time
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from medpipe import NOTICE, store
from medpipe.config import Settings
from medpipe.corpus.biomcp import CACHE, open_evidence
from medpipe.corpus.evidence import origin_of
from medpipe.errors import MedpipeError
from medpipe.launch.devices import place_team, visible_gpus
from medpipe.launch.order import QUIET, commit
from medpipe.questions import BUILT_IN, Question
from medpipe.roles import question_text
from medpipe.schema import LETTERS, ROLES, Manifest, Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.parsing import malformed, parse_answer

if TYPE_CHECKING:
    from medpipe.models.policy import Policies

RESULTS = "test_results.json"
Way = Literal["auto", "maporl_team", "roles", "base", "alone"]
WAYS: dict[str, str] = {
    "maporl_team": "the co-trained team",
    "roles": "the four fine-tuned roles as a team",
    "base": "the bare base model in all four roles",
    "alone": "each fine-tuned role on its own",
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

    @property
    def is_adapter(self) -> bool:
        """False for a role whose weights were all trained: it is a whole model and needs no base."""
        return (self.folder / "adapter_config.json").is_file()


@dataclass
class Asked:
    """One question and what was said to it; `choices` has the option that counts as a role's answer, on multiple choice."""

    question: Question
    episode: Episode
    choices: dict[Role, str] = field(default_factory=dict)
    cut: list[bool] = field(default_factory=list)  # for each turn: its prompt had no room for the whole question
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
    source = open_evidence(settings.outputs / TRAIN / "evidence", settings.team, settings.outputs / CACHE, tell)
    found = source.search_many(
        [(question_text(q.row()), None) for q in asked], settings.team.evidence_passages, max_chars=settings.team.evidence_chars
    )
    work = [
        Asked(q, Episode(q.row(), [passage.text for passage in passages], evidence_from=origin_of(passages)))
        for q, passages in zip(asked, found, strict=True)
    ]
    session = _Session(settings, _device(settings), work, tell)
    used = _alone(session, usable) if way == "alone" else _together(session, usable, way)
    results = _results(session, way, {key: usable[key].manifest for key in used}, left_out)
    store.write_json(settings.outputs / RESULTS, results)
    return results


def find(settings: Settings) -> tuple[dict[str, Finished], dict[str, str]]:
    """The models that are finished and fit together, and of the others that lie there: why they can't be asked."""
    usable: dict[str, Finished] = {}
    left_out: dict[str, str] = {}
    for key in (BASE, *(f"models/{role}" for role in ROLES), TEAM):
        folder = settings.outputs / key
        manifest = store.read_manifest(folder)
        if manifest is None:
            continue
        one = Finished(folder, manifest)
        reason = _unfit(one, settings) or (_unfit_for(usable.get(BASE), one) if one.is_adapter or key == TEAM else "")
        if reason:
            left_out[key] = reason
        else:
            usable[key] = one
    return usable, left_out


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
        "roles": all(key in usable and usable[key].is_adapter for key in roles),
        "alone": any(key in usable for key in roles),
        "base": BASE in usable,
    }
    for way in ("maporl_team", "roles", "alone") if team == "auto" else (team,):
        if stands[way]:
            return way
    selection = {"roles": ",".join(f"*{key}" for key in roles), "alone": "*models/reporter", "base": f"*{TRAIN},*{BASE}"}.get(
        team, f"*{TEAM}"
    )
    whole = [key for key in roles if key in usable and not usable[key].is_adapter]
    reasons = {**left_out, **(dict.fromkeys(whole, "a whole model, which shares no base") if team == "roles" else {})}
    why = "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
    raise MedpipeError(
        got="nothing that could answer" + (f" ({why})" if why else ""), expected=WAYS.get(team, "a finished team or role"),
        where=str(settings.outputs / "models"), do=f"make it: medpipe run --profile {settings.name} --select '{selection}'",
    )  # fmt: skip


def as_text(results: Mapping[str, Any]) -> str:
    """The results for a person at a terminal: the notice first, each question with the last round's messages, the totals."""
    summary = results["summary"]
    lines = [results["notice"], "", f"Asked: {WAYS[results['team']]} (profile {results['profile']}, on {results['device']})."]
    lines += [f"Not asked: {key}, {reason}." for key, reason in results["left_out"].items()]
    for number, item in enumerate(results["questions"], 1):
        lines += ["", f"{number}. {_short(item['question'], 300)}"]
        lines += [f"   {letter}) {_short(option, 100)}" for letter, option in zip(LETTERS, item["options"], strict=False)]
        for message in item["messages"]:
            if message["round"] == item["rounds"] - 1:
                lines.append(f"   {message['role'] + ':':<12}{_short(message['text'], 400) or '(no message)'}{_marks(message)}")
    right = ", ".join(f"{role} {count}" for role, count in summary["right"].items())
    lines += ["", f"Right: {right}, of {summary['known']} multiple-choice questions with a known answer."] if summary["known"] else [""]
    unusable = f"{summary['messages']} messages, {summary['malformed']} of them can't be used"
    lines += [f"{unusable}; {summary['tokens']} tokens in {summary['seconds']} s.", results["about"]]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Session:
    settings: Settings
    device: str
    work: list[Asked]
    say: Callable[[str], None]

    def batches(self) -> list[list[Asked]]:
        size = self.settings.evaluation.batch_size
        return [self.work[start : start + size] for start in range(0, len(self.work), size)]

    def load(self, base: Path, adapters: Mapping[str, Path]) -> Policies:
        for name in QUIET.keys() & {"GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM"}:  # as in a worker; they hold where torch is not loaded yet
            os.environ.setdefault(name, QUIET[name])
        from medpipe.models.policy import Policies

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft's use of transformers
            return Policies.load(base, adapters, self.device, self.settings.model)


def _together(session: _Session, usable: Mapping[str, Finished], way: str) -> list[str]:
    """The whole team, greedy, through the same workflow as in training and evaluation; returns the keys of what spoke."""
    from medpipe.team.workflow import Crew, play

    base = usable[BASE].folder
    folders: dict[Role, Path] = {}
    if way != "base":
        folders = {role: usable[TEAM].folder / role if way == "maporl_team" else usable[f"models/{role}"].folder for role in ROLES}
    adapters: dict[Role, str | None] = {role: role if role in folders else None for role in ROLES}
    policies = session.load(base, {str(role): folder for role, folder in folders.items()})
    crew = Crew(policies, adapters, session.settings.team, on_message=session.say)
    for part in session.batches():
        started = time.monotonic()
        play(crew, [one.episode for one in part])
        _settle(policies, adapters["reporter"], part, [one.episode.final for one in part])
        _share_out(part, time.monotonic() - started)
    _mark_cuts(policies, session.work)
    return [BASE, *{"base": (), "maporl_team": (TEAM,), "roles": tuple(f"models/{role}" for role in ROLES)}[way]]


def _alone(session: _Session, usable: Mapping[str, Finished]) -> list[str]:
    """Each role that stands, one message on every question, without team-mates; returns the keys of what spoke."""
    roles: list[Role] = [role for role in ROLES if f"models/{role}" in usable]
    folders = {role: usable[f"models/{role}"] for role in roles}
    shared = {str(role): one.folder for role, one in folders.items() if one.is_adapter}
    together = session.load(usable[BASE].folder, shared) if shared else None
    for role in roles:
        policies = together if together is not None and role in shared else session.load(folders[role].folder, {})
        _speak_alone(session, policies, role, role if role in shared else None)
        session.say(f"{role} spoke on {len(session.work)} questions")
    return [*([BASE] if shared else []), *(f"models/{role}" for role in roles)]


def _speak_alone(session: _Session, policies: Policies, role: Role, adapter: str | None) -> None:
    from medpipe.models.tokens import encode_prompt

    rules = session.settings.team
    for part in session.batches():
        started = time.monotonic()
        rows = [(one.episode.question, one.episode.evidence) for one in part]
        prompts = [encode_prompt(policies.tokenizer, role, row, evidence, (), rules.max_prompt_tokens) for row, evidence in rows]
        samples = policies.generate(adapter, prompts, rules.max_new_tokens[role])
        turns = []
        for one, prompt, sample in zip(part, prompts, samples, strict=True):
            options = len(one.question.options)
            answer = parse_answer(sample.text, options) if options else None
            fault = malformed(sample.text, options, sample.ended)
            turns.append(Turn(role, 0, prompt, sample.tokens, sample.logps, sample.text, answer, fault))
            one.episode.turns.append(turns[-1])
        _settle(policies, adapter, part, turns)
        _share_out(part, time.monotonic() - started)
    _mark_cuts(policies, session.work)


def _settle(policies: Policies, adapter: str | None, part: Sequence[Asked], turns: Sequence[Turn]) -> None:
    """On multiple choice the answer is, as in the evaluation, the likeliest letter after what was said before `Answer:`."""
    from medpipe.models.tokens import before_answer, likeliest

    pairs = [(one, turn) for one, turn in zip(part, turns, strict=True) if one.question.options]
    contexts = [[*turn.prompt, *before_answer(policies.tokenizer, turn.text)] for _, turn in pairs]
    counts = [len(one.question.options) for one, _ in pairs]
    for (one, turn), logps in zip(pairs, policies.choose(adapter, contexts, counts, len(part)), strict=True):
        one.choices[turn.role] = likeliest(logps)


def _share_out(part: Sequence[Asked], seconds: float) -> None:
    for one in part:
        one.seconds += seconds / len(part)


def _mark_cuts(policies: Policies, work: Sequence[Asked]) -> None:
    """Note for each new turn whether the question was shortened to fit team.max_prompt_tokens."""
    from medpipe.models.tokens import without_control_tokens

    for one in work:
        whole = _bare(without_control_tokens(one.question.question, policies.tokenizer))
        shown = (str(policies.tokenizer.decode(turn.prompt)) for turn in one.episode.turns[len(one.cut) :])
        one.cut += [whole not in _bare(text) for text in shown]


def _bare(text: str) -> str:
    """What of a text survives tokens and back: tokenizers normalise characters, and white space at joints."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def _unfit(one: Finished, settings: Settings) -> str:
    """Why a finished folder can't be used by itself; empty for a good one."""
    failed = [check.name for check in one.manifest.checks if check.severity == "error" and not check.passed]
    if failed:
        return f"its check {', '.join(failed)} failed"
    damaged = [name for name in store.damaged_files(one.folder, one.manifest) if name in one.manifest.files]
    if damaged:
        return f"files missing or changed since it was made: {', '.join(damaged)}"
    made, wanted = one.manifest.settings["model"], settings.model.model_dump(mode="json")
    names = [f"{key} {made.get(key)}, not {wanted[key]}" for key in ("kind", "name", "revision") if made.get(key) != wanted[key]]
    return f"made for another model than profile {settings.name} has ({'; '.join(names)})" if names else ""


def _unfit_for(base: Finished | None, one: Finished) -> str:
    if base is None:
        return f"its {BASE} can't be used or is not there"
    return "" if one.manifest.inputs.get(BASE) == base.manifest.sha256 else f"made on another {BASE} than the one that lies there"


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


def _results(session: _Session, way: str, used: Mapping[str, Manifest], left_out: Mapping[str, str]) -> dict[str, Any]:
    train = store.read_manifest(session.settings.outputs / TRAIN)
    inputs = {**used, **({TRAIN: train} if train else {})}
    items = [_item(one) for one in session.work]
    messages = [message for item in items for message in item["messages"]]
    known = [one for one in session.work if one.question.answer]
    speakers: list[Role] = [role for role in ROLES if any(role in one.choices for one in known)]
    return {
        "notice": NOTICE, "about": LIMITS, "made": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(),
        "profile": session.settings.name, "config_hash": session.settings.config_hash(), "device": session.device, "team": way,
        "made_from": {key: {name: getattr(m, name) for name in IDENTITY} for key, m in inputs.items()},
        "left_out": dict(left_out),
        "summary": {
            "questions": len(items), "known": len(known),
            "right": {role: sum(one.choices.get(role) == one.question.answer for one in known) for role in speakers},
            "messages": len(messages), "malformed": sum(bool(message["malformed"]) for message in messages),
            "tokens": sum(item["tokens"] for item in items), "seconds": round(sum(one.seconds for one in session.work), 2),
        },
        "questions": items,
        "agents": {
            role: [{"question": item["question"], "response": text} for item in items for text in _last_words(item, role)] for role in ROLES
        },
    }  # fmt: skip


def _item(one: Asked) -> dict[str, Any]:
    messages = []
    for turn, cut in zip(one.episode.turns, one.cut, strict=True):
        choice = one.choices.get(turn.role) if turn.round == one.episode.rounds - 1 else None
        right = choice == one.question.answer if choice and one.question.answer else None
        messages.append({
            "role": turn.role, "round": turn.round, "text": turn.text, "answer": turn.answer, "malformed": turn.malformed,
            "tokens": len(turn.tokens), "question_cut": cut, "choice": choice, "right": right,
        })  # fmt: skip
    final = {key: messages[-1][key] for key in ("role", "text", "choice", "right", "malformed")}
    tokens = sum(message["tokens"] for message in messages)
    return {
        "id": one.question.id, "question": one.question.question, "options": list(one.question.options),
        "known_answer": one.question.answer, "evidence": one.episode.evidence, "evidence_from": one.episode.evidence_from,
        "rounds": one.episode.rounds, "messages": messages,
        "final": final, "malformed": bool(final["malformed"]), "tokens": tokens, "seconds": round(one.seconds, 3),
    }  # fmt: skip


def _last_words(item: Mapping[str, Any], role: Role) -> list[str]:
    return [message["text"] for message in item["messages"] if message["role"] == role and message["round"] == item["rounds"] - 1]


def _marks(message: Mapping[str, Any]) -> str:
    marks = [f"counts as {message['choice']}"] if message["choice"] else []
    marks += [] if message["right"] is None else ["right" if message["right"] else "wrong"]
    marks += [f"can't be used: {message['malformed']}"] if message["malformed"] else []
    marks += ["the question was shortened"] if message["question_cut"] else []
    return f"  [{', '.join(marks)}]" if marks else ""


def _short(text: str, most: int) -> str:
    """One line that a terminal shows and does not obey: control characters of a question or a message are left out."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
