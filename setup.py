"""What pyproject.toml cannot say: where the wheel's stages and pipeline come from.

The folder stages/ is installed as bgpm.stages. The files that `bgpm init` writes a campaign from are those of the
repository's own pipeline, at its top; a wheel has them in bgpm/pipeline/.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PIPELINE = (
    "dvc.yaml",
    "params.yaml",
    ".dvcignore",
    "data/annotations/README.md",
    "data/annotations/heldout/README.md",
    "data/annotations/judge.txt",
)


class BuildWithPipeline(build_py):
    """Copies the pipeline's files into the package; an editable install finds them at the top of the repository."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in PIPELINE:
                target = self._copy_of(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(name, target)

    def _copy_of(self, name: str) -> Path:
        return Path(self.build_lib, "bgpm", "pipeline", name)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copies = [] if self.editable_mode else [str(self._copy_of(name)) for name in PIPELINE]
        return [*super().get_outputs(include_bytecode), *copies]

    def get_source_files(self) -> list[str]:  # what an sdist holds
        return [*super().get_source_files(), *PIPELINE]


setup(
    packages=[*find_packages(include=["bgpm", "bgpm.*"]), "bgpm.stages"],
    package_dir={"bgpm.stages": "stages"},
    package_data={
        "bgpm": ["py.typed"],
        "bgpm.annotate": ["page/*"],
        "bgpm.annotate.templates": ["*.j2"],
        "bgpm.reporting.templates": ["*.css", "*.j2"],
        "bgpm.stages": ["python"],
    },
    cmdclass={"build_py": BuildWithPipeline},
)
