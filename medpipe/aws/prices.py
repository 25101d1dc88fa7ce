"""What a SageMaker training job costs: prices per hour and GPUs of instance types, each with the page it was read on.

    python -m medpipe.aws.prices ml.g5.12xlarge      # the row, its source, and the most that a launch can cost
    cost(settings.aws, hours=2.5).usd

AWS tells its prices by an API that asks for credentials, so the table is a copy with a date: prices change, and `--price` goes
before it. Left out: storage (volumes, S3), traffic, logs, taxes, savings plans, and spot's discount, which is not known before; instance
types for which no page with a price for training was found (ml.p4d.24xlarge: only prices from before AWS lowered them).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from medpipe.config import Aws
from medpipe.errors import MedpipeError

UNLIMITED = 1e6
"""A budget in USD that is none: --yes sets one above it."""
READ = "2026-11-22"
"""When the pages below were read."""
PRICED_IN = "us-west-2, or of no named region"
PRICE_LIST = (
    "github.com/OKUniversity/agentcore-public-stack, backend/src/apis/app_api/fine_tuning/pricing.py at af09e6d4: "
    "training on demand, us-west-2, taken from AWS's Price List API on a day it does not name"
)
SAMPLES = (
    "github.com/aws-samples/foundation-model-benchmarking-tool, src/fmbench/configs/pricing.yml at 00ef155d: "
    "SageMaker, with neither region nor day"
)
FULL_STACK = "fullstackdeeplearning.com/cloud-gpus of 2023-10-30 (github.com/the-full-stack/website), quoting NVIDIA's data sheets"
A10G_SHEET = f"{FULL_STACK}: 70 dense, in FP16; another page measured 66.6 TFLOP/s in BF16. It is not the A10, which has 125"
L4_SHEET = "nvidia.com/en-us/data-center/l4, as quoted on a public page: 242 TFLOP/s in FP16 with sparsity, half of it without"


@dataclass(frozen=True)
class Price:
    """USD per hour of one instance, on demand, and where that was read."""

    usd: float
    source: str


@dataclass(frozen=True)
class Gpu:
    """Peak of dense matrix multiplication in half precision, FLOP/s; memory as the data sheet has it, GB."""

    peak: float
    memory_gb: int
    source: str


@dataclass(frozen=True)
class Fitted:
    """Which GPUs an instance type has: docs.aws.amazon.com/batch/latest/userguide/gpu-jobs.html; rapidsai/deployment for others."""

    gpu: str
    gpus: int


PRICES: dict[str, Price] = {
    "ml.g5.xlarge": Price(1.408, PRICE_LIST),
    "ml.g5.2xlarge": Price(1.515, PRICE_LIST),
    "ml.g5.12xlarge": Price(7.09, PRICE_LIST),
    "ml.g5.24xlarge": Price(10.18, PRICE_LIST),
    "ml.g5.48xlarge": Price(20.36, PRICE_LIST),
    "ml.g6.12xlarge": Price(5.752, PRICE_LIST),
    "ml.g6.24xlarge": Price(8.344, PRICE_LIST),
    "ml.g6.48xlarge": Price(16.688, PRICE_LIST),
    "ml.g4dn.12xlarge": Price(4.89, SAMPLES),
    "ml.m5.xlarge": Price(0.23, SAMPLES),
}
"""USD per hour on demand; another region or another day may have other prices."""
GPUS: dict[str, Gpu] = {
    "A10G": Gpu(70e12, 24, A10G_SHEET),
    "L4": Gpu(121e12, 24, L4_SHEET),
    "T4": Gpu(65e12, 16, f"{FULL_STACK}: 65 in mixed precision"),
    "A100": Gpu(312e12, 40, f"{FULL_STACK}: 312 in FP16"),
}
FITTED: dict[str, Fitted] = {
    "ml.g5.xlarge": Fitted("A10G", 1),
    "ml.g5.2xlarge": Fitted("A10G", 1),
    "ml.g5.12xlarge": Fitted("A10G", 4),
    "ml.g5.24xlarge": Fitted("A10G", 4),
    "ml.g5.48xlarge": Fitted("A10G", 8),
    "ml.g6.12xlarge": Fitted("L4", 4),
    "ml.g6.24xlarge": Fitted("L4", 4),
    "ml.g6.48xlarge": Fitted("L4", 8),
    "ml.g4dn.12xlarge": Fitted("T4", 4),
    "ml.p4d.24xlarge": Fitted("A100", 8),
}


@dataclass(frozen=True)
class Cost:
    """Of one launch. `hours` and `usd` are None where the time is not foretold; the ceiling is always known.

    SageMaker ends each job after `max_hours`, so no job bills more than the ceiling (on demand; spot costs less, never more).
    """

    hours: float | None
    price: float
    instances: int
    usd: float | None
    ceiling_usd: float
    source: str

    def lines(self, budget_usd: float) -> list[str]:
        """What to print before a launch."""
        machines = f"{self.instances} x {self.price:,.3f} USD per hour" if self.instances > 1 else f"{self.price:,.3f} USD per hour"
        found = [f"price: {machines} ({self.source})"]
        found.append("estimate: unknown" if self.usd is None else f"estimate: {self.hours:,.1f} h, {self.usd:,.2f} USD")
        if self.usd is not None and self.usd > self.ceiling_usd:
            found.append("!! that is longer than aws.max_hours: SageMaker would end the job before it is done; raise it, or train less")
        over = "over" if self.over(budget_usd) else "within"
        return [*found, f"at most: {self.ceiling_usd:,.2f} USD (aws.max_hours), {over} the budget of {budget_usd:,.2f} USD"]

    def over(self, budget_usd: float) -> bool:
        """Whether this could cost more than the budget."""
        return self.ceiling_usd > budget_usd


def price_of(instance_type: str, given: float | None = None) -> Price:
    """USD per hour of an instance type: the given price, else the table's.

    Raises:
        MedpipeError: there is neither.
    """
    if given is not None:
        if given <= 0:
            raise MedpipeError(got=f"--price {given}", expected="USD per hour above 0", where="the cost of a launch", do="correct it")
        return Price(given, "as given by --price")
    if instance_type not in PRICES:
        raise MedpipeError(
            got=f"no price for {instance_type}", expected=f"one of {', '.join(PRICES)}", where=f"the price table of {READ}",
            do="look it up on aws.amazon.com/sagemaker/pricing and pass it: `medpipe aws cost --price 1.23`; a launch starts with --yes",
        )  # fmt: skip
    row = PRICES[instance_type]
    return Price(row.usd, f"read {READ}: {row.source}")


def cost(aws: Aws, hours: float | None, price: float | None = None, jobs: int = 1) -> Cost:
    """What a launch costs.

    Args:
        aws: the profile's section: instance type and count, longest time.
        hours: of one job, as foretold; None where it is not.
        price: USD per hour in place of the table's.
        jobs: so many jobs one after the other or at once, as a tuning job starts them.
    """
    row = price_of(aws.instance_type, price)
    each = row.usd * aws.instance_count * jobs
    usd = None if hours is None else each * hours
    return Cost(hours, row.usd, aws.instance_count, usd, each * aws.max_hours, row.source)


def refuse_above_budget(aws: Aws, price: float | None = None, jobs: int = 1) -> str:
    """The most that a launch can cost, to be printed; under a budget from UNLIMITED on, a price need not be known.

    Raises:
        MedpipeError: it is more than `aws.budget_usd`, or can't be told.
    """
    if aws.budget_usd >= UNLIMITED and price is None and aws.instance_type not in PRICES:
        return f"an unknown sum: no price for {aws.instance_type}"
    found = cost(aws, None, price, jobs)
    most = f"{found.ceiling_usd:,.2f} USD"
    if found.over(aws.budget_usd):
        raise MedpipeError(
            got=f"a launch that may cost {most} ({jobs} x {aws.instance_count} x {aws.max_hours:g} h at {found.price:,.3f} USD)",
            expected=f"at most {aws.budget_usd:,.2f} USD (aws.budget_usd)", where=aws.instance_type,
            do="lower aws.max_hours, raise aws.budget_usd, or add --yes",
        )  # fmt: skip
    return f"{most} ({found.source})"


def gpus_of(instance_type: str) -> tuple[int, Gpu]:
    """How many GPUs an instance type has, and which.

    Raises:
        MedpipeError: the table does not have it.
    """
    if instance_type not in FITTED:
        raise MedpipeError(
            got=f"no GPUs for {instance_type}", expected=f"one of {', '.join(FITTED)}", where="medpipe/aws/prices.py",
            do="take one of these instance types, or launch without an estimate: the ceiling (aws.max_hours) is still told",
        )  # fmt: skip
    fitted = FITTED[instance_type]
    return fitted.gpus, GPUS[fitted.gpu]


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else Aws().instance_type
    print("\n".join(cost(Aws(instance_type=chosen), None).lines(Aws().budget_usd)))
    if chosen in FITTED:
        count, gpu = gpus_of(chosen)
        print(f"{count} x {FITTED[chosen].gpu}: {gpu.peak / 1e12:,.0f} TFLOP/s each, {gpu.memory_gb} GB ({gpu.source})")
