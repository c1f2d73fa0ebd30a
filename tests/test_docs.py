"""The guides under docs/: their commands exist with their options, and the example workflow is one."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import run_bench

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
WORKFLOW = DOCS / "nightly.yml"
ENDS = {"||", "&&", "|", ";", ">", ">>", "2>&1", "}"}  # where a shell's next word is no argument any more


def workflow() -> dict[Any, Any]:
    found = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def steps() -> list[dict[str, Any]]:
    return [step for job in workflow()["jobs"].values() for step in job["steps"]]


def commands(text: str) -> list[list[str]]:
    """The words behind each run_bench.py of a shell's lines, up to what the shell takes for itself."""
    found = []
    for line in text.splitlines():
        if "run_bench.py " in line:
            words = shlex.split(line.split("run_bench.py ", 1)[1], comments=True)
            stop = next((place for place, word in enumerate(words) if word in ENDS), len(words))
            found.append(words[:stop])
    return found


def blocks(path: Path) -> str:
    """The indented and the fenced code of a guide."""
    text = path.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return "\n".join([*fenced, *re.findall(r"^ {4,}\S.*$", text, re.M)])


def check(words: list[str]) -> None:
    """Read the words as the program does, without doing anything; a wrong one raises."""
    program: Any = typer.main.get_command(run_bench.app)
    name, *rest = words
    assert name in program.commands, f"there is no command {name}"
    program.commands[name].make_context(name, rest)


@pytest.mark.parametrize(("name", "least"), [("nightly.md", 5), ("citing.md", 5)])
def test_the_commands_of_a_guide_exist(name: str, least: int):
    found = commands(blocks(DOCS / name))
    assert len(found) >= least
    for words in found:
        check(words)


@pytest.mark.parametrize("line", ["run_bench.py nightyl smoke", "run_bench.py nightly --advise", "run_bench.py cite"])
def test_a_command_that_does_not_exist_is_found(line: str):
    with pytest.raises(Exception, match=r"no command|No such option|Missing parameter"):
        check(commands(line)[0])


def test_links_between_the_guides_lead_to_files():
    for path in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_workflow_runs_commands_that_exist():
    found = [words for step in steps() for words in commands(step.get("run", ""))]
    assert [words[:2] for words in found] == [["nightly", "smoke"], ["nightly", "smoke"]]
    for words in found:
        check(words)


def test_the_workflow_only_advises_on_pull_requests():
    by_event = {step["if"]: step["run"] for step in steps() if "if" in step and "run" in step}
    assert "--advisory" in by_event["github.event_name == 'pull_request'"]
    assert "--advisory" not in by_event["github.event_name != 'pull_request'"]


def test_the_workflow_keeps_what_a_night_wrote_even_after_an_alarm():
    (kept,) = (step for step in steps() if "upload-artifact" in step.get("uses", ""))
    (default,) = (one for one in nightly_options() if one.name == "folder")
    assert kept["if"] == "always()" and kept["with"]["path"] == str(default.default)


def test_the_workflow_starts_at_night_without_secrets_or_rights_to_write():
    found = workflow()
    events = found.get("on") or found[True]  # YAML 1.1 reads the word on as a truth value
    assert re.fullmatch(r"\d+ \d+ \* \* \*", events["schedule"][0]["cron"]) and "pull_request" in events
    assert found["permissions"] == {"contents": "read"}
    assert "secrets" not in WORKFLOW.read_text(encoding="utf-8").replace("no secrets", "")
    for script in (step["run"] for step in steps() if step.get("run", "").startswith(".ci/")):
        assert (ROOT / script).is_file()


def nightly_options() -> list[Any]:
    program: Any = typer.main.get_command(run_bench.app)
    return list(program.commands["nightly"].params)
