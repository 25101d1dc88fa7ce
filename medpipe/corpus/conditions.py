"""The knowledge base's conditions: read from data/synthetic/conditions/*.yaml and checked.

What this leaves out: whether an entry is medically right; only its form is checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from medpipe.corpus.text import focus_key
from medpipe.errors import MedpipeError
from medpipe.schema import Frozen

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same safe loader, in C where PyYAML was built with it
Text = Annotated[str, Field(min_length=1)]
Listed = Annotated[tuple[Text, ...], Field(min_length=3)]


class Condition(Frozen):
    """One condition of the knowledge base; its fields are described in data/synthetic/README.md."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    name: Text
    synonyms: tuple[Text, ...] = ()
    specialty: Text
    definition: Text
    causes: Text
    diagnosis: Text
    treatment: Text
    prevention: Text
    prognosis: Text
    seek_care: Text
    risk_factors: Listed
    symptoms: Listed
    red_flags: Listed
    complications: Listed
    reference: Listed  # passages for the evidence index, in words that no field above shares


def load_conditions(folder: Path) -> list[Condition]:
    """All conditions of a folder's YAML files (each a list), in the order of file names.

    Raises:
        MedpipeError: no file, a file that is not a list of conditions, a wrong entry, or an id or name used twice.
    """
    conditions: list[Condition] = []
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            entries = _LOADER(path.read_text(encoding="utf-8")).get_single_data()
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise _wrong(f"text that is not YAML ({error})", "a YAML list of conditions", str(path)) from error
        if not isinstance(entries, list):
            raise _wrong(type(entries).__name__, "a YAML list of conditions", str(path))
        for number, entry in enumerate(entries, 1):
            where = f"{path}, entry {number} (id {entry.get('id') if isinstance(entry, dict) else None!r})"
            try:
                condition = Condition.model_validate(entry)
            except ValidationError as error:
                first = error.errors()[0]
                raise _wrong(
                    f"{'.'.join(str(part) for part in first['loc']) or 'an entry'}: {first['msg']}", "a condition", where
                ) from error
            for key in (condition.id, *map(focus_key, (condition.name, *condition.synonyms))):  # rows are split by these names
                if seen.setdefault(key, where) != where:
                    raise _wrong(f"{key!r}, already used in {seen[key]}", "an id, a name and synonyms of its own", where)
            conditions.append(condition)
    if not conditions:
        raise _wrong("no condition", "at least one *.yaml file with conditions", str(folder))
    return conditions


def _wrong(got: str, expected: str, where: str) -> MedpipeError:
    return MedpipeError(got=got, expected=expected, where=where, do="correct the entry (data/synthetic/README.md describes the fields)")
