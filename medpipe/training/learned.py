"""The `learned` verifier: a judge that tells right answers from wrong ones on multiple-choice questions.

Made alone with `dagster asset materialize -m medpipe.definitions --select models/verifier` (maporl.verifier = learned). A LoRA
adapter on the shared base and one linear layer read (question, message) and give the probability that the message's answer is
right. The adapter reads the whole sequence, whatever kind the roles' adapters are. It learns from messages of the fine-tuned roles,
as many right as wrong ones of every question, so that the question alone tells nothing (docs/verifier.md). A run that was killed
starts again: it takes minutes.
Left out: free-text questions, which have no right letter; a schedule of the learning rate; what to do when memory runs out.
Shape suffixes: B batch, T time, H hidden.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from medpipe import store
from medpipe.config import Settings, Training
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.validation import require_valid
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome, Reporter
from medpipe.models.adapters import INVOCATION, AdapterModel, weights_hash
from medpipe.schema import ROLES, CheckResult, QAExample, Role
from medpipe.team.transcript import ALONE, Frame
from medpipe.team.workflow import Team, rollout

Rows = list[QAExample]
ADAPTER = "verifier"
HEAD_FILE, FACTS_FILE, HELDOUT_FILE = "verifier_head.safetensors", "verifier.json", "heldout.jsonl"
LEAST = 2
"""Questions with both right and wrong answers that a training needs: one alone teaches nothing that holds for another."""
TELLING = 6
"""Held-out questions below which nothing can be told from chance at 95%: 2 · 0.5^6 < 0.05 <= 2 · 0.5^5 (sign test)."""
RESAMPLES, CONFIDENCE = 2000, 0.95
SHOWN = 4  # held-out messages on the asset's page


@dataclass(frozen=True)
class Example:
    """A message on a multiple-choice question and whether the letter it names is the right one."""

    question: QAExample
    role: Role
    text: str
    right: bool


@dataclass(frozen=True)
class Auc:
    """How well scores rank right messages above wrong ones of the same question, and the bounds of its 95% interval."""

    value: float | None  # mean over the questions that have both kinds; None where there is none
    low: float  # 0 and 1, which say nothing, below TELLING questions
    high: float
    questions: int


class LearnedVerifier:
    """Scores messages in [0, 1]; its adapter lives beside others on their base.

    `header_limit` and `message_limit` are the most tokens of a question and of a message that are read.
    """

    def __init__(self, model: AdapterModel, head: torch.nn.Linear, header_limit: int, message_limit: int, batch: int) -> None:
        self.model, self.head, self.frame = model, head, Frame(model.tokenizer)
        self._header_limit, self._message_limit, self._batch = header_limit, message_limit, batch

    @classmethod
    def fresh(cls, model: AdapterModel, settings: Settings) -> LearnedVerifier:
        """A verifier that has learned nothing and says 0.5 to everything, as a further adapter on the model's base.

        Args:
            model: carries at least one adapter, and none called "verifier".
        """
        from peft import LoraConfig

        training, team, like = settings.training, settings.team, model.model.peft_config[model.adapters[0]]
        torch.manual_seed(0)  # the adapter's first weights
        config = LoraConfig(
            r=training.lora_rank, lora_alpha=training.lora_alpha, lora_dropout=training.lora_dropout, task_type="CAUSAL_LM",
            target_modules=like.target_modules, layers_to_transform=like.layers_to_transform,  # where the roles have theirs
        )  # fmt: skip
        model.model.add_adapter(ADAPTER, config)
        model.model.peft_config[ADAPTER].base_model_name_or_path = settings.model.name  # no path of this machine
        model.adapters.append(ADAPTER)
        head = _head(model)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        return cls(model, head, team.max_header_tokens, max(team.max_new_tokens.values()), settings.maporl.minibatch)

    @classmethod
    def load(cls, model: AdapterModel, folder: Path, settings: Settings) -> LearnedVerifier:
        """Load the finished folder of models/verifier as a further, frozen adapter on the model's base.

        Args:
            model: carries at least one adapter, and none called "verifier".
            settings: only `maporl.minibatch` is read, the messages scored at once; all else lies in the folder.
        """
        model.model.load_adapter(str(folder), adapter_name=ADAPTER, use_safetensors=True)
        model.adapters.append(ADAPTER)
        head = _head(model).requires_grad_(False)
        head.load_state_dict(load_file(folder / HEAD_FILE))
        return cls(model, head, **store.read_json(folder / FACTS_FILE), batch=settings.maporl.minibatch)

    def save(self, folder: Path) -> None:
        """Write adapter, head and the limits it was trained with; the same weights give the same bytes."""
        self.model.save_adapter(ADAPTER, folder, ())
        config = store.read_json(folder / "adapter_config.json")
        store.write_json(folder / "adapter_config.json", {**config, INVOCATION: None})  # it reads whole sequences
        with store.atomic_path(folder / HEAD_FILE) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.head.state_dict().items()}, temporary)
        store.write_json(folder / FACTS_FILE, {"header_limit": self._header_limit, "message_limit": self._message_limit})

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """All that learns: the adapter and the head."""
        return {**self.model.parameters(ADAPTER), **{f"head.{name}": value for name, value in self.head.named_parameters()}}

    def encode(self, question: QAExample, message: str) -> list[int]:
        """What is read: a header with the question and its options, and the message as a turn that tells nobody's name.

        A message that is too long keeps its answer; a question that is too long loses its middle.
        """
        header = self.frame.header(question, (), self._header_limit)
        return [*header, *self.frame.invocation(ALONE), *self.frame.completion(message, self._message_limit)]

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-odds that the answers are right, shape (B,), from the state of each row's last token. Call it inside `use`."""
        device = self.model.device
        # Padding stands behind every token that is read, where causal attention can't see it: no mask.
        ids_BT = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=rows[0][-1]).to(device)
        position_BT = torch.arange(ids_BT.shape[1], device=device)[None]
        hidden_BTH = self.model.base.get_decoder()(input_ids=ids_BT, position_ids=position_BT, use_cache=False).last_hidden_state
        last_B = torch.tensor([len(row) - 1 for row in rows], device=device)
        last_BH = hidden_BTH[torch.arange(len(rows), device=device), last_B]
        return self.head(last_BH.float()).squeeze(-1)

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[QAExample, str]]) -> list[float]:
        """Probability in [0, 1] that each message (its text) answers its multiple-choice question rightly."""
        rows = [self.encode(question, text) for question, text in pairs]
        scores = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))  # like lengths waste no padding
        with self.model.use(ADAPTER):
            for start in range(0, len(order), self._batch):
                part = order[start : start + self._batch]
                for number, score in zip(part, self.logits([rows[n] for n in part]).sigmoid().tolist(), strict=True):
                    scores[number] = score
        return scores


def _head(model: AdapterModel) -> torch.nn.Linear:
    return torch.nn.Linear(model.base.config.hidden_size, 1, device=model.device, dtype=torch.float32)


# --- the asset


def run(job: Job) -> Outcome:
    """Let the starting roles answer, train the verifier on their messages, and measure it on questions it never saw.

    Raises:
        MedpipeError: a split is not known to be valid, a role has no adapter, too few questions got right and wrong answers, or
            the loss is no number.
    """
    for split in ("splits/train", "splits/validation"):
        require_valid(job.inputs[split], split)
    settings = job.settings
    model = AdapterModel.load(job.inputs["models/base"], {r: job.inputs[f"models/{r}"] for r in ROLES}, job.device, settings.model)
    before = weights_hash(dict(model.model.named_parameters()))
    learned, held, numbers = _examples(model, job)
    verifier = LearnedVerifier.fresh(model, settings)
    start = weights_hash(verifier.weights())
    losses = fit(verifier, learned, settings.training, settings.seed, job.report)
    verifier.save(job.out)
    moved = weights_hash(verifier.weights()) != start
    frozen = weights_hash({n: p for n, p in model.model.named_parameters() if f".{ADAPTER}." not in n}) == before

    scores = verifier.score([(example.question, example.text) for example in held])
    found = measure(held, scores, settings.seed)
    role_alone = measure(held, _right_share_of_role(learned, held), settings.seed)
    told = [
        {"question": e.question.id, "role": e.role, "text": e.text, "right": e.right, "score": round(s, 6)}
        for e, s in zip(held, scores, strict=True)
    ]
    store.write_jsonl(job.out / HELDOUT_FILE, told)
    stats = {
        **numbers, "steps": len(losses), "first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4),
        **_told(found), "auc_of_role_alone": _told(role_alone)["auc"], "device": job.device,
    }  # fmt: skip
    store.write_json(job.out / "training_stats.json", stats)
    rest = CheckResult(name="adapter_moved_rest_frozen", passed=moved and frozen,
                       description="the verifier's weights changed and not one bit of the base's and the roles' did",
                       values={"verifier_moved": moved, "rest_unchanged": frozen})  # fmt: skip
    return Outcome({**stats, "held-out messages": {"table": told[:SHOWN]}}, (rest, *_auc_checks(found)))


def _examples(model: AdapterModel, job: Job) -> tuple[list[Example], list[Example], dict[str, int]]:
    """Balanced examples to learn from, all held-out ones, and what was counted on the way."""
    train, validation = (store.read_examples(job.inputs[split]) for split in ("splits/train", "splits/validation"))
    index = EvidenceIndex.load(job.inputs["splits/train"] / "evidence")
    to_learn, to_hold = choose(train, validation, job.settings.maporl.verifier_questions, job.settings.seed)
    drawn, numbers = draw_messages(model, to_learn, index, job, "learned")
    kept, one_kind = balance(drawn, random.Random(f"{job.settings.seed}/verifier/balance"))
    mixed = len({example.question.id for example in kept})
    job.report.log(f"balanced: {len(kept)} messages of {mixed} questions; {one_kind} questions had only right or only wrong ones")
    if mixed < LEAST:
        # Examples made by rule, a right message under another letter, would not mend it: words and letter disagree in them alone.
        raise MedpipeError(
            got=f"{mixed} of {len(to_learn)} questions that the starting roles answered both rightly and wrongly",
            expected=f"at least {LEAST}", where="models/verifier",
            do="raise maporl.verifier_questions, maporl.verifier_samples or maporl.temperature, or set maporl.verifier = exact",
        )  # fmt: skip
    numbers |= {"balanced_messages": len(kept), "balanced_questions": mixed, "one_kind_questions": one_kind}
    held, held_numbers = draw_messages(model, to_hold, index, job, "heldout")
    return kept, held, numbers | held_numbers


def _auc_checks(found: Auc) -> tuple[CheckResult, CheckResult]:
    """A verifier that can't be told from chance only warns: it adds noise. One that surely ranks the wrong way blocks: it pays errors."""
    values = _told(found)
    return (
        CheckResult(name="auc_above_chance", passed=found.low > 0.5, severity="warn", values=values,
                    description=f"on {TELLING} or more held-out questions right messages rank above wrong ones: 95% interval above 0.5"),
        CheckResult(name="not_reversed", passed=found.high >= 0.5, values=values,
                    description="the 95% interval of that AUC does not lie below 0.5"),
    )  # fmt: skip


def _told(found: Auc) -> dict[str, float | str]:
    numbers = {"auc": found.value, "auc_low": found.low, "auc_high": found.high}
    return {**{n: "none" if v is None else round(v, 4) for n, v in numbers.items()}, "auc_questions": found.questions}


# --- questions and messages


def choose(train: Sequence[QAExample], validation: Sequence[QAExample], count: int, seed: int) -> tuple[Rows, Rows]:
    """Multiple-choice questions to learn from (at most `count`), and held-out ones: half of `count`, at least twice TELLING.

    Held out are questions of the validation split; where it has too few, whole focus groups of the training split, at most half.
    """
    draw = random.Random(f"{seed}/verifier/questions")
    wanted = max(2 * TELLING, count // 2)
    own = sorted((row for row in validation if row.is_choice), key=lambda row: row.id)
    held = draw.sample(own, min(wanted, len(own)))
    groups: dict[str, list[QAExample]] = defaultdict(list)
    for row in sorted((row for row in train if row.is_choice), key=lambda row: row.id):
        groups[row.focus.casefold()].append(row)
    for focus in draw.sample(sorted(groups), len(groups) // 2):
        if len(held) < wanted:
            held += groups.pop(focus)
    rest = [row for group in groups.values() for row in group]
    return draw.sample(rest, min(count, len(rest))), held[:wanted]


def draw_messages(
    model: AdapterModel, questions: Sequence[QAExample], index: EvidenceIndex, job: Job, part: str
) -> tuple[list[Example], dict[str, int]]:
    """Let the roles play one round on each question, and so often that it gets at least `verifier_samples` messages.

    Returns the messages that can be used, and counts under names that begin with `part`, malformed ones among them.
    """
    team, maporl = job.settings.team, job.settings.maporl
    each = math.ceil(maporl.verifier_samples / len(ROLES))
    at_once = max(1, maporl.questions_per_iteration * maporl.samples_per_question // each)  # the co-training has memory for so many
    generator = torch.Generator().manual_seed(random.Random(f"{job.settings.seed}/verifier/{part}").getrandbits(62))
    rules = team.model_copy(update={"max_rounds_per_episode": 1})
    playing = Team(model, {role: role for role in ROLES}, rules, maporl.temperature, generator)
    examples: list[Example] = []
    malformed = 0
    for start in range(0, len(questions), at_once):
        asked = questions[start : start + at_once]
        found = index.for_questions(asked, team.evidence_passages, team.evidence_chars, training=True)
        episodes = playing.begin(asked, [[passage.text for passage in passages] for passages in found], each)
        rollout(playing, episodes)
        for episode in episodes:
            usable = [turn for turn in episode.turns if not turn.malformed]
            malformed += len(episode.turns) - len(usable)
            question = episode.question
            examples += [Example(question, turn.role, turn.text, turn.answer == question.answer) for turn in usable]
        job.report.progress(start + len(asked), len(questions), f"{part}: {len(examples)} messages, {malformed} malformed")
    right = sum(example.right for example in examples)
    counts = {"questions": len(questions), "messages": len(examples) + malformed, "malformed": malformed, "right": right}
    job.report.log(f"{part}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    return examples, {f"{part}_{name}": value for name, value in counts.items()}


def balance(examples: Sequence[Example], draw: random.Random) -> tuple[list[Example], int]:
    """As many right as wrong messages of every question; returns them and the number of questions dropped for having one kind only.

    Afterwards a question is right in exactly half of its examples, so its difficulty predicts nothing.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.question.id].append(example)
    kept: list[Example] = []
    dropped = 0
    for group in groups.values():
        right, wrong = [e for e in group if e.right], [e for e in group if not e.right]
        count = min(len(right), len(wrong))
        dropped += not count
        kept += [*draw.sample(right, count), *draw.sample(wrong, count)]
    return kept, dropped


# --- learning and measuring


def fit(verifier: LearnedVerifier, examples: Sequence[Example], settings: Training, seed: int, report: Reporter) -> list[float]:
    """Binary cross-entropy with AdamW at a constant rate; returns the loss of each step (nats per message).

    Raises:
        MedpipeError: a loss is no number or above `training.max_loss`.
    """
    model, weights = verifier.model, list(verifier.weights().values())
    rows = [verifier.encode(example.question, example.text) for example in examples]
    right = torch.tensor([float(example.right) for example in examples], device=model.device)
    steps = _steps(len(rows), settings, seed)
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    torch.manual_seed(seed)  # dropout
    model.model.train()
    with model.use(ADAPTER, train=True):
        for number, step in enumerate(steps, 1):
            optimizer.zero_grad()
            loss = 0.0
            for start in range(0, len(step), settings.batch_size):
                part = step[start : start + settings.batch_size]
                logits_B = verifier.logits([rows[n] for n in part])
                missed = binary_cross_entropy_with_logits(logits_B, right[part], reduction="sum") / len(step)
                missed.backward()
                loss += missed.item()
            if not math.isfinite(loss) or loss > settings.max_loss:
                raise MedpipeError(
                    got=f"a loss of {loss}", expected=f"a number up to training.max_loss = {settings.max_loss}",
                    where=f"models/verifier, step {number}", do="lower training.learning_rate, or set model.precision to fp32",
                )  # fmt: skip
            norm = torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip).item()
            optimizer.step()
            losses.append(loss)
            report.metrics(number, {"loss": loss, "gradient_norm": norm})
            report.progress(number, len(steps), f"loss {loss:.3f}")
    model.model.eval()  # what follows measures, without dropout
    return losses


def _steps(count: int, settings: Training, seed: int) -> list[list[int]]:
    """Which examples each step of the optimizer sees: all of them once an epoch, in an order of its own."""
    size = settings.batch_size * settings.gradient_accumulation
    out: list[list[int]] = []
    for epoch in range(settings.epochs):
        order = random.Random(f"{seed}/verifier/{epoch}").sample(range(count), count)
        out += [order[start : start + size] for start in range(0, count, size)]
    return out


def measure(examples: Sequence[Example], scores: Sequence[float], seed: int) -> Auc:
    """AUC within each question that has both kinds, its mean over questions, and a bootstrap interval over questions.

    Pairs of different questions are never compared, so that scores that only know how hard a question is come out at 0.5.
    """
    groups: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for example, score in zip(examples, scores, strict=True):
        groups[example.question.id][example.right].append(score)
    areas = [area(right, wrong) for wrong, right in groups.values() if right and wrong]
    if len(areas) < TELLING:
        return Auc(fmean(areas) if areas else None, 0.0, 1.0, len(areas))
    draw = random.Random(f"{seed}/verifier/bootstrap")
    means = sorted(fmean(draw.choices(areas, k=len(areas))) for _ in range(RESAMPLES))
    tail = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Auc(fmean(areas), means[tail], means[-1 - tail], len(areas))


def area(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Area under the ROC curve: the share of (right, wrong) pairs in which the right one scores higher; a tie counts a half.

    Source: Hanley and McNeil, Radiology 143 (1982) 29.
    """
    return fmean((r > w) + 0.5 * (r == w) for r in right for w in wrong)


def _right_share_of_role(learned: Sequence[Example], held: Sequence[Example]) -> list[float]:
    """Scores of a judge that reads no message and only knows how often each role was right."""
    shares = {role: [e.right for e in learned if e.role == role] for role in ROLES}
    return [fmean(shares[e.role]) if shares[e.role] else 0.5 for e in held]
