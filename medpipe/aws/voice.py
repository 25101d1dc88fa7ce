"""What a training job says, and to whom: stdout (CloudWatch, SageMaker's metrics), training.log, and the Dagster step that waits.

    voice = Voice(layout.output / "training.log")
    voice.open_pipes()                                  # where DAGSTER_PIPES_* tell of a step
    watch = Watch(outputs, voice); watch.look()         # finished assets and numbers that are new since the last look

Messages go to the step through S3 (Dagster Pipes). Left out: the reading side (medpipe/assets/sagemaker.py).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dagster_pipes import PipesContext, PipesMessage, PipesS3ContextLoader, PipesS3MessageWriter, open_dagster_pipes
from dagster_pipes import PipesS3MessageWriterChannel as Channel

from medpipe.aws.account import Account
from medpipe.aws.layout import finished
from medpipe.config import Aws
from medpipe.evaluation.guide import of_iteration

MESSAGE_SECONDS = 5.0  # between two objects of messages
HIDDEN = "[secret]"
FEWEST = 4  # characters of a secret that is hidden: a shorter one stands in every other word
TEAM = Path("models") / "maporl_team"


class _Messages(PipesS3MessageWriter):
    """Goes on counting where the messages of an interrupted start of the same job ended, and can end without saying goodbye."""

    goes_on = False

    def make_channel(self, params: Mapping[str, Any]) -> Channel:
        bucket, prefix, client, writer = params["bucket"], params["key_prefix"], self._client, self
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        names = [each["Key"].rpartition("/")[2].removesuffix(".json") for page in pages for each in page.get("Contents", [])]

        class OfThisStart(Channel):
            def write_message(self, message: PipesMessage) -> None:
                if not (writer.goes_on and message["method"] == "closed"):
                    super().write_message(message)

        channel = OfThisStart(client, bucket, prefix, interval=self.interval)
        channel._counter = 1 + max((int(name) for name in names if name.isdecimal()), default=0)
        return channel


class Voice:
    """Everything that is said: to stdout (CloudWatch), training.log and the Dagster step that waits, if there is one."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._log = log, log.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._writer: _Messages | None = None
        self._pipes: PipesContext | None = None
        self._secrets: tuple[str, ...] = ()
        self.complaints: deque[str] = deque(maxlen=3)

    def open_pipes(self) -> None:
        """Tell a Dagster step from now on."""
        client = Account.of(Aws()).client("s3")
        self._writer = _Messages(client, interval=MESSAGE_SECONDS)
        self._pipes = open_dagster_pipes(context_loader=PipesS3ContextLoader(client), message_writer=self._writer)

    def hush(self, secrets: Iterable[str]) -> None:
        """Never say these either, whoever prints them; of one with several lines, no line."""
        lines = {line for secret in secrets for line in (secret, *secret.splitlines()) if len(line) >= FEWEST}
        self._secrets = tuple(sorted(lines | set(self._secrets), key=len, reverse=True))

    def hide(self, text: str) -> str:
        """The text without any of the job's secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def hidden(self, value: Any) -> Any:
        """The same for every text of a JSON value."""
        if isinstance(value, Mapping):
            return {self.hide(name): self.hidden(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.hidden(one) for one in value]
        return self.hide(value) if isinstance(value, str) else value

    def say(self, text: str) -> None:
        """One line; its mark tells how bad it is, as on the console of `medpipe run`."""
        text = self.hide(text)
        with self._lock:
            print(text, flush=True)
            self._log.write(text + "\n")
            self._log.flush()
            if self._pipes and text.strip():
                level = "error" if " !! " in text else "warning" if " ! " in text else "info"
                getattr(self._pipes.log, level)(text)

    def heard(self, line: str) -> None:
        """Pass on a line of the run, and remember it where it is a complaint."""
        if " !! " in line:
            self.complaints.append(self.hide(line.partition(" !! ")[2]))
        self.say(line)

    def tell(self, message: Mapping[str, Any]) -> None:
        """A message for the Dagster step only."""
        if self._pipes:
            self._pipes.report_custom_message(self.hidden(message))

    def close(self, goes_on: bool) -> None:
        """Send what is left and compress the log. `goes_on`: SageMaker may start this job again, and Dagster is to wait for that."""
        if self._pipes and self._writer:
            self._writer.goes_on = goes_on
            self._pipes.close()
        self._log.close()
        with self._path.open("rb") as plain, gzip.open(f"{self._path}.gz", "ab") as packed:
            shutil.copyfileobj(plain, packed)
        self._path.unlink()


class Watch:
    """Tells of finished assets and of the co-training's numbers as they appear in the outputs folder."""

    def __init__(self, outputs: Path, voice: Voice) -> None:
        self._outputs, self._voice = outputs, voice
        self.before = {key: manifest.created_at for key, manifest in finished(outputs).items()}
        self._told, self._steps = set[str](), 0

    def look(self, all_of_them: bool = False) -> None:
        """Tell what is new; at the end also what stood before, which by then is known to be of use."""
        for key, manifest in finished(self._outputs).items():
            if key not in self._told and (all_of_them or self.before.get(key) != manifest.created_at):
                self._told.add(key)
                self._voice.tell({"asset": key, "manifest": manifest.model_dump(mode="json")})
        for folder in (TEAM.with_name(f".{TEAM.name}.partial"), TEAM):
            with contextlib.suppress(FileNotFoundError):
                text = (self._outputs / folder / "metrics.jsonl").read_text(encoding="utf-8")
                self._iterations([json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")])

    def _iterations(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            if row["step"] > self._steps:
                self._steps = row["step"]
                if numbers := of_iteration(row):
                    self._voice.say(as_metrics(numbers))


def as_metrics(numbers: Mapping[str, float]) -> str:
    """A line that SageMaker reads its metrics from."""
    return " ".join(f"{name}={value:.6f};" for name, value in numbers.items())
