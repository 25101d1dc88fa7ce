"""Evidence from the literature: a BioMCP server, asked over the Model Context Protocol, with the local index behind it.

    open_evidence(folder, settings.team, cache, print).search("What causes migraine?", k=3)

The server (PyPI `biomcp-python`, the extra `biomcp`) is a child process that speaks MCP over stdin and stdout; its tool
`article_searcher` looks abstracts up in PubMed. Abstracts are cut and ranked as the local passages are. An answer is kept on
disk under its query and the server's version, until it is older than team.evidence_cache_days. Where there is no usable
answer, the local index is asked instead; that is warned of once and stands in each passage's `origin`.
Training rows only ever get the local index: an article can hold a row's own answer, and a training must come out the same again.
An article that a question was made from (PubMedQA) is left out. What the server says of its failures is shown nowhere, because
an address in it may hold a password: `python -m biomcp article search --keyword migraine` shows it.
What this leaves out: whole articles, trials, gene databases, preprints.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe import store
from medpipe.config import Team
from medpipe.corpus.evidence import LOCAL, RUN, Evidence, EvidenceIndex, Passage
from medpipe.corpus.shingles import LITTLE, NEGATIONS, Words, word_list
from medpipe.corpus.text import tidy
from medpipe.errors import MedpipeError
from medpipe.schema import QAExample

if TYPE_CHECKING:
    from mcp import ClientSession

CACHE = "biomcp"  # folder in the outputs
TOOL = "article_searcher"
TERMS = 3  # words of a question that an article must hold: BioMCP joins keywords with "and"
GIVE_UP = 5  # questions in a row without a usable answer, after which the server is not asked any more
PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")
"""Environment variables that the server is given, besides HOME, PATH and the like; keys and tokens stay here."""

_RECORD = re.compile(r"^# Record \d+\s*$", re.M)
_FIELD = re.compile(r"^([A-Z][A-Za-z ]*):(.*(?:\n(?:  .*|$))*)", re.M)  # a long value stands in indented lines below its name

Article = dict[str, str]
"""{"id", "title", "text"}, as EvidenceIndex takes a library's entries."""


@dataclass(frozen=True)
class Server:
    """How the server is started, and how long it is waited for."""

    command: tuple[str, ...]
    version: str
    start_seconds: float = 60.0
    answer_seconds: float = 20.0

    @classmethod
    def installed(cls) -> Server:
        """The one of this environment.

        Raises:
            MedpipeError: the extra is not installed.
        """
        try:
            importlib.metadata.version("mcp")
            version = importlib.metadata.version("biomcp-python")
        except importlib.metadata.PackageNotFoundError as error:
            raise MedpipeError(
                got=f"no package {error.name}", expected="BioMCP and the MCP client", where="team.evidence_source = biomcp",
                do="pip install -e '.[biomcp]', or set team.evidence_source = local",
            ) from error  # fmt: skip
        return cls((sys.executable, "-m", "biomcp", "run"), version)


@dataclass(frozen=True)
class Asked:
    """A question without its options, and the text that it came with (PubMedQA)."""

    text: str
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came of one query: articles and where they are from, or why there are none."""

    articles: tuple[Article, ...] = ()
    origin: str = "biomcp"
    failure: str = ""


def open_evidence(folder: Path, team: Team, cache: Path, warn: Callable[[str], None]) -> Evidence:
    """The evidence that team.evidence_source names.

    Args:
        folder: of the local index.
        cache: folder in which BioMCP's answers are kept.
        warn: is told once if BioMCP fails.

    Raises:
        MedpipeError: the folder holds no index, or BioMCP is asked for and not installed.
    """
    local = EvidenceIndex.load(folder)
    return local if team.evidence_source == "local" else BioMcp(local, cache, team.evidence_cache_days, warn, Server.installed())


class BioMcp:
    """Passages of abstracts that BioMCP finds; the local index's where it finds none."""

    def __init__(self, local: EvidenceIndex, cache: Path, days: int, warn: Callable[[str], None], server: Server) -> None:
        self._local, self._server = local, server
        self._kept = _Kept(cache, timedelta(days=days), server.version)
        self._warn: Callable[[str], None] | None = warn  # None once it was told

    def for_questions(self, questions: Sequence[QAExample], k: int, max_chars: int = 320, *, training: bool = False) -> list[list[Passage]]:
        """Passages for each question, by its text alone; a training row gets the local index's."""
        if training:
            return self._local.for_questions(questions, k, max_chars, training=True)
        asked = [Asked(question.question, question.context) for question in questions]
        return self._found(asked, k, max_chars, lambda left: self._local.for_questions([questions[n] for n in left], k, max_chars))

    def search(self, text: str, k: int, max_chars: int = 320) -> list[Passage]:
        """The best k passages for a bare text, best first."""
        return self._found([Asked(text)], k, max_chars, lambda left: [self._local.search(text, k, max_chars) for _ in left])[0]

    def _found(
        self, asked: Sequence[Asked], k: int, max_chars: int, local: Callable[[list[int]], list[list[Passage]]]
    ) -> list[list[Passage]]:
        """Passages of articles; where there are none, what `local` finds for the questions of these numbers."""
        queries = [terms(one.text) for one in asked]
        answers = self._answers(set(queries))
        found = [_passages(answers[query], one, k, max_chars) for one, query in zip(asked, queries, strict=True)]
        left = [number for number, passages in enumerate(found) if not passages]
        failures: Counter[str] = Counter()
        for number, passages in zip(left, local(left), strict=True):
            failure = answers[queries[number]].failure or "no article that bears on the question"
            failures[failure] += 1
            found[number] = [replace(passage, origin=f"{LOCAL}: BioMCP failed ({failure})") for passage in passages]
        self._tell(failures, len(asked))
        return found

    def _answers(self, queries: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Answer]:
        answers = {query: self._kept.read(query) if query else Answer(failure="no word to search for") for query in sorted(queries)}
        missing = [query for query, answer in answers.items() if answer is None]
        fresh = _ask(self._server, missing) if missing else {}
        for query, answer in fresh.items():
            if answer.articles:  # no article may as well mean no network: such an answer is not kept
                self._kept.write(query, answer.articles)
        return {query: answer or fresh[query] for query, answer in answers.items()}

    def _tell(self, failures: Mapping[str, int], asked: int) -> None:
        if failures and self._warn:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in failures.items())
            self._warn(f"BioMCP failed for {sum(failures.values())} of {asked} questions ({reasons}): their evidence is the local index's")
            self._warn = None


class _Kept:
    """Answers on disk, one file each; several processes may write the same one."""

    def __init__(self, folder: Path, lifetime: timedelta, version: str) -> None:
        self._folder, self._lifetime, self._version = folder, lifetime, version

    def _path(self, query: tuple[str, ...]) -> Path:
        return self._folder / f"{hashlib.sha256('/'.join((self._version, *query)).encode()).hexdigest()[:32]}.json"

    def read(self, query: tuple[str, ...]) -> Answer | None:
        """The answer; None where there is none, or an expired or damaged one, which is then asked for and written again."""
        path = self._path(query)
        if not path.is_file():
            return None
        try:
            kept = store.read_json(path)
            age = datetime.now(UTC) - datetime.fromisoformat(kept["made"])
            articles = tuple({key: str(article[key]) for key in ("id", "title", "text")} for article in kept["articles"])
        except (ValueError, KeyError, TypeError):
            return None
        return Answer(articles, "biomcp (cached)") if age < self._lifetime else None

    def write(self, query: tuple[str, ...], articles: Sequence[Article]) -> None:
        """Keep an answer under its query."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        value = {"query": query, "version": self._version, "made": made, "articles": articles}
        store.write_json(self._path(query), value)


def terms(question: str) -> tuple[str, ...]:
    """The words to search for: the longest ones of the question itself, in its order."""
    telling = (word for word in word_list(question) if len(word) > 2 and word.isalpha() and word not in LITTLE | NEGATIONS)
    words = list(dict.fromkeys(telling))
    chosen = sorted(words, key=len, reverse=True)[:TERMS]
    return tuple(word for word in words if word in chosen)


def articles_in(text: str) -> tuple[Article, ...] | None:
    """The articles with an abstract in an answer of the tool; None where the text is no such answer.

    The tool writes `[]`, or for each article a heading `# Record 1` and lines `Title: …`.
    """
    if text.strip() in ("", "[]"):
        return ()
    records = [
        {name: tidy(value) for name, value in reversed(_FIELD.findall(record))}  # reversed: the first of a name counts
        for record in _RECORD.split(text)[1:]
    ]
    if not any("Title" in record for record in records):
        return None
    return tuple(
        {"id": record.get("Pmid") or record.get("Doi") or record["Title"], "title": record["Title"], "text": record["Abstract"]}
        for record in records if record.get("Title") and record.get("Abstract")
    )  # fmt: skip


def _passages(answer: Answer, asked: Asked, k: int, max_chars: int) -> list[Passage]:
    bearing = [article for article in answer.articles if not _is_source(article, asked)]
    if not bearing:
        return []
    index = EvidenceIndex.build((), [{**article, "id": f"biomcp:{article['id']}"} for article in bearing])
    return [replace(passage, origin=answer.origin) for passage in index.search(asked.text, k, max_chars)]


def _is_source(article: Article, asked: Asked) -> bool:
    """Whether a question was made from this article: a run of words stands in both."""
    runs, owner = Words.of([article["title"], article["text"], asked.text, *asked.context]).runs(RUN)
    return bool(set(runs[owner < 2].tolist()) & set(runs[owner >= 2].tolist()))


# --- the protocol


@dataclass
class _Talk:
    """What came of talking to the server: answers so far, and why it ended before the last query, if it did."""

    answers: dict[tuple[str, ...], Answer] = field(default_factory=dict)
    ended: str = ""


def _ask(server: Server, queries: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Answer]:
    """An answer to every query; whatever fails is told in the answers, nothing is raised."""
    from anyio.from_thread import start_blocking_portal

    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it would print what it can't read
    talk = _Talk()
    try:
        with start_blocking_portal() as portal:  # a thread with a loop of its own: the caller may run in a loop (a notebook)
            portal.call(_converse, server, queries, talk)
    except Exception as error:  # the client raises many kinds, some of them in groups; each means that there is no answer
        started = not isinstance(error, FileNotFoundError | PermissionError)
        talk.ended = talk.ended or ("the server ended" if started else "the server can't be started")
    return {query: talk.answers.get(query, Answer(failure=talk.ended)) for query in queries}


async def _converse(server: Server, queries: Sequence[tuple[str, ...]], talk: _Talk) -> None:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import get_default_environment, stdio_client

    environment = get_default_environment() | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    how = StdioServerParameters(command=server.command[0], args=list(server.command[1:]), env=environment)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        async with stdio_client(how, errlog=nowhere) as (read, write), ClientSession(read, write) as session:
            try:
                await _exchange(session, server, queries, talk)
            except TimeoutError:  # noted here: what the clean-up of a stuck connection raises would hide it
                talk.ended = "no answer in time"


async def _exchange(session: ClientSession, server: Server, queries: Sequence[tuple[str, ...]], talk: _Talk) -> None:
    from anyio import fail_after

    with fail_after(server.start_seconds):
        await session.initialize()
    in_vain = 0
    for query in queries:
        with fail_after(server.answer_seconds):
            talk.answers[query] = answer = await _call(session, query)
        in_vain = in_vain + 1 if answer.failure else 0
        if in_vain == GIVE_UP:
            talk.ended = f"no usable answer to {GIVE_UP} questions in a row"
            return


async def _call(session: ClientSession, query: tuple[str, ...]) -> Answer:
    from mcp import McpError
    from mcp.types import CONNECTION_CLOSED

    arguments: dict[str, Any] = {"keywords": list(query), "include_preprints": False, "include_cbioportal": False}
    try:
        result = await session.call_tool(TOOL, arguments)
    except McpError as error:
        if error.error.code == CONNECTION_CLOSED:
            raise
        return Answer(failure="an error of the server")
    except RuntimeError:  # the client's word for a result that is not what the tool says it gives
        return Answer(failure="an answer that can't be read")
    if result.isError:
        return Answer(failure="an error of the server")
    articles = articles_in("\n".join(part.text for part in result.content if part.type == "text"))
    if articles is None:
        return Answer(failure="an answer that can't be read")
    return Answer(articles, failure="" if articles else "no article, or no network")
