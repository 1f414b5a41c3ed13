"""Run by Argilla's own environment: records of a file become Argilla's, and go out in each shape that it writes.

``python argilla_check.py RECORDS FOLDER LABEL...``; an error is Argilla's own.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import argilla as rg
from argilla.records._io import GenericIO

file, folder, *labels = sys.argv[1:]
rows = json.loads(Path(file).read_text(encoding="utf-8"))
client = Mock()  # without one Argilla looks for a server
fields = [rg.TextField(name=name, client=client) for name in rows[0]["fields"]]
question = rg.LabelQuestion(name="preference", labels=labels, client=client)
names = sorted({name for row in rows for name in row["metadata"]})
metadata = [rg.TermsMetadataProperty(name=name, client=client) for name in names]
settings = rg.Settings(fields=fields, questions=[question], metadata=metadata)
settings.validate()
records = [rg.Record.from_dict(row, dataset=SimpleNamespace(settings=settings)) for row in rows]
assert all(response.value in question.labels for record in records for response in record.responses)
shapes = {
    "record": [record.to_dict() for record in records],
    "columns": GenericIO.to_list(records, flatten=True),
    "server": [record.api_model().model_dump(mode="json") for record in records],
}
for name, whole in shapes.items():
    (Path(folder) / f"{name}.json").write_text(json.dumps(whole), encoding="utf-8")
