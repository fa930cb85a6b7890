"""The project as a whole: its files run anywhere, its scripts parse, its links lead somewhere."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from molecule.util import dict2args

from landscape import ROOT

# Put together here, so that this file does not hold what it looks for.
HOSTS = ["deb.debian" + ".org", "pypi" + ".org", "files.python" + "hosted", "registry.npm" + "js", "docker" + ".io/"]
MACHINE = ["/" + "work/", "/" + "root/", "/home/" + "claude"]


def git(*words: str) -> list[str]:
    result = subprocess.run(["git", "-C", str(ROOT), *words, "-z"], capture_output=True, text=True, check=True)
    return [name for name in result.stdout.split("\0") if name]


def files() -> list[Path]:
    """Return what is in the repository, or would be with the next commit."""
    names = git("ls-files", "--cached", "--others", "--exclude-standard")
    return [path for path in (ROOT / name for name in names) if path.is_file() and not path.is_symlink()]


@functools.cache
def texts() -> dict[str, str]:
    found = {}
    for path in files():
        try:
            found[str(path.relative_to(ROOT))] = path.read_text()
        except UnicodeDecodeError:
            continue
    return found


@functools.cache
def scripts() -> list[str]:
    """Return the shell scripts; templates of such are looked at where they are rendered."""
    found = [name for name, text in texts().items() if re.match(r"#!.*\b(sh|bash|dash)\b", text)]
    return [name for name in found if not name.endswith(".j2")]


def test_there_are_files():
    assert len(texts()) > 100
    assert {"molecule/lab/setup", "examples/test"} <= set(scripts())


@pytest.mark.parametrize("word", HOSTS + MACHINE)
def test_nothing_of_this_machine(word):
    """Hosts of package registries and paths of the machine that it was written on: both are the reader's to choose."""
    bounded = re.compile(rf"(?<![\w.-]){re.escape(word)}")
    assert [name for name, text in texts().items() if bounded.search(text)] == []


def test_shell_scripts_parse():
    """Each by the shell that its first line names."""
    broken = []
    for name in scripts():
        shell = "bash" if "bash" in (ROOT / name).read_text().splitlines()[0] else "sh"
        result = subprocess.run([shell, "-n", str(ROOT / name)], capture_output=True, text=True, check=False)
        if result.returncode:
            broken.append(result.stderr)
    assert broken == []


def test_scripts_may_be_run():
    """Those that are run from here; a role's are given their mode by it."""
    ours = [name for name in scripts() if "/files/" not in name]
    assert [name for name in ours if not (ROOT / name).stat().st_mode & 0o111] == []


def test_scripts_stop_at_an_error():
    assert [name for name in scripts() if not re.search(r"(?m)^set -\w*e", texts()[name])] == []


def test_python_without_a_name_that_says_so_is_checked_too():
    included = set(tomllib.loads((ROOT / "ruff.toml").read_text())["extend-include"])
    unnamed = {name for name, text in texts().items() if re.match(r"#!.*python", text) and Path(name).suffix == ""}
    assert unnamed == included


def test_what_failed_in_molecule_is_found_in_its_log(tmp_path):
    """It runs pytest from the scenario's own folder, and draws a line beside what it prints."""
    log = tmp_path / "test.log"
    log.write_text(
        "\x1b[2m\x1b[33m│\x1b[0m ../../tests/fleet/test_hosts.py::test_clock[db1] \x1b[32mPASSED\x1b[0m\n"
        "\x1b[2m\x1b[33m│\x1b[0m \x1b[1m\x1b[31mE       assert 3 == 0\x1b[0m\n"
        "\x1b[2m\x1b[33m│\x1b[0m \x1b[31mFAILED\x1b[0m "
        "../../tests/operations/test_rolling.py::\x1b[1mtest_reboot\x1b[0m - assert 3 == 0\n"
        "\x1b[2m\x1b[33m│\x1b[0m FAILED - RETRYING: [db1]: cluster | Wait (60 retries left).\n"
        "[db2]: FAILED! => fatal: \n"
    )
    result = subprocess.run([ROOT / ".ci/failures", log], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "E       assert 3 == 0",
        "[db2]: FAILED! => fatal: ",
        "FAILED ../../tests/operations/test_rolling.py::test_reboot - assert 3 == 0",
    ]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_what_failed_is_found_beside_a_character_that_is_cut_in_half(tmp_path, locale):
    log = tmp_path / "test.log"
    log.write_text(f"E   {'a' * 195}│\nE   assert 3 == 0\n")
    result = subprocess.run(
        [ROOT / ".ci/failures", log], env={**os.environ, "LC_ALL": locale}, capture_output=True, check=True
    )
    assert [line[:8] for line in result.stdout.splitlines()] == [b"E   aaaa", b"E   asse"]


def targets() -> dict[str, str]:
    """Return the Makefile's targets with what `make help` says of each."""
    text = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"(?m)^([a-z][a-z-]*):(?!=)[^#\n]*(?:## (.*))?$", text))


def test_help_lists_every_target_of_users():
    result = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    listed = re.findall(r"(?m)^  make ([a-z-]+) +(\S.*)$", result.stdout)
    assert dict(listed) == {name: said for name, said in targets().items() if said}
    # These are steps of others, not commands.
    assert {name for name, said in targets().items() if not said} == {"setup", "setup-lab"}
    promised = {"up", "down", "test", "lint", "test-hostless", "status", "logs", "run", "ssh"}
    assert promised <= {name for name, _ in listed}


def test_every_target_is_phony():
    phony = {
        name for line in re.findall(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text()) for name in line.split()
    }
    assert set(targets()) == phony


def test_what_the_makefile_calls_is_there():
    text = (ROOT / "Makefile").read_text()
    called = set(re.findall(r"(?<![\w./$)-])((?:molecule/lab|playbooks|examples|tests)/[\w./-]+)", text)) | {"site.yml"}
    assert {"playbooks/status.yml", "molecule/lab/setup"} <= called
    assert sorted(name for name in called if not (ROOT / name).exists()) == []


def test_yaml_parses():
    broken = []
    for name, text in texts().items():
        if name.endswith((".yml", ".yaml")):
            try:
                list(yaml.safe_load_all(text))
            except yaml.YAMLError as error:
                broken.append(f"{name}: {error}")
    assert broken == []


def test_molecule_scenarios_find_their_playbooks():
    scenarios = sorted(ROOT.glob("molecule/*/molecule.yml"))
    assert scenarios
    for path in scenarios:
        content = yaml.safe_load(path.read_text()) or {}
        playbooks = content.get("ansible", {}).get("playbooks", {})
        assert [name for name in playbooks.values() if not (path.parent / name).exists()] == [], path


@pytest.mark.parametrize("path", sorted(ROOT.glob("molecule/*/molecule.yml")), ids=lambda path: path.parent.name)
def test_molecule_scenarios_call_their_verifier(path):
    """Molecule takes no number where a command's word belongs: it ends with a TypeError once the lab stands."""
    options = (yaml.safe_load(path.read_text()) or {}).get("verifier", {}).get("options", {})
    shlex.join(dict2args(options))


def links() -> list[tuple[str, str]]:
    """Return the links of all pages to other places of the project."""
    found = []
    for name, text in texts().items():
        if name.endswith(".md"):
            prose = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", text)
            found += [(name, link) for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    return found


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", path.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    broken = []
    for name, link in links():
        target, _, anchor = link.partition("#")
        path = ROOT / Path(name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(f"{name}: {link}")
    assert broken == []


def test_pages_name_what_is_there():
    """A path of the project between backticks exists; a word in capitals stands for a name."""
    places = "roles|playbooks|plugins|services|inventory|molecule|tests|examples|docs|templates"
    broken = []
    for name, text in texts().items():
        if name.startswith("docs/") or name == "README.md":
            for path in re.findall(rf"`((?:{places})/[\w./@-]+)`", text):
                if not (ROOT / path).exists() and not re.search(r"/[A-Z]{3,}", path):
                    broken.append(f"{name}: {path}")
    assert broken == []


def test_rows_of_tables_have_as_many_cells_as_their_heads():
    broken = []
    for name, text in texts().items():
        if name.endswith(".md"):
            cells = 0
            for number, line in enumerate(text.splitlines(), 1):
                found = len(re.findall(r"(?<!\\)\|", line)) if line.lstrip().startswith("|") else 0
                if cells and found not in (0, cells):
                    broken.append(f"{name}:{number}")
                cells = found
    assert broken == []


def test_whatever_operations_are_told_has_a_default():
    """Somebody may run a playbook without make, and the harness does: what is not said must not be undefined."""
    told = set(
        re.findall(
            r'\b((?:certificates|database_drop|switchover|restart|logs|run|status|query|queries|rotate|restore|site|backups?|purge)_\w+)"?[:=](?!=)',
            (ROOT / "Makefile").read_text(),
        )
    )
    told.remove("run_command")  # an environment variable
    assert told == set(yaml.safe_load((ROOT / "playbooks/group_vars/all/operations.yml").read_text()))


def test_mitogen_gives_a_dead_host_up_as_soon_as_ansible_does():
    told = yaml.safe_load((ROOT / "playbooks/group_vars/all/mitogen.yml").read_text())
    ssh = re.search(
        r"(?m)^ssh_args = .*ServerAliveInterval=(\d+) .*ServerAliveCountMax=(\d+)", (ROOT / "ansible.cfg").read_text()
    )
    assert (told["mitogen_ssh_keepalive_interval"], told["mitogen_ssh_keepalive_count"]) == tuple(
        map(int, ssh.groups())
    )


def test_no_recipe_breaks_a_line_within_quotes():
    """The shell would keep the backslash there, and who gets the text would not understand it."""
    broken, quotes = [], 0
    for line in (ROOT / "Makefile").read_text().splitlines():
        if not line.startswith("\t"):
            quotes = 0
            continue
        quotes += line.replace("'\\''", "").count("'")
        if line.endswith("\\") and quotes % 2:
            broken.append(line.strip())
        if not line.endswith("\\"):
            quotes = 0
    assert broken == []
