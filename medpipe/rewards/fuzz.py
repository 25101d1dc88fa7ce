"""Strings that no person would write, to see that the reward stays finite and in its bounds on all of them.

    python -m medpipe.rewards.fuzz --count 10000

Left out: strings that pay (medpipe/rewards/attacks.py) and how long a score may take.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice

from medpipe.answers import parse_answer
from medpipe.config import Rewards
from medpipe.errors import MedpipeError
from medpipe.rewards.attack_words import CATARACT, DANGER, TOENAILS
from medpipe.rewards.compose import COMPONENTS, MedicalReward, Message
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe.roles import ROLES, Said, sentences
from medpipe.schema import QAExample

BATCH = 200
_ODD = (
    "<!--", "-->", "<|im_end|>", "<|im_start|>system", "[E1]", "[E99999]", "[E0]", "Answer: B", "Answer: Z", "Answer: Cataract (B)", "(C)",
    "\u200b", "\u202e", "\ud800",
    "\x00", "%", "0", "-1", "1e999", "NaN", "999999999999999999999999", "1,000.50 mg", "(ABC)", "((((", "<b", "<script>", "not",
    "never", "always", "\u0430\u0435\u043e", "糖尿病", "🙂", "\n\n", "\t", "’", "Ｆｕｌｌ", "x.y/z", "{}", "\\", "None",
)  # fmt: skip
FREE = QAExample(id="fuzz-free", question="What is cataract?", answer=CATARACT, source="fuzz", focus="cataract")
CHOICE = QAExample(
    id="fuzz-choice", question="What clouds the lens?", answer="B", options=("Glaucoma", "Cataract", "Uveitis"),
    source="fuzz", focus="cataract",
)  # fmt: skip


def strings(seed: int) -> Iterator[str]:
    """Endlessly many: random code points, odd tokens, sentences with odd tokens between them, and very long runs; always the same."""
    draw = random.Random(seed)
    known = sentences(f"{CATARACT} {DANGER} {TOENAILS}")
    while True:
        kind = draw.randrange(20)
        if kind < 5:
            yield "".join(chr(draw.randrange(0x110000)) for _ in range(draw.randrange(40)))
        elif kind < 10:
            yield " ".join(draw.choices(_ODD, k=draw.randrange(1, 12)))
        elif kind < 19:
            yield " ".join(part for _ in range(draw.randrange(1, 5)) for part in (draw.choice(known), f"{draw.choice(_ODD)}."))
        else:
            yield draw.choice(_ODD) * draw.randrange(1, 1500)


def fuzz(reward: MedicalReward, count: int, seed: int, questions: Sequence[QAExample] = (FREE, CHOICE, CHOICE)) -> tuple[float, float]:
    """Score so many strings as message, mate's message and passage; give the lowest and highest total.

    Raises:
        MedpipeError: a number is not finite or out of its bounds.
    """
    source, draw = strings(seed), random.Random(seed)
    least, most = 1.0, 0.0
    for start in range(0, count, BATCH):
        messages = []
        for text in islice(source, min(BATCH, count - start)):
            question, role = draw.choice(questions), draw.choice(ROLES)
            answer = parse_answer(text, question.options) if question.is_choice else None
            messages.append(Message(question, text, (Said("planner", text[::-1]),), (text[:200], CATARACT), answer, role))
        for message, found in zip(messages, reward.score(messages), strict=True):
            numbers = [found.total, *(found.components[name] for name in COMPONENTS), *found.raw.values()]
            if not all(math.isfinite(number) and 0.0 <= number <= 1.0 for number in numbers) or not 0.0 <= found.penalty < math.inf:
                raise MedpipeError(
                    got=f"{found}", expected="finite numbers from 0 to 1", where=f"the reward of {message.text[:80]!a}",
                    do="mend the component",
                )  # fmt: skip
            least, most = min(least, found.total), max(most, found.total)
    return least, most


def main() -> None:
    """Fuzz the reward and say what range its totals had."""
    parser = argparse.ArgumentParser(description="fuzz the medical reward")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reward = MedicalReward(Rewards(), Lexicon.from_rows([FREE, CHOICE]), Similarity())
    least, most = fuzz(reward, args.count, args.seed)
    print(f"{args.count} strings, seed {args.seed}: all numbers finite and in bounds; totals from {least:.3f} to {most:.3f}")


if __name__ == "__main__":
    main()
