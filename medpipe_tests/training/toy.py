"""A toy game that only co-operation solves, played by the real workflow and learned by the real update.

    python -m medpipe_tests.training.toy --seeds 3 --without-signals --plot docs/img/toy.png
    python -m medpipe_tests.training.toy --seeds 1 --iterations 4        # a quick look

**The game.** Four options and one fact, the letter of the right one, which the researcher alone reads: a note below the header of
its own copy of the transcript. One round. Success is the team's answer: the reporter's. Who does not know the fact is right in one
case of four.

**The pay.** V = 1 for a planner, analyst or reporter who answers right, else 0. The researcher's V is one half whatever it says.
So in its own pay there is no reason to tell the fact, and nobody is paid for what another speaker does.

- With co-operation signals: half of every return is the team's answer (team_share = 0.5).
- Without: team_share = 0. Every other number is the same.

**The start.** A random Qwen3 model of 0.17 million weights and one untrained activated adapter per role. The base is drilled on form
and reading only: a message is `Answer:` and a letter; outside the team it is the letter that stands in a note, in a role's turn it
is a letter that a team-mate named, or, in three cases of ten, any. There the note's letter means nothing, so the drill can't teach a
role to tell it, and the team starts at chance. That the base can read a note at all is needed: an activated adapter acts on
its own turn and can't change what was read before it.

Everything else is the project's: the workflow's graph, `Readings`, `targets`, `learners_of`, `update`, four adapters on one base.
Left out: the KL term to the start, and words. The game shows that credit reaches who deserves it, not that a model reasons.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch

from medpipe.config import Maporl, Rewards
from medpipe.config import Team as Rules
from medpipe.models.adapters import AdapterModel
from medpipe.models.adapters import Turn as Place
from medpipe.models.base import CHATML
from medpipe.models.kv_cache import Reading
from medpipe.models.tiny import WORDS, tokenizer_of
from medpipe.models.tokens import encode
from medpipe.schema import LETTERS, ROLES, QAExample, Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.transcript import ALONE, Frame
from medpipe.team.workflow import Readings, State, Team, build
from medpipe.training.update import Batch, learners_of, targets, update

OPTIONS = LETTERS[:4]
CHANCE, SOLVED = 1 / len(OPTIONS), 0.9
FRESH_WORDS = ("rash", "nausea", "swelling", "weakness", "headache")  # in the questions that measure, never in those that train
KNOWS: Role = "researcher"
NOTE = "user"
"""Whose turn the fact is, in what the researcher reads."""
TRUST = 0.7
"""Share of the drilled messages that repeat a letter which was read; the others are any letter, so that there is something to find."""
DRILL, DRILL_BATCH, DRILL_RATE = 240, 32, 3e-3
REPEATING = 90  # steps of the drill before the roles' turns come in
RANK = 16
ITERATIONS, EVERY, MEASURED = 12, 2, 48
QUESTIONS, SAMPLES = 4, 32
ADAPTERS: dict[Role, str] = {role: role for role in ROLES}
REWARDS = Rewards(malformed_penalty=0.0)  # whatever the researcher says: also something unusable
RULES = Rules(max_rounds_per_episode=1, max_header_tokens=160, max_new_tokens=dict.fromkeys(ROLES, 5), consensus_share=1.0)


class Private(Episode):
    """An episode in which the researcher reads its own copy of the transcript, with a note that nobody else sees."""

    fact: list[int]

    @classmethod
    def of(cls, episode: Episode, frame: Frame) -> Private:
        """The episode, not begun, with the right letter as the note."""
        private = cls(episode.question, episode.evidence, episode.header, episode.sample)
        private.fact = note_of(frame, episode.question.answer)
        return private

    def read_by(self, role: Role) -> list[int]:
        """The transcript as this role reads it, up to now."""
        note = self.fact if role == KNOWS else []
        return [*self.header, *note, *self.tokens[len(self.header) :]]

    def before(self, turn: Turn) -> list[int]:
        """What the turn's role had read when it spoke."""
        return self.read_by(turn.role)[: turn.start + (len(self.fact) if turn.role == KNOWS else 0)]


class Copy:
    """The researcher's copy of an episode, as far as a reading asks for it."""

    def __init__(self, episode: Private) -> None:
        self._episode, self.header = episode, [*episode.header, *episode.fact]

    @property
    def tokens(self) -> list[int]:
        return self._episode.read_by(KNOWS)


class PrivateReadings(Readings):
    """What was read of a batch: one reading for the researcher's copies, and one that all others share."""

    def __init__(self, episodes: Sequence[Private]) -> None:
        super().__init__(episodes)
        self._own = Readings(cast(Any, [Copy(episode) for episode in episodes]))

    def of(self, model: AdapterModel, adapter: str | None) -> Reading:
        """A reading that holds what the adapter's role may read, up to its end."""
        return self._own.of(model, adapter) if adapter == KNOWS else super().of(model, adapter)

    def held(self, model: AdapterModel, adapter: str | None) -> Reading:
        """What was read so far."""
        return self._own.held(model, adapter) if adapter == KNOWS else super().held(model, adapter)


def play(team: Team, asked: Sequence[QAExample], samples: int = 1) -> Batch:
    """Every question as often as it is sampled, each with its fact, by the workflow's own graph."""
    frame = Frame(team.models.tokenizer)
    episodes = [Private.of(episode, frame) for episode in team.begin(asked, [[]] * len(asked), samples)]
    readings = PrivateReadings(episodes)
    build(team, readings).invoke(State(episodes=list(episodes), round=0), {"recursion_limit": 2 * (len(ROLES) + 1) + 2})
    return Batch(list(episodes), readings)


def note_of(frame: Frame, *words: str) -> list[int]:
    """A note as a turn of its own."""
    return frame.turn(NOTE, encode(frame.tokenizer, "Note: " + " ".join(words)))


def question(number: int, answer: str, words: Sequence[str], draw: random.Random) -> QAExample:
    """A question whose words tell nothing about its answer."""
    asked = " ".join(draw.choices(words, k=2))
    return QAExample(
        id=f"toy-{number}", source="custom", focus="toy", question=f"{asked}?", options=tuple("1234"), answer=answer
    )  # fmt: skip


def questions(count: int, words: Sequence[str], draw: random.Random) -> list[QAExample]:
    """Several questions; every letter is right equally often."""
    return [question(n, OPTIONS[n % len(OPTIONS)], words, draw) for n in range(count)]


def pay(episodes: Sequence[Episode], round_: int) -> None:
    """The verifier: right or wrong, but a half for the researcher."""
    for episode in episodes:
        for turn in (turn for turn in episode.turns if turn.round == round_):
            turn.value = 0.5 if turn.role == KNOWS else float(turn.answer == episode.question.answer)


def settings_of(signals: bool) -> Maporl:
    """The game's settings; without signals every message is paid by its own V alone. There is one round: no gamma, no shaping."""
    return Maporl(
        questions_per_iteration=QUESTIONS, samples_per_question=SAMPLES, learning_rate=1e-3, minibatch=128, kl=0.0, steps_per_batch=4,
        team_share=0.5 if signals else 0.0, gamma=0.0, alpha0=0.0, beta0=0.0, alpha1=0.0, beta1=0.0,
    )  # fmt: skip


# --- the start


def make_team(root: Path, seed: int, drill: int = DRILL) -> Path:
    """Write a drilled base and an untrained adapter; returns their folder."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.set_num_threads(1)  # matrices too small to share out
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(CHATML)
    model = AutoModelForCausalLM.from_config(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=8, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        ), dtype=torch.float32,
    )  # fmt: skip
    _drill(model, tokenizer, random.Random(f"{seed}/drill"), drill)
    folder = root / f"team-{seed}"
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM", base_model_name_or_path="qwen3"
    )  # fmt: skip
    team = AdapterModel.with_new(model, tokenizer, dict.fromkeys(ROLES, config), activated=True)
    for role in ROLES:
        team.save_adapter(role, folder / role, Frame(tokenizer).invocation(role))
    return folder


def load_team(folder: Path) -> AdapterModel:
    """Four learning roles."""
    return AdapterModel.load(folder / "base", {role: folder / role for role in ROLES})


def _drill(model: Any, tokenizer: Any, draw: random.Random, steps: int) -> None:
    bare, frame = AdapterModel(model.train(), tokenizer, activated=False), Frame(tokenizer)  # gradients through all that is read
    optimizer = torch.optim.AdamW(model.parameters(), lr=DRILL_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (steps - step) / (0.3 * steps)))
    for step in range(steps):
        if step >= REPEATING and step % 4:
            rows = [_role(frame, draw, headed=step % 2 == 0) for _ in range(DRILL_BATCH)]
        else:
            rows = [_repeating(frame, draw) for _ in range(DRILL_BATCH)]
        loss = -bare.score(None, rows).logp_N.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def _says(frame: Frame, letter: str) -> list[int]:
    return [*encode(frame.tokenizer, f"Answer: {letter}"), frame.end]


def _repeating(frame: Frame, draw: random.Random) -> Place:
    """Outside the team: the letter that a note holds among words."""
    letter = draw.choice(OPTIONS)
    words: list[str] = draw.choices(WORDS, k=draw.randint(0, 8))
    words.insert(draw.randint(0, len(words)), letter)
    return Place(note_of(frame, *words), frame.invocation(ALONE), _says(frame, letter))


def _role(frame: Frame, draw: random.Random, headed: bool) -> Place:
    """A role's turn behind letters that have nothing to do with each other: one that was said, or any; never the note's as such.

    Without the header, which tells nothing here, a lesson costs half.
    """
    role = draw.choice(ROLES)
    tokens = frame.header(question(0, draw.choice(OPTIONS), WORDS, draw), (), RULES.max_header_tokens) if headed else []
    if role == KNOWS:
        tokens += note_of(frame, draw.choice(OPTIONS))
    mates = ROLES[: ROLES.index(role)]
    said = [draw.choice(OPTIONS) for _ in mates]
    for mate, letter in zip(mates, said, strict=True):
        tokens += frame.turn(mate, _says(frame, letter))
    return Place(tokens, frame.invocation(role), _says(frame, draw.choice(said if said and draw.random() < TRUST else OPTIONS)))


# --- the loop


def success(model: AdapterModel, seed: str, count: int = MEASURED) -> float:
    """Share of fresh questions that the team answers right, greedily."""
    asked = questions(count, FRESH_WORDS, random.Random(f"{seed}/fresh"))
    played = play(Team(model, ADAPTERS, RULES, verifier=pay), asked)
    return fmean(episode.final.answer == episode.question.answer for episode in played.episodes)


def co_train(
    model: AdapterModel, settings: Maporl, seed: int, iterations: int = ITERATIONS, every: int = EVERY,
    tell: Callable[[str], None] = lambda text: None,
) -> list[tuple[int, float]]:  # fmt: skip
    """Co-train a team; returns (iterations done, success) at the start, each `every` iterations and at the end."""
    learners = learners_of(model, ADAPTERS, settings)
    curve = [(0, success(model, f"{seed}/0"))]
    for iteration in range(iterations):
        draw = random.Random(f"{seed}/{iteration}")
        asked = questions(settings.questions_per_iteration, WORDS, draw)
        generator = torch.Generator().manual_seed(draw.getrandbits(62))
        batch = play(Team(model, ADAPTERS, RULES, settings.temperature, generator, pay), asked, settings.samples_per_question)
        update(learners, [batch], targets(batch, settings, REWARDS), settings, seed=f"{seed}/{iteration}")
        done = iteration + 1
        if done % every == 0 or done == iterations:
            curve.append((done, success(model, f"{seed}/{done}")))
            tell(f"seed {seed}, iteration {done}: {curve[-1][1]:.2f}")
    return curve


def run(team: Path, seed: int, signals: bool, iterations: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """One co-training from a drilled team; seconds by the clock and of the processor."""
    clock, processor = time.monotonic(), time.process_time()
    curve = co_train(load_team(team), settings_of(signals), seed, iterations, tell=tell)
    return {
        "seed": seed, "signals": signals, "start": curve[0][1], "end": curve[-1][1], "iterations": iterations,
        "solved_after": next((done for done, share in curve if share >= SOLVED), None),
        "seconds": round(time.monotonic() - clock, 1), "processor_seconds": round(time.process_time() - processor, 1), "curve": curve,
    }  # fmt: skip


# --- what a person sees


def table(results: Sequence[dict[str, Any]]) -> str:
    """The runs as a Markdown table."""
    names = ("signals", "seed", "start", "end", "0.9 reached after", "iterations", "seconds", "processor seconds")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for r in results:
        cells = ("with" if r["signals"] else "without", r["seed"], f"{r['start']:.2f}", f"{r['end']:.2f}", r["solved_after"] or "never",
                 r["iterations"], r["seconds"], r["processor_seconds"])  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw_curves(results: Sequence[dict[str, Any]], path: Path) -> Path:
    """Success by iteration, a line per run, and the line of chance."""
    from matplotlib.figure import Figure

    from medpipe.evaluation import plots

    figure = Figure(figsize=(plots.WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for r in results:
        steps, shares = zip(*r["curve"], strict=True)
        colour, line = (plots.BLUE, "-") if r["signals"] else (plots.RED, "--")
        label = f"{'with' if r['signals'] else 'without'} signals, seed {r['seed']}"
        axes.plot(steps, shares, color=colour, linestyle=line, marker=plots.MARKERS[r["seed"] % 6], markersize=4.5, label=label)
    axes.axhline(CHANCE, color=plots.GREY, linestyle=":", label=f"chance ({CHANCE})")
    axes.set(xlabel="iterations of co-training", ylabel="success on fresh questions", ylim=(0, 1.03))
    ends = {on: [r["end"] for r in results if r["signals"] is on] for on in (True, False)}
    told = [f"{name} at least {min(ends[on]):.2f}" if on else f"{name} at most {max(ends[on]):.2f}"
            for on, name in ((True, "with signals"), (False, "without")) if ends[on]]  # fmt: skip
    plots.title(axes, f"Success at the end: {', '.join(told)}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plots.bare(axes)
    return plots.save(figure, path)


def main() -> None:
    """Read the command line, play, print one JSON line a run and a table, and draw."""
    parser = argparse.ArgumentParser(description="does co-training teach a team to co-operate?")
    parser.add_argument("--seeds", type=int, default=3, help="teams, each from a base of its own")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--without-signals", action="store_true", help="play each seed again without co-operation signals")
    parser.add_argument("--plot", type=Path, help="where the picture is written")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as root:
        started = time.process_time()
        teams = [make_team(Path(root), seed) for seed in range(options.seeds)]
        print(f"the drill of {options.seeds} bases took {time.process_time() - started:.0f} processor seconds", flush=True)
        for signals in (True, False) if options.without_signals else (True,):
            for seed, team in enumerate(teams):
                results.append(run(team, seed, signals, options.iterations, lambda text: print(text, flush=True)))
                print(json.dumps(results[-1]), flush=True)
    print(table(results))
    if options.plot:
        print(f"drawn: {draw_curves(results, options.plot)}")


if __name__ == "__main__":
    main()
