"""Dagster's page in a real browser: the graph's groups, sources materialised by a click, their checks, and a plot that is seen.

    python -m medpipe_tests.test_page            # makes the screenshots in docs/img anew

`dagster dev` serves the profile smoke from a folder of its own; headless Chromium (Debian's package) is driven by playwright.
Left out: the other pages of Dagster, and MLflow's.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NOWHERE = "http://127.0.0.1:9"
GROUPS = ("sources", "corpus", "splits", "rewards", "models", "evaluation", "release")
EXAMS = ("medqa_train", "medmcqa_train", "pubmedqa_train")
SOURCES = ("synthetic", "custom", "medquad", "medquad_questions", "medtext", "phenotypes", "benchmarks", *EXAMS)
SECONDS = 240
"""How long a run or a page of a busy machine may take."""
expect.set_options(timeout=60_000)


@contextmanager
def dagster_dev(folder: Path) -> Iterator[str]:
    """The address of `dagster dev` on a fresh workspace; nothing of it is left afterwards."""
    for name in ("synthetic", "safety"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    (folder / "data" / "custom").mkdir()
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("MEDPIPE_MIRROR", "DAGSTER_HOME")}
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE)
    environment |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    environment |= {"DAGSTER_HOME": str(folder), "MEDPIPE_PROFILE": "smoke", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    log = folder / "dev.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process, log)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):  # started in the background of a shell, it does not hear this
            process.wait(30)
        with suppress(ProcessLookupError):  # whatever is left of it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the page answers and its graph is loaded."""
    deadline = time.monotonic() + SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        try:
            answer = httpx.post(f"{address}/graphql", json={"query": "{ assetNodes { id } }"}, timeout=30, trust_env=False)
            if answer.json()["data"]["assetNodes"]:
                return
        except httpx.TransportError:
            time.sleep(0.5)  # not listening yet


@contextmanager
def browser(width: int = 1440, height: int = 900) -> Iterator[Page]:
    """A page of a fresh Chromium, without the profile of anybody."""
    assert CHROMIUM
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as profile:
        opened = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=[*FLAGS], headless=True, viewport={"width": width, "height": height}
        )
        page = opened.pages[0]
        page.set_default_timeout(60_000)
        page.set_default_navigation_timeout(60_000)
        try:
            yield page
        finally:
            opened.close()


def group(address: str, name: str) -> str:
    return f"{address}/locations/__repository__@medpipe.definitions/asset-groups/{name}"


def materialise(page: Page, address: str, name: str) -> None:
    """Press the button of a group's page, and look at the page of runs until the run has ended well."""
    page.goto(group(address, name))
    page.get_by_role("button", name="Materialize all").click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    page.goto(f"{address}/runs")
    ended = page.get_by_text("Success", exact=True).or_(page.get_by_text("Failure", exact=True))
    expect(ended.first).to_be_visible(timeout=SECONDS * 1000)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()


def show_plot(page: Page, address: str, asset: str, key: str) -> None:
    """Open the plot of an asset's metadata."""
    page.goto(f"{address}/assets/{asset}")
    row = page.get_by_role("row").filter(has=page.get_by_text(key, exact=True))
    row.get_by_text("[Show Markdown]").click()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with dagster_dev(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def broken(page: Page) -> list[str]:
    """What scripts of the page threw, from now on."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


@pytest.fixture(scope="module")
def made(address: str, page: Page, broken: list[str]) -> str:
    """The page's address after its sources were materialised by a click."""
    materialise(page, address, "sources")
    return address


def test_the_graph_shows_every_group_in_its_order(address: str, page: Page, broken: list[str]) -> None:
    page.goto(f"{address}/asset-groups")
    places = {}
    for name in GROUPS:
        node = page.locator("svg").get_by_text(name, exact=True).first
        expect(node).to_be_visible()
        box = node.bounding_box()
        assert box
        places[name] = box["x"]
    assert list(places) == sorted(places, key=lambda name: places[name])  # from left to right as the work goes
    assert broken == []


def test_the_automation_page_knows_the_schedule_and_the_sensors(address: str, page: Page) -> None:
    page.goto(f"{address}/automation")
    for name in ("weekly_retraining", "custom_rows"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_sources_are_materialised_from_the_page(made: str, page: Page, broken: list[str]) -> None:
    for name in SOURCES:
        page.goto(f"{made}/assets/sources/{name}")
        expect(page.get_by_text("Latest materialization")).to_be_visible()
        expect(page.get_by_role("row").filter(has=page.get_by_text("reused", exact=True)).get_by_text("false")).to_be_visible()
    assert broken == []


def test_an_assets_page_tells_what_it_is_and_where_it_came_from(made: str, page: Page) -> None:
    page.goto(f"{made}/assets/sources/synthetic")
    for text in ("Licence: Apache-2.0", "3900", "choice_questions", "At 03:00 AM UTC, only on Sunday", "medpipe.definitions"):
        expect(page.get_by_text(text).first).to_be_visible()


def test_checks_are_seen_the_passed_and_the_failed(made: str, page: Page) -> None:
    page.goto(f"{made}/assets/sources/synthetic?view=checks")
    expect(page.get_by_text("Checks (3)")).to_be_visible()
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(3)
    page.goto(f"{made}/assets/sources/medquad?view=checks")  # there is no network, so its publisher can't be reached
    expect(page.get_by_text("reachable", exact=True).first).to_be_visible()
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()


def test_a_plot_among_the_metadata_is_seen(made: str, page: Page, broken: list[str]) -> None:
    show_plot(page, made, "sources/synthetic", "lengths")
    plot = page.get_by_role("img", name="histograms: length of the questions and of the answers")
    expect(plot).to_be_visible()
    assert str(plot.get_attribute("src")).startswith("data:image/png;base64,")
    assert plot.evaluate("it => it.complete && it.naturalWidth > 300 && it.naturalHeight > 200")
    assert broken == []


def main() -> None:
    """Make the screenshots of the docs: the groups of the graph, and an asset with its plot."""
    if CHROMIUM is None:
        sys.exit("got no Chromium, expected Debian's package, in medpipe_tests.test_page: apt-get install chromium")
    images = ROOT / "docs" / "img"
    with tempfile.TemporaryDirectory() as folder, dagster_dev(Path(folder)) as address:
        with browser() as page:
            materialise(page, address, "sources")
            show_plot(page, address, "sources/synthetic", "lengths")
            expect(page.get_by_role("img", name="histograms")).to_be_visible()
            page.screenshot(path=images / "dagster-asset.png", animations="disabled")
        with browser(1800, 560) as page:
            page.goto(f"{address}/asset-groups")
            page.get_by_text("Hide navigation").click()
            page.reload()  # the graph is fitted into what is there when it is drawn
            for name in GROUPS:
                expect(page.locator("svg").get_by_text(name, exact=True).first).to_be_visible()
            page.screenshot(path=images / "dagster-graph.png", animations="disabled")


if __name__ == "__main__":
    main()
