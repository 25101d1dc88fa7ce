"""MLflow's model registry: teams as versions of one model, who is champion, the way back, and answers from a version.

    medpipe rollback                                              # the champion before is champion again
    MLFLOW_TRACKING_URI=sqlite:///outputs/mlflow.db mlflow models predict -m models:/medpipe_team@champion -i questions.json \\
        -t json --env-manager local                               # {"dataframe_split": {"columns": ["question"], "data": [["…"]]}}
    mlflow.pyfunc.load_model("models:/medpipe_team@champion").predict(pandas.DataFrame({"question": ["…"]}))

A version holds the four adapters (safetensors), the evidence index, the rules of the game, the code of this package and a reference to
the base: where it lies and its content hash. `model_config={"base": "/another/folder"}` names another place for the same base. Nothing
is pickled: MLflow imports this module and calls `_load_pyfunc`. Aliases: `challenger` is the newest version, `champion` the one that
was promoted (medpipe/evaluation/champion.py decides). A version's tags name the champion before it.
Left out: the base's weights, stages (MLflow gave them up), and signing.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe import NOTICE, store
from medpipe.config import Model, Settings
from medpipe.config import Team as Rules
from medpipe.corpus.biomcp import open_evidence
from medpipe.errors import MedpipeError
from medpipe.questions import to_questions
from medpipe.schema import ROLES
from medpipe.team.ask import ask, look_up
from medpipe.team.workflow import Team
from medpipe.tracking import alone_with_mlflow, mlflow_server, tracking_uri

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.tracking import MlflowClient

NAME = "medpipe_team"
CHALLENGER, CHAMPION = "challenger", "champion"
KEY, TEAM, BASE = "medpipe.key", "medpipe.team", "medpipe.base"
BEFORE, ROLLED_BACK = "medpipe.champion_before", "medpipe.rolled_back"
"""A version's tags: what was registered (team and scores), the content hashes of team and base, who was champion before, when it was
taken back."""
SCORES, FOLDER, RULES = "scores.json", "team", "team.json"
PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Version:
    """One registered team."""

    number: str
    key: str
    team: str  # content hash of models/maporl_team
    base: str  # content hash of models/base, which a version names and does not hold
    before: str  # number of the version that was champion before this one; empty: none, or never promoted
    rolled_back: bool
    run_id: str  # the run that holds its artefacts


def versions(settings: Settings) -> list[Version]:
    """All registered versions, oldest first."""
    with _opened(settings) as client:
        return _versions(client)


def champion(settings: Settings) -> Version | None:
    """The version with the alias `champion`."""
    with _opened(settings) as client:
        return _champion(client)


def scores(settings: Settings, version: Version) -> Any:
    """What was handed to `register` as a version's scores."""
    with _opened(settings) as client, tempfile.TemporaryDirectory() as folder:
        return store.read_json(Path(client.download_artifacts(version.run_id, SCORES, folder)))


def register(settings: Settings, inputs: Mapping[str, Path], key: str, scored: Any, description: str) -> Version:
    """Register the team as a version and give it the alias `challenger`; a team that is registered under this key already stays.

    Args:
        inputs: finished folders of models/maporl_team, models/base and splits/train.
        key: identifies the team together with its scores.
        scored: per-item scores, as JSON; `scores` gives them back.

    Raises:
        MedpipeError: a folder is unfinished or damaged, or MLflow fails.
    """
    with _opened(settings) as client:
        found = next((one for one in _versions(client) if one.key == key), None)
        if found is None:
            found = _register(client, settings, inputs, key, scored, description)
        client.set_registered_model_alias(NAME, CHALLENGER, found.number)
        return found


def promote(settings: Settings, version: Version) -> None:
    """Make a version champion and write down on it who was champion before; nothing changes where it is champion already."""
    with _opened(settings) as client:
        standing = _champion(client)
        if standing is None or standing.number != version.number:
            client.set_model_version_tag(NAME, version.number, BEFORE, standing.number if standing else "")
            client.set_registered_model_alias(NAME, CHAMPION, version.number)


def rollback(settings: Settings) -> tuple[Version, Version]:
    """Make the version champion again that was champion before; returns who was taken back and who is champion now.

    The version taken back is marked, so that the pipeline does not promote that team again by itself.

    Raises:
        MedpipeError: there is no champion, none before it, or the one before was deleted.
    """
    with _opened(settings) as client:
        standing = _champion(client)
        if standing is None:
            raise MedpipeError(
                got="no champion", expected="a version with the alias champion", where=tracking_uri(settings),
                do="materialise release/champion; there is nothing to take back",
            )  # fmt: skip
        known = {one.number: one for one in _versions(client)}
        if standing.before not in known:
            told = f"version {standing.before} before it, which was deleted" if standing.before else "no champion before it"
            raise MedpipeError(
                got=f"champion version {standing.number} with {told}", expected="a version to go back to", where=tracking_uri(settings),
                do="set the alias champion by hand on MLflow's page, or remove it there",
            )  # fmt: skip
        client.set_model_version_tag(NAME, standing.number, ROLLED_BACK, datetime.now(UTC).isoformat(timespec="seconds"))
        client.set_registered_model_alias(NAME, CHAMPION, standing.before)
        return standing, known[standing.before]


@contextmanager
def _opened(settings: Settings) -> Iterator[MlflowClient]:
    """A client on the profile's MLflow, one process at a time: several that touch a fresh sqlite database at once break it."""
    from filelock import FileLock
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError  # MLflow lets it through where its database can't be opened

    uri = tracking_uri(settings)
    settings.outputs.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(str(settings.outputs / ".registry.lock"), timeout=600):
            with alone_with_mlflow(uri, settings.outputs):
                client = MlflowClient(uri, registry_uri=uri)
                client.search_registered_models(max_results=1)
            yield client
    except (MlflowException, SQLAlchemyError) as error:
        raise MedpipeError(
            got=f"a failure of MLflow ({str(error).splitlines()[0]})", expected="a registry that answers", where=uri,
            do="see that tracking.uri is right and its server is up, or set tracking.kind = none to go without a registry",
        ) from error  # fmt: skip


def _versions(client: MlflowClient) -> list[Version]:
    found = client.search_model_versions(f"name = '{NAME}'", max_results=10_000)
    return sorted((_version(one) for one in found), key=lambda one: int(one.number))


def _version(found: Any) -> Version:
    tags = found.tags
    return Version(
        str(found.version), tags.get(KEY, ""), tags.get(TEAM, ""), tags.get(BASE, ""), tags.get(BEFORE, ""), ROLLED_BACK in tags,
        found.run_id or "",
    )  # fmt: skip


def _champion(client: MlflowClient) -> Version | None:
    if not client.search_registered_models(filter_string=f"name = '{NAME}'"):
        return None
    number = client.get_registered_model(NAME).aliases.get(CHAMPION)
    return None if number is None else _version(client.get_model_version(NAME, str(number)))


def _register(
    client: MlflowClient, settings: Settings, inputs: Mapping[str, Path], key: str, scored: Any, description: str
) -> Version:  # fmt: skip
    manifest = store.read_manifest(inputs["models/maporl_team"])
    team = manifest.sha256 if manifest else ""
    with tempfile.TemporaryDirectory() as folder:
        saved = _save(Path(folder), settings, inputs)
        known = client.get_experiment_by_name(settings.tracking.experiment)
        place = None if mlflow_server(settings) else (settings.outputs / "mlflow_artifacts").resolve().as_uri()
        number = known.experiment_id if known else client.create_experiment(settings.tracking.experiment, artifact_location=place)
        base = store.read_manifest(inputs["models/base"])
        tags = {KEY: key, TEAM: team, BASE: base.sha256 if base else "", "medpipe.profile": settings.name, "medpipe.notice": NOTICE}
        run = client.create_run(number, run_name=f"register {key[:8]}", tags=tags)
        client.log_artifacts(run.info.run_id, str(saved), FOLDER)
        client.log_text(run.info.run_id, json.dumps(scored, ensure_ascii=False), SCORES)
        client.set_terminated(run.info.run_id)
    if not client.search_registered_models(filter_string=f"name = '{NAME}'"):
        client.create_registered_model(NAME, description=NOTICE)
    source = f"{run.info.artifact_uri}/{FOLDER}"
    return _version(client.create_model_version(NAME, source, run_id=run.info.run_id, tags=tags, description=description))


def _save(folder: Path, settings: Settings, inputs: Mapping[str, Path]) -> Path:
    """The team as a folder that MLflow can load: data/team, this package's code, requirements and signature."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array

    data = folder / FOLDER
    base, made = _lay_out(data, settings, inputs), folder / "model"
    text = "string"
    asked = Schema([ColSpec(text, "question"), ColSpec(Array(text), "options", required=False)])
    told = Schema([ColSpec(text, name) for name in ("answer", "choice", "malformed", "notice")])
    mlflow.pyfunc.save_model(
        str(made), loader_module="medpipe.registry", data_path=str(data), code_paths=[str(PACKAGE)], pip_requirements=_requirements(),
        signature=ModelSignature(inputs=asked, outputs=told), model_config={"base": str(base.resolve()), "device": "cpu"},
        input_example=pd.DataFrame({"question": ["What is asthma?"]}),
    )  # fmt: skip
    return made


def _lay_out(data: Path, settings: Settings, inputs: Mapping[str, Path]) -> Path:
    """Copy what the team is into `data`, whole or not at all; returns the base's folder."""
    finished = {}
    for key in ("models/maporl_team", "models/base", "splits/train"):
        finished[key] = store.read_manifest(inputs[key])
        if finished[key] is None:
            raise MedpipeError(got=f"no finished {key}", expected="a manifest", where=str(inputs[key]), do=f"materialise {key}")
    team, base = inputs["models/maporl_team"], inputs["models/base"]
    for role in ROLES:
        shutil.copytree(team / role, data / role)
    shutil.copytree(inputs["splits/train"] / "evidence", data / "evidence")
    files = store.hash_tree(data)
    made = {**finished["models/maporl_team"].files, **finished["splits/train"].files}
    damaged = [name for name, sha in files.items() if made.get(name) != sha]
    if damaged:
        raise MedpipeError(
            got=f"files that changed since they were made: {', '.join(damaged)}", expected="what the manifest names", where=str(team),
            do="materialise models/maporl_team and splits/train again",
        )  # fmt: skip
    shutil.copyfile(team / store.MANIFEST, data / store.MANIFEST)
    reference = {"sha256": finished["models/base"].sha256, **settings.model.model_dump(mode="json")}
    rules = {"model": settings.model.model_dump(mode="json"), "team": settings.team.model_dump(mode="json")}
    store.write_json(
        data / RULES, {"notice": NOTICE, "base": reference, "files": files, "batch_size": settings.evaluation.batch_size, **rules}
    )
    return base


def _requirements() -> list[str]:
    """What this package needs, in the versions that are installed here."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in importlib.metadata.requires("medpipe") or ()]
    names = sorted({one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})})
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Registered:
    """What MLflow calls: the team that lies in a version's data folder."""
    return Registered(Path(path), dict(model_config or {}))


class Registered:
    """A registered team that answers; the weights are loaded once.

    Raises:
        MedpipeError: a file of the version changed, or the base is not there or another one.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from medpipe.models.adapters import AdapterModel

        about = store.read_json(folder / RULES)
        now = {name: sha for name, sha in store.hash_tree(folder).items() if name != RULES}
        if now != about["files"]:
            changed = sorted(name for name in now.keys() | about["files"].keys() if now.get(name) != about["files"].get(name))
            raise MedpipeError(got=f"changed: {', '.join(changed)}", expected="files as registered", where=str(folder), do="fetch it again")
        base = _base(Path(config.get("base", "")), about["base"]["sha256"])
        self._rules, self._batch = Rules.model_validate(about["team"]), int(about["batch_size"])
        self._cache = tempfile.TemporaryDirectory(prefix="medpipe-")  # of BioMCP's answers, where the team asks it
        self._evidence = open_evidence(folder / "evidence", self._rules, Path(self._cache.name), print)
        choice = Model.model_validate(about["model"])
        models = AdapterModel.load(base, {role: folder / role for role in ROLES}, config.get("device", "cpu"), choice)
        self._team = Team(models, {role: role for role in ROLES}, self._rules)

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answers to a frame with a column `question` and, perhaps, `options` (a list of texts, or nothing).

        Returns:
            A row per question: `answer` (the reporter's last message), `choice` (the letter of the option that it names;
            empty where it names none, and on free text), `malformed` (what is wrong with the message, else empty) and `notice`.
        """
        import pandas as pd

        listed = [None] * len(data) if "options" not in data else [_options(value) for value in data["options"]]
        given = [{"question": text, "options": options} for text, options in zip(data["question"], listed, strict=True)]
        rows = [question.row() for question in (to_questions(given, "the frame") if given else [])]
        finals = [episode.final for episode in ask(self._team, rows, look_up(self._evidence, rows, self._rules), self._batch)]
        told = [{"answer": f.text, "choice": f.answer or "", "malformed": f.malformed, "notice": NOTICE} for f in finals]
        return pd.DataFrame(told, columns=["answer", "choice", "malformed", "notice"], index=data.index)


def _base(folder: Path, sha256: str) -> Path:
    manifest = store.read_manifest(folder)
    found = "no finished folder" if manifest is None else f"content {manifest.sha256[:12]}"
    if manifest is None or manifest.sha256 != sha256 or store.damaged_files(folder, manifest):
        raise MedpipeError(
            got=found if manifest is None or manifest.sha256 != sha256 else "files that changed since they were made",
            expected=f"the base with content {sha256[:12]}", where=str(folder),
            do='materialise models/base, or name its folder: load_model(…, model_config={"base": "…"})',
        )  # fmt: skip
    return folder


def _options(value: Any) -> list[str] | None:
    """A cell of the frame: a list or an array of texts; None and NaN mean free text."""
    listed = value.tolist() if hasattr(value, "tolist") else value
    return None if listed is None or isinstance(listed, float) else listed
