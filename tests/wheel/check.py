"""What a fresh installation can do: `python check.py base|local BIN`, where BIN is the bin folder of its environment.

base: without any extra, `--help`, labels and an audit through a server, and one line for each library that is missing.
local: with the extra `local`, the short demo. Uses the standard library alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MISSING = {
    "demo": "aifeedback[local]",
    "check demo": "aifeedback[local]",
    "run pairs --set data=pairs.jsonl --set judge=hf:J --set policy=hf:P": "aifeedback[local]",
    "train sft --model lab:base --data labels.jsonl -o out": "aifeedback[local]",
    "train reward --model lab:base --data labels.jsonl -o out": "aifeedback[local]",
    "train dpo --model lab:base --data labels.jsonl -o out": "aifeedback[local]",
    "train rl --policy lab:base --prompts pairs.jsonl --reward rm:R -o out": "aifeedback[local]",
    "train rl --policy lab:base --prompts pairs.jsonl --reward rm:R --engine trl -o out": "aifeedback[local,hub,trl]",
    "label --data pairs.jsonl --judge lab:judge -o out.jsonl": "aifeedback[local]",
    "label --data pairs.jsonl --judge fake:quality --engine ray -o out.jsonl": "aifeedback[hub,ray]",
    "label --data pairs.jsonl --judge fake:quality -o out.parquet": "aifeedback[hub]",
    "label --data pairs.jsonl --judge fake:quality --format dataset -o out": "aifeedback[hub]",
    "label --data owner/name --judge fake:quality -o out.jsonl": "aifeedback[hub]",
    "sample --model lab:base --prompts pairs.jsonl -o out.jsonl": "aifeedback[local]",
    "score --data samples.jsonl --judge lab:judge -o out.jsonl": "aifeedback[local]",
    "revise --data samples.jsonl --model lab:judge --constitution harmless -o out.jsonl": "aifeedback[local]",
    "audit lab:judge --data pairs.jsonl -o out": "aifeedback[local]",
    "compare a=lab:base b=samples.jsonl --prompts pairs.jsonl --judge fake:quality -o out": "aifeedback[local]",
    "standards check harmless --judge lab:judge": "aifeedback[local]",
    "lab build base -o out": "aifeedback[local]",
    "rate pairs.jsonl --rater anna -o out": "aifeedback[web]",
    "serve judge:fake:quality": "aifeedback[web]",
}
"""Command → what the line of its error says to install."""
FREE = (
    "--version",
    "lab list",
    "standards list",
    "plan --judge-agreement 0.8",
    "evaluate --data labels.jsonl",
)
"""Commands that need no extra."""


LONGEST_S = 900
"""No command here takes longer on a slow machine; one that does has started what it should have refused."""


def run(binary: Path, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"COLUMNS": "200"}
    return subprocess.run(
        [binary / "aifeedback", *command.split()],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST_S,
    )  # fmt: skip


def require(ran: subprocess.CompletedProcess[str], code: int = 0) -> str:
    output = ran.stdout + ran.stderr
    if ran.returncode != code or "Traceback" in output:
        sys.exit(f"{' '.join(map(str, ran.args))}\nended with {ran.returncode}, not {code}:\n{output}")
    return output


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


FACTS = """
import re
from importlib.metadata import files, metadata
about = metadata("aifeedback")
assert any(file.name == "py.typed" for file in files("aifeedback"))
assert {"Development Status :: 3 - Alpha", "Typing :: Typed"} <= set(about.get_all("Classifier"))
assert set(about.get_all("Provides-Extra")) >= {"local", "web", "hub", "ray", "trl", "track", "postgres", "docs", "dev", "all"}
assert "## Install" in about.get_payload()
assert not re.search(r"\\]\\((?!https?:|#)", about.get_payload()), "a relative link"
from importlib.util import find_spec
assert find_spec("torch") is None, "this environment has more than the base dependencies"
"""


def base(binary: Path, folder: Path) -> None:
    subprocess.run([binary / "python", "-c", FACTS], cwd=folder, check=True)
    require(run(binary, "--help", folder))
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run(binary, "--help", folder)
        times.append(time.perf_counter() - started)
    print(f"aifeedback --help: {min(times):.2f} s")
    pairs = [
        {"prompt": f"Question {i}?", "first": f"Yes, {i}.", "second": f"A long response, number {i}.", "label": 2}
        for i in range(20)
    ]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in pairs))
    samples = [{"prompt": row["prompt"], "completion": row["first"]} for row in pairs]
    (folder / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in samples))
    server = subprocess.Popen([sys.executable, HERE / "stub.py"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        require(run(binary, f"label --data pairs.jsonl --judge openai:stub --base-url {url} -o labels.jsonl", folder))
        labels = rows(folder / "labels.jsonl")
        assert len(labels) == 20, labels
        assert all(float(str(row["p_first"])) < 0.5 for row in labels), labels
        require(run(binary, f"audit openai:stub --data pairs.jsonl --base-url {url} --n 10 -o audit", folder))
        assert (folder / "audit" / "report.html").is_file()
        print("labelled and audited through a server")
    finally:
        server.terminate()
        server.wait()
    for command in FREE:
        require(run(binary, command, folder))
    before = sorted(folder.iterdir())
    wrong = []
    for command, extra in MISSING.items():
        ran = run(binary, command, folder)
        output = ran.stdout + ran.stderr
        if ran.returncode != 2 or f"pip install '{extra}'" not in output or output.count("pip install") != 1:
            wrong.append(
                f"aifeedback {command}\nshould end with 2 and say once how to install {extra}:\n{output[-1500:]}"
            )
    if wrong:
        sys.exit("\n\n".join(wrong))
    left = [path for path in sorted(folder.iterdir()) if path not in before]
    if left:
        sys.exit(f"commands that could not start left {left}")
    print(f"{len(MISSING)} commands name the extra that they need")
    ran = subprocess.run([binary / "python", "-c", "import aifeedback as af; af.Judge('fake:quality'); af.Judge('lab:judge')"],
                         cwd=folder, capture_output=True, text=True)  # fmt: skip
    assert "MissingExtra: torch, transformers are not installed" in ran.stderr, ran.stderr


def local(binary: Path, folder: Path) -> None:
    started = time.perf_counter()
    require(run(binary, "demo --short -o demo", folder))
    assert (folder / "demo" / "report.html").is_file()
    print(f"aifeedback demo --short: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        {"base": base, "local": local}[sys.argv[1]](Path(sys.argv[2]).resolve(), Path(made))
