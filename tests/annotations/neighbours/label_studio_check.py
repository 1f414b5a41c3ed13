"""Run by the environment of Label Studio's SDK: a labelling configuration and tasks are valid, and are exported again.

``python label_studio_check.py TASKS CONFIG FOLDER``; an error is the SDK's own.
"""

import json
import sys
from pathlib import Path

from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface

tasks_file, config_file, folder = map(Path, sys.argv[1:])
tasks = json.loads(tasks_file.read_text(encoding="utf-8"))
config = config_file.read_text(encoding="utf-8")
interface = LabelInterface(config)
interface.validate()
for number, task in enumerate(tasks, 1):
    assert interface.validate_task({"data": task["data"]}), task
    for kind in ("annotations", "predictions"):
        for one in task.get(kind, []):
            errors = interface.validate_prediction(one, return_errors=True)
            assert not errors, (kind, one, errors)
    task["id"] = number  # which the server gives, like a time to annotations without one
    for one in task["annotations"]:
        one.setdefault("created_at", "2026-12-01T00:00:00Z")
(folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
converter = Converter(config, str(folder), download_resources=False)
for shape in ("JSON", "JSON_MIN", "CSV"):
    converter.convert(str(folder / "tasks.json"), str(folder / shape), shape, is_dir=False)
