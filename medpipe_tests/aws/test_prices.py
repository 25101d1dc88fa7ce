"""What a launch costs: the table, its sources, the ceiling, and machines of a type."""

from __future__ import annotations

import pytest

from medpipe.aws.prices import FITTED, GPUS, PRICES, cost, gpus_of, price_of, refuse_above_budget
from medpipe.config import Aws
from medpipe.errors import MedpipeError


def test_the_guides_machine_has_price_and_gpus() -> None:
    assert price_of("ml.g5.12xlarge").usd == pytest.approx(7.09)
    count, gpu = gpus_of("ml.g5.12xlarge")
    assert (count, gpu.peak, gpu.memory_gb) == (4, 70e12, 24)


def test_every_row_has_a_source_and_every_gpu_is_known() -> None:
    assert all("/" in row.source for row in (*PRICES.values(), *GPUS.values()))
    assert {fitted.gpu for fitted in FITTED.values()} <= set(GPUS)
    assert all(row.usd > 0 for row in PRICES.values())


def test_the_ceiling_is_price_times_machines_times_the_longest_time() -> None:
    aws = Aws(instance_type="ml.g5.12xlarge", instance_count=2, max_hours=3)
    found = cost(aws, hours=1.5)
    assert found.usd == pytest.approx(7.09 * 2 * 1.5)
    assert found.ceiling_usd == pytest.approx(7.09 * 2 * 3)
    assert found.over(42.0) and not found.over(43.0)


def test_a_search_may_cost_as_much_as_all_its_trials() -> None:
    aws = Aws(max_hours=2)
    assert cost(aws, None, jobs=20).ceiling_usd == pytest.approx(20 * cost(aws, None).ceiling_usd)


def test_an_unknown_time_is_told_as_unknown_and_the_ceiling_still_stands() -> None:
    found = cost(Aws(max_hours=6), None)
    assert found.usd is None
    price, estimate, ceiling = found.lines(budget_usd=50.0)
    assert "7.090 USD per hour" in price and "2026-11-22" in price and "us-west-2" in price
    assert estimate == "estimate: unknown"
    assert "42.54 USD" in ceiling and "within the budget of 50.00 USD" in ceiling
    assert "over the budget" in found.lines(budget_usd=40.0)[2]


def test_an_estimate_beyond_the_longest_time_is_a_warning() -> None:
    assert any("longer than aws.max_hours" in line for line in cost(Aws(max_hours=6), 8.0).lines(50.0))
    assert not any("!!" in line for line in cost(Aws(max_hours=6), 5.0).lines(50.0))


def test_a_given_price_goes_before_the_tables() -> None:
    found = cost(Aws(instance_type="ml.p5.48xlarge", max_hours=1), 0.5, price=60.0)
    assert (found.usd, found.ceiling_usd, found.source) == (30.0, 60.0, "as given by --price")


def test_a_machine_without_price_asks_for_one() -> None:
    with pytest.raises(MedpipeError, match=r"got no price for ml.p4d.24xlarge.*pass it: .medpipe aws cost --price"):
        price_of("ml.p4d.24xlarge")
    with pytest.raises(MedpipeError, match="--price 0"):
        price_of("ml.g5.12xlarge", 0.0)


def test_a_machine_without_known_gpus_is_told() -> None:
    with pytest.raises(MedpipeError, match=r"got no GPUs for ml.m5.xlarge"):
        gpus_of("ml.m5.xlarge")


def test_a_launch_above_the_budget_is_refused() -> None:
    assert refuse_above_budget(Aws(max_hours=6, budget_usd=50)).startswith("42.54 USD")
    with pytest.raises(MedpipeError, match=r"may cost 42\.54 USD.*at most 40\.00 USD.*--yes"):
        refuse_above_budget(Aws(max_hours=6, budget_usd=40))
    with pytest.raises(MedpipeError, match=r"may cost 85\.08 USD"):
        refuse_above_budget(Aws(max_hours=6, budget_usd=50), jobs=2)


def test_without_a_price_only_a_given_yes_starts() -> None:
    unpriced = Aws(instance_type="ml.p4d.24xlarge")
    with pytest.raises(MedpipeError, match="no price"):
        refuse_above_budget(unpriced)
    assert "unknown" in refuse_above_budget(unpriced.model_copy(update={"budget_usd": 1e9}))
    assert refuse_above_budget(unpriced, price=5.0).startswith("30.00 USD")
