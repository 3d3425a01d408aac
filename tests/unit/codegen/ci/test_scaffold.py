"""What `--init` writes is valid by the published schemas, its scripts are clean, and arguments arrive as they were."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cutset.codegen.ci.scaffold import scaffold
from cutset.errors import UsageError

ROOT = Path(__file__).resolve().parents[4]
TOOLS = Path(sys.executable).parent
WORDS = ["--fail-on=cost=10%", "--", 'models/it\'s a "model" $(x) `y`.onnx', "b.onnx"]
TEXTS = scaffold({"cpu": WORDS, "gpu": ["--target=cuda:0", *WORDS]}, baseline="base line.json", output="out")
PLAIN = scaffold({"cpu": ["--", "my model.onnx"], "gpu": ["--", "my model.onnx"]}, baseline="b.json", output="out")
GITHUB, GITLAB = ".github/workflows/cutset.yml", ".gitlab/cutset.gitlab-ci.yml"


def run_tool(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        (TEXTS[GITHUB], "vendor.github-workflows"),
        (TEXTS[GITLAB], "vendor.gitlab-ci"),
        ((ROOT / "action.yml").read_text("utf-8"), "vendor.github-actions"),
    ],
    ids=["workflow", "gitlab", "action"],
)
def test_the_published_schemas(text, schema, tmp_path):
    path = tmp_path / "file.yml"
    path.write_text(text, "utf-8")
    transform = ["--data-transform", "gitlab-ci"] if schema == "vendor.gitlab-ci" else []
    check = [str(TOOLS / "check-jsonschema"), "--builtin-schema", schema, *transform, str(path)]
    done = run_tool(*check)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(text.replace("runs-on", "runs-onn").replace("script:", "scrip:").replace("using:", "usin:"), "utf-8")
    assert run_tool(*check).returncode != 0


def scripts(texts):
    github, gitlab = yaml.safe_load(texts[GITHUB]), yaml.safe_load(texts[GITLAB])
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    steps = [*(step for job in github["jobs"].values() for step in job["steps"]), *action["runs"]["steps"]]
    found = [step["run"] for step in steps if "run" in step]
    return found + [line for job in gitlab.values() for part in ("script", "after_script") for line in job.get(part, ())]


@pytest.mark.parametrize("script", scripts(PLAIN))
def test_shellcheck(script):
    done = run_tool(str(TOOLS / "shellcheck"), "--shell=bash", "-", input=script)
    assert done.returncode == 0, done.stdout
    assert "${{" not in script, "an expression in a script is an injection"


@pytest.mark.parametrize("update", ["", "--update"])
def test_arguments_arrive_as_they_were(update, tmp_path):
    """The command's line is run by a real shell with a stand-in for `cutset` that writes its arguments."""
    tool = tmp_path / "cutset"
    tool.write_text('#!/bin/sh\nfor word in "$@"; do printf \'%s\\n\' "$word"; done\n')
    tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin", "CUTSET_UPDATE": update}
    for script in (text for text in scripts(TEXTS) if text.startswith("cutset ci")):
        done = run_tool("bash", "-euc", script, env=environment)
        words = done.stdout.splitlines()
        extra = ["--target=cuda:0"] if "cuda:0" in script else []
        before = ["ci", *([update] if update else []), "--cache", ".cutset/cache", "--comment", ".cutset/comment.md"]
        assert words == [*before, *extra, *WORDS]


def test_the_action_passes_lines_as_words(tmp_path):
    """The composite action's script with a stand-in for `cutset`."""
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    script = next(step["run"] for step in action["runs"]["steps"] if "cutset ci" in step.get("run", ""))
    tool = tmp_path / "cutset"
    tool.write_text('#!/bin/sh\nfor word in "$@"; do printf \'%s\\n\' "$word"; done\n')
    tool.chmod(0o755)
    given = {"MODELS": "a b.onnx\n\n$(c).onnx\n", "ARGUMENTS": "--target=t4\n", "BASELINE": "b.json", "OUTPUT": "o"}
    done = run_tool("bash", "-euc", script, env=given | {"PATH": f"{tmp_path}:/bin:/usr/bin"})
    expected = "ci --baseline b.json --output o --cache .cutset/cache --target=t4 -- 'a b.onnx' '$(c).onnx'"
    assert done.stdout.splitlines() == shlex.split(expected)


@pytest.mark.parametrize("word", ["a\nb", "${{ secrets.TOKEN }}", "a\x1b"])
def test_what_no_quotes_tame_is_refused(word):
    with pytest.raises(UsageError, match="cannot be written into a workflow"):
        scaffold({"cpu": [word]}, baseline="b", output="o")
    with pytest.raises(UsageError, match="cannot be written into a workflow"):
        scaffold({"cpu": []}, baseline=word, output="o")
