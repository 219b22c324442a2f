"""Every command: its summary, its heading in the list, and where it is. Nothing is imported before a command is used."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """A command that runs one step; its options are the step's settings."""

    kind: str
    summary: str
    panel: str
    out_help: str = "A .jsonl or .parquet file, or a folder for everything."
    has_out: bool = True
    default_out: str | None = None


class Other(NamedTuple):
    """A command, or a group of commands, written out in the module ``module`` of this package."""

    module: str
    summary: str
    panel: str
    is_group: bool = False


RUNS, FEEDBACK, TRAINING, MEASURING = "Whole runs", "Feedback", "Training", "Measurement"
PEOPLE, SERVING = "Human raters", "Serving"
COMMANDS: dict[str, Verb | Other] = {
    "demo": Other("recipes", "Align a small policy three ways in the built-in lab, and write report.html.", RUNS),
    "run": Other("recipes", "Run a recipe; rerun the same command to resume.", RUNS),
    "check": Other(
        "recipes", "Check a recipe before it runs: calls, cost and time per stage, and every problem.", RUNS
    ),
    "show": Other("recipes", "Show what a run did, or everything about one item.", RUNS),
    "report": Other("audit", "Write summary.json and report.html of a run again.", RUNS),
    "lab": Other("lab", "Build, list and sample the built-in offline world.", RUNS, is_group=True),
    "sample": Verb("sample", "Draw completions from a model.", FEEDBACK),
    "pair": Verb("pair", "Pair completions of one prompt.", FEEDBACK),
    "label": Verb("label", "Label pairs with a judge model.", FEEDBACK),
    "grid": Verb(
        "grid",
        "Label pairs under every combination of judges and prompts.",
        FEEDBACK,
        "A folder for labels and metrics.",
    ),
    "score": Verb("score", "Score completions with a judge model.", FEEDBACK),
    "best-of-n": Verb("best_of_n", "Keep the completion with the highest reward of each prompt.", FEEDBACK),
    "revise": Verb("revise", "Critique and revise responses under a constitution.", FEEDBACK),
    "calibrate": Other(
        "calibrate", "Fit a map from a judge's confidence to its agreement with human labels.", FEEDBACK
    ),
    "standards": Other(
        "standards", "List, check and compare constitutions and judge prompts.", FEEDBACK, is_group=True
    ),
    "train": Other("lazy", "Train on files: sft, reward, dpo, kto, distill, rl.", TRAINING, is_group=True),
    "evaluate": Verb(
        "evaluate", "Measure a labelled file: agreement, calibration, win rate.", MEASURING, has_out=False
    ),
    "audit": Verb(
        "audit",
        "Audit judges: bias, agreement with human labels, attacks.",
        MEASURING,
        "A folder for findings, report and journal.",
        default_out="runs/audit",
    ),
    "audit verify": Other("audit", "Verify that nothing in a run has changed since it was written.", MEASURING),
    "audit diff": Other("audit", "Compare two audits: verdicts that flipped, every probe before and after.", MEASURING),
    "probe": Verb(
        "probe",
        "Probe policies: sycophancy, pressure, injections, red team.",
        MEASURING,
        "A folder for responses, findings, report and journal.",
        default_out="runs/probe",
    ),
    "staleness": Verb(
        "staleness",
        "Measure how far a policy has moved from the one whose samples were labelled.",
        MEASURING,
        "A folder for samples and metrics.",
    ),
    "compare": Verb(
        "compare",
        "Compare policies on held-out prompts.",
        MEASURING,
        "A folder for responses, preferences, metrics and report.",
    ),
    "rejudge": Verb(
        "rejudge",
        "Judge a saved comparison or label run again by another judge.",
        MEASURING,
        "A folder for preferences, metrics and report.",
    ),
    "plan": Other("plan", "Plan whose feedback to use: RLHF, RLAIF or a hybrid, and its cost.", MEASURING),
    "monitor": Other("monitor", "Watch a judge and a policy after deployment.", MEASURING, is_group=True),
    "dossier": Other(
        "dossier", "Decide on a policy: requirements, evidence, waivers, a signature.", MEASURING, is_group=True
    ),
    "draw": Other("rate", "Draw a random sample for raters; every drawn row keeps its sampling weight.", PEOPLE),
    "rate": Other("rate", "Open the rating page, then export the ratings and their agreement.", PEOPLE),
    "ratings export": Other("rate", "Write ratings for Argilla, Label Studio or as CSV.", PEOPLE),
    "ratings import": Other("rate", "Import ratings from Argilla, Label Studio or a CSV file.", PEOPLE),
    "serve": Other("serve", "Serve a reward over HTTP for verl, OpenRLHF, TRL and others.", SERVING),
}
TRAIN_COMMANDS: dict[str, Verb | Other] = {
    "sft": Verb("sft", "Fine-tune a model on completions.", TRAINING, "The model folder to write."),
    "reward": Verb("reward_model", "Fit a reward model on soft labels.", TRAINING, "The model folder to write."),
    "dpo": Verb("dpo", "Optimise a policy directly on soft preferences.", TRAINING, "The model folder to write."),
    "kto": Verb("kto", "Optimise a policy on single verdicts.", TRAINING, "The model folder to write."),
    "distill": Verb("distill", "Distil a teacher into a policy.", TRAINING, "The model folder to write."),
    "rl": Verb("rl", "Train a policy by policy gradient with a KL penalty.", TRAINING, "The model folder to write."),
}
EXAMPLES = {
    "demo": "aifeedback demo --short -o runs/demo",
    "run": "aifeedback run rlaif --set judge=hf:JUDGE --set policy=hf:SFT --set prompts=prompts.jsonl",
    "check": "aifeedback check rlaif --set judge=hf:JUDGE --set policy=hf:SFT --set prompts=prompts.jsonl",
    "show": "aifeedback show runs/demo",
    "report": "aifeedback report runs/demo",
    "lab list": "aifeedback lab list",
    "lab sample": "aifeedback lab sample 3",
    "lab pairs": "aifeedback lab pairs 500 -o pairs.jsonl",
    "lab build": "aifeedback lab build judge -o models",
    "lab raters": "aifeedback lab raters comparison -o ratings",
    "sample": "aifeedback sample --model hf:DIR --prompts prompts.jsonl -o samples.jsonl",
    "pair": "aifeedback pair --completions samples.jsonl -o pairs.jsonl",
    "label": "aifeedback label --data pairs.jsonl --judge openai:NAME --base-url http://localhost:8000/v1 -o labels.jsonl",
    "grid": "aifeedback grid --data pairs.jsonl --judge hf:DIR --prompt summary-base --prompt summary-detailed -o grid",
    "score": "aifeedback score --data samples.jsonl --judge hf:DIR -o scores.jsonl",
    "best-of-n": "aifeedback best-of-n --data samples.jsonl --reward rm:reward-model -o best.jsonl",
    "revise": "aifeedback revise --data samples.jsonl --model hf:DIR --constitution harmless -o revised.jsonl",
    "calibrate": "aifeedback calibrate --data labels.jsonl -o mine",
    "standards list": "aifeedback standards list",
    "standards show": "aifeedback standards show harmless > mine.yaml",
    "standards check": "aifeedback standards check mine.yaml --judge hf:DIR",
    "standards diff": "aifeedback standards diff harmless mine.yaml",
    "standards log": 'aifeedback standards log mine.yaml --by "N. N." --why "clearer wording"',
    "train sft": "aifeedback train sft --model hf:DIR --data demonstrations.jsonl -o policy",
    "train reward": "aifeedback train reward --model hf:DIR --data labels.jsonl --heldout human.jsonl -o reward-model",
    "train dpo": "aifeedback train dpo --model hf:DIR --data labels.jsonl -o policy",
    "train kto": "aifeedback train kto --model hf:DIR --data scored.jsonl -o policy",
    "train distill": "aifeedback train distill --policy hf:DIR --teacher hf:JUDGE --prompts prompts.jsonl -o policy",
    "train rl": "aifeedback train rl --policy hf:DIR --prompts prompts.jsonl --reward rm:reward-model -o policy",
    "evaluate": "aifeedback evaluate --data labels.jsonl",
    "audit": "aifeedback audit openai:NAME --data pairs.jsonl -o audit",
    "audit verify": "aifeedback audit verify runs/demo",
    "audit diff": "aifeedback audit diff runs/audit-may runs/audit-june --fail-on changed",
    "probe": "aifeedback probe before=hf:DIR after=hf:NEW --judge openai:NAME -o probes",
    "staleness": "aifeedback staleness --policy hf:NEW --drawn-from hf:DIR --prompts prompts.jsonl -o staleness",
    "rejudge": "aifeedback rejudge runs/comparison --judge openai:OTHER -o comparison-other",
    "compare": "aifeedback compare before=hf:DIR after=hf:NEW --prompts test.jsonl --judge hf:JUDGE -o comparison",
    "plan": "aifeedback plan --labels 20000 --judge-agreement 0.72",
    "monitor init": "aifeedback monitor init watch --judge openai:NAME --golden golden.jsonl",
    "monitor run": "aifeedback monitor run watch",
    "monitor show": "aifeedback monitor show watch",
    "monitor note": "aifeedback monitor note watch --kind change --text 'judge updated'",
    "dossier init": "aifeedback dossier init release --policy hf:DIR --for 'support, English' --owner 'N. N.'",
    "dossier add": "aifeedback dossier add release runs/audit runs/compare",
    "dossier check": "aifeedback dossier check release",
    "dossier sign": "aifeedback dossier sign release --as 'N. N.' --role lead --decision ship",
    "dossier build": "aifeedback dossier build release",
    "draw": "aifeedback draw labels.jsonl -n 300 -o sample.jsonl",
    "rate": "aifeedback rate pairs.jsonl -o ratings --rater anna --rater ben",
    "ratings export": "aifeedback ratings export --data pairs.jsonl --ratings ratings --format argilla -o argilla.json",
    "ratings import": "aifeedback ratings import export.json --data pairs.jsonl -o ratings",
    "serve": "aifeedback serve rm:reward-model --port 8300",
}
"""One per command, printed at the end of its help."""
