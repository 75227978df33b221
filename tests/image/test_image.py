"""The Dockerfile keeps the rules of the image, and the files that it takes are there. Nothing here needs docker."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import context
from context import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
LINES = context.instructions()
PINNED = re.compile(r"^[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$")


def of(stage, instruction):
    return [value for where, name, value in LINES if where == stage and name == instruction]


def arguments():
    return dict(value.split("=", 1) for value in of("", "ARG"))


def commands(stage):
    """Every shell command of a stage's RUN lines."""
    text = " && ".join(of(stage, "RUN"))
    return [re.sub(r"--mount=\S+", "", part).strip() for part in re.split(r"&&|;", text)]


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_frontend_and_the_bases_are_pinned_by_digest():
    syntax = TEXT.splitlines()[0].removeprefix("# syntax=")
    assert PINNED.match(syntax), syntax
    bases = arguments()
    assert set(bases) == {"RUST_IMAGE", "RUNTIME_IMAGE"}
    for image in bases.values():
        assert PINNED.match(image) and ":latest" not in image, image


def test_every_stage_comes_from_a_pinned_base_or_from_a_stage_before_it():
    known = {"${" + name + "}" for name in arguments()}
    names = []
    for _, instruction, value in LINES:
        if instruction != "FROM":
            continue
        base, word, name = [part for part in value.split() if not part.startswith("--")]
        assert base in known and word == "AS", value
        known.add(name)
        names.append(name)
    assert names == ["chef", "plan", "build", "runtime"]
    assert of("chef", "FROM")[0].split()[0] == "--platform=$BUILDPLATFORM"


def test_the_compiler_is_the_one_of_the_repository():
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert arguments()["RUST_IMAGE"].startswith(f"docker.io/library/rust:{channel}-")


def test_the_runtime_has_certificates_and_no_shell():
    assert re.match(r"^gcr\.io/distroless/static-debian\d+:nonroot@", arguments()["RUNTIME_IMAGE"])
    assert of("runtime", "FROM") == ["${RUNTIME_IMAGE} AS runtime"]
    assert of("runtime", "RUN") == [] and of("runtime", "SHELL") == []
    assert not any(name == "ADD" for _, name, _ in LINES)


def test_the_user_is_a_number_and_owns_the_folder_that_is_written_to():
    assert of("runtime", "USER") == ["65532:65532"]
    (folder,) = of("runtime", "WORKDIR")
    assert folder == "/var/lib/baton-jumpcloud"
    assert f"--from=build --chown=65532:65532 /rootfs{folder} {folder}" in of("runtime", "COPY")
    assert of("runtime", "ENV") == [f"TMPDIR={folder}", "MIMALLOC_PURGE_DELAY=0"]


def test_the_program_is_started_without_a_shell():
    (entry,) = of("runtime", "ENTRYPOINT")
    words = json.loads(entry)
    assert words == ["/baton-jumpcloud"] and of("runtime", "CMD") == []
    assert any(value.split()[-1] == words[0] for value in of("runtime", "COPY"))


def test_the_labels_say_what_the_image_is():
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', " ".join(of("runtime", "LABEL"))))
    assert labels == {
        "title": manifest["name"],
        "description": manifest["description"],
        "licenses": manifest["license"],
        "version": "$VERSION",
        "revision": "$REVISION",
        "source": "$SOURCE",
    }
    assert {value.split("=")[0] for value in of("runtime", "ARG")} == {"VERSION", "REVISION", "SOURCE", "SOURCE_DATE_EPOCH"}


def test_dependencies_are_a_layer_of_their_own():
    steps = [(name, value) for where, name, value in LINES if where == "build" and name in ("RUN", "COPY")]
    cook = next(i for i, (name, value) in enumerate(steps) if "cargo chef cook" in value)
    source = next(i for i, (name, value) in enumerate(steps) if name == "COPY" and value.startswith("src "))
    build = next(i for i, (name, value) in enumerate(steps) if "cargo auditable build" in value)
    assert cook < source < build
    flags = lambda text: set(re.search(r"cargo (?:chef cook|auditable build) ([^&]*)", text)[1].split())
    # Other flags would compile everything again.
    assert flags(steps[cook][1]) - {"--recipe-path", "/recipe.json"} == flags(steps[build][1])
    assert {"--locked", "--release", "--bin", "baton-jumpcloud"} == flags(steps[build][1])


def test_cargo_takes_only_locked_versions_and_caches_what_it_downloads():
    seen = 0
    for stage in ("chef", "plan", "build"):
        for run in of(stage, "RUN"):
            for command in re.findall(r"cargo (?:install|chef cook|auditable build)[^&]*", run):
                seen += 1
                assert "--locked" in command, command
                assert "--mount=type=cache,target=/usr/local/cargo/registry" in run, run
                assert not re.search(r"--mount=type=cache,target=\S*target", run.replace(",target=/usr", "")), run
    assert seen == 3
    for tool in re.findall(r"cargo install --locked (.*)", "\n".join(commands("chef")))[0].split():
        assert re.match(r"^[\w-]+@\d+\.\d+\.\d+$", tool), tool


def test_dockerignore_is_an_allow_list_without_dead_lines():
    rules = context.ignore_rules()
    assert rules[0] == "*" and all(rule.startswith("!") for rule in rules[1:])
    sent = context.sent_files()
    for rule in rules[1:]:
        path = rule[1:]
        assert any(file == path or file.startswith(path + "/") for file in sent), f"{rule} lets nothing through"
    taken = {"benches/daemon.rs", "tests/it/main.rs", "tests/conformance/producer.rs"}
    for stage in ("build", "runtime"):
        for sources, _ in context.copies(stage):
            for source in sources:
                taken |= {file for file in sent if file == source or file.startswith(source + "/")}
    assert sent == taken, f"sent and used by nothing: {sorted(sent - taken)}"


def test_secrets_and_results_stay_out_of_the_context():
    sent = context.sent_files()
    for path in ("target", "sim-credentials", "deploy", ".git", "README.md"):
        assert not any(file == path or file.startswith(path + "/") for file in sent), path


def problems(folder):
    """What cargo in the plan stage would miss: the manifest must be readable from the files that were sent."""
    command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        return [result.stderr]
    targets = json.loads(result.stdout)["packages"][0]["targets"]
    named = {str(Path(target["src_path"]).relative_to(folder)) for target in targets}
    # A target whose file is not there is an error or silently no target, depending on how its path is known.
    return [path for path in named | set(context.manifest_files()) if path not in named or not (folder / path).is_file()]


def test_the_plan_stage_has_every_file_that_the_manifest_names(tmp_path):
    context.lay_out("plan", tmp_path)
    assert problems(tmp_path) == []


@pytest.mark.parametrize("path", ["benches/daemon.rs", "tests/it/main.rs", "src/main.rs"])
def test_a_missing_file_would_be_found(tmp_path, path):
    context.lay_out("plan", tmp_path)
    (tmp_path / path).unlink()
    assert path in str(problems(tmp_path))
