"""What docker would see of this repository: the rules of .dockerignore and the COPY lines of the Dockerfile, without docker.

As a program it lays out the files that the build stage compiles: `context.py FOLDER`. A file that the image lacks is then
missing there too.
"""

import json
import shutil
import sys
import tomllib
from pathlib import Path

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]


def ignore_rules():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def sent_files():
    """Every file that .dockerignore lets through, relative to the repository."""
    paths = exclude_paths(str(ROOT), ignore_rules())
    # The client of docker always sends the two files that steer the build; no COPY of ours takes them.
    return {path for path in paths if (ROOT / path).is_file()} - {"Dockerfile", ".dockerignore"}


def instructions():
    """The instructions of the Dockerfile in order: (stage, instruction, value); before the first stage its name is ''."""
    stage, result = "", []
    # The parser writes to the file that it is given when it is asked to, and it is not asked to.
    for line in DockerfileParser(fileobj=(ROOT / "Dockerfile").open("rb")).structure:
        if line["instruction"] == "COMMENT":
            continue
        if line["instruction"] == "FROM":
            stage = line["value"].split()[-1]
        result.append((stage, line["instruction"], line["value"]))
    return result


def copies(stage):
    """The COPY lines of a stage that take from the repository: (sources, target)."""
    result = []
    for where, instruction, value in instructions():
        words = value.split()
        if where == stage and instruction == "COPY" and not any(word.startswith("--from=") for word in words):
            words = [word for word in words if not word.startswith("--")]
            result.append((words[:-1], words[-1]))
    return result


def manifest_files():
    """The files whose paths cargo takes from the manifest although the program does not need them."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    targets = manifest.get("test", []) + manifest.get("example", []) + manifest.get("bench", [])
    kinds = ["tests"] * len(manifest.get("test", [])) + ["examples"] * len(manifest.get("example", []))
    kinds += ["benches"] * len(manifest.get("bench", []))
    return [target.get("path", f"{kind}/{target['name']}.rs") for target, kind in zip(targets, kinds)]


def lay_out(stage, folder):
    """Copies into the folder what the COPY lines of the stage take, and nothing that .dockerignore holds back."""
    sent = sent_files()
    for sources, target in copies(stage):
        for source in sources:
            taken = sorted(path for path in sent if source == "." or path == source or path.startswith(source + "/"))
            if not taken:
                raise SystemExit(f"COPY {source} of the stage {stage} takes nothing: it does not exist or .dockerignore holds it back")
            for path in taken:
                end = Path(folder) / path
                end.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, end)


def main():
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    lay_out("build", folder)
    # cargo-chef leaves an empty program in the place of each.
    for path in manifest_files():
        end = folder / path
        end.parent.mkdir(parents=True, exist_ok=True)
        end.write_text("fn main() {}\n")
    # cargo looks at the times of folders too, and would build again what seems new.
    for path in folder.rglob("*"):
        if path.is_dir():
            shutil.copystat(ROOT / path.relative_to(folder), path)
    print(json.dumps({"files": sum(1 for path in folder.rglob("*") if path.is_file())}))


if __name__ == "__main__":
    main()
