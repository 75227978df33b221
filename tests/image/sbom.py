"""Compares the list of parts with the lock file, and with what the binary says of itself.

Usage: sbom.py <CycloneDX file> [<binary>]. The binary carries its own list when cargo-auditable has built it.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def fail(text):
    raise SystemExit(f"sbom: {text}")


def embedded(binary):
    """The packages that the section .dep-v0 of the binary names, which are linked into it."""
    with tempfile.NamedTemporaryFile() as section:
        subprocess.run(["objcopy", "-O", "binary", "--only-section=.dep-v0", "--set-section-flags=.dep-v0=alloc", binary, section.name], check=True)
        data = Path(section.name).read_bytes()
    if not data:
        fail(f"{binary} has no list of its parts; it was not built by cargo auditable")
    packages = json.loads(zlib.decompress(data))["packages"]
    return {(package["name"], package["version"]) for package in packages if package.get("kind", "runtime") == "runtime"}


def main():
    bom = json.loads(Path(sys.argv[1]).read_text())
    if bom.get("bomFormat") != "CycloneDX" or not re.match(r"1\.\d+$", bom.get("specVersion", "")):
        fail("not a CycloneDX document")
    parts = {(part["name"], part["version"]): part for part in bom["components"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    locked = {(package["name"], package["version"]): package.get("checksum") for package in lock}
    if strange := sorted(set(parts) - set(locked)):
        fail(f"named and not locked: {strange[:5]}")
    for key, part in parts.items():
        # A plus may stand in a package URL as it is, or escaped.
        if not part.get("purl", "").replace("%2B", "+").startswith(f"pkg:cargo/{key[0]}@{key[1]}"):
            fail(f"{key} has the package URL {part.get('purl')}")
        if not part.get("licenses"):
            fail(f"{key} has no licence")
        hashes = [entry["content"] for entry in part.get("hashes", []) if entry["alg"] == "SHA-256"]
        if hashes != [locked[key]]:
            fail(f"{key} has the hashes {hashes}, the lock file {locked[key]}")
    own = bom["metadata"]["component"]
    if own["name"] != "baton-jumpcloud":
        fail(f"it describes {own['name']}")
    print(f"sbom: ok: {len(parts)} parts of {own['name']} {own['version']}, each locked, with checksum and licence")
    if len(sys.argv) > 2:
        linked = embedded(sys.argv[2]) - {(own["name"], own["version"])}
        if missing := sorted(linked - set(parts)):
            fail(f"linked and not listed: {missing[:5]}")
        if len(linked) < 100:
            fail(f"the binary names only {len(linked)} parts")
        print(f"sbom: ok: all {len(linked)} parts that are linked into the binary are listed")


if __name__ == "__main__":
    main()
