"""`make environment`, and an environment outside of the clone: made, filled in, validated, rendered."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from landscape import ROOT, Landscape, problems

PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
# The blocks of docs/your-own-service.md; the first is a whole service.
BLOCKS = re.findall(r"(?ms)^```yaml\n(.*?)^```", (ROOT / "docs/your-own-service.md").read_text())


def ansible(*words: str | Path, home: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run ansible-playbook in the project, for a user whose home is elsewhere."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("XDG_CONFIG_HOME", "VAULT_PASSWORD")}
    return subprocess.run(
        [PLAYBOOK, *words],
        cwd=ROOT,
        env=inherited | {"HOME": str(home), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "1000"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def make(root: Path, name: str, home: Path, **variables: str) -> subprocess.CompletedProcess:
    """Make an environment as the Makefile does."""
    extra = f'{{"environment_name": "{name}", "environment_directory": "{root}"}}'
    words = ("--inventory=localhost,", "playbooks/environment.yml", f"--extra-vars={extra}")
    return ansible(*words, home=home, **variables)


def message(done: subprocess.CompletedProcess) -> str:
    """Return what a failed run says, its lines joined."""
    assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> set[str]:
    """Return all files below a folder, and links."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def secrets(environment: Path, password: str) -> dict:
    """Return what the vault of an environment holds."""
    vault = (environment / "group_vars/all/vault.yml").read_bytes()
    return yaml.safe_load(VaultLib([("default", VaultSecret(password.encode()))]).decrypt(vault))


@dataclass(frozen=True)
class Made:
    """An environment that was made: its folder, its user's home, its vault's password, and what was printed."""

    path: Path
    home: Path
    password: str
    printed: str


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """An environment as `make environment NAME=qa DIR=...` leaves it."""
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("outside") / "ops"
    (root / "inventory/.qa.new/group_vars").mkdir(parents=True)
    (root / "inventory/.qa.new/group_vars/half.yml").write_text("cut off")
    done = make(root, "qa", home)
    assert done.returncode == 0, done.stdout + done.stderr
    password = (home / ".config/terrace/ops-qa").read_text().strip()
    return Made(root / "inventory/qa", home, password, done.stdout + done.stderr)


@pytest.fixture
def filled(made, tmp_path) -> Path:
    """A copy of it as its user would fill it in, with a service of their own beside it."""
    root = tmp_path / "shop ops"
    shutil.copytree(made.path.parents[1], root, symlinks=True)
    path = root / "inventory/qa"
    hosts = path / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("ansible_host:\n", "ansible_host: 198.51.100.7\n", 1))
    (path / "group_vars/all/services.yml").write_text("services: {shop: {workers: 2}}\n")
    (root / "services/shop.yml").write_text(BLOCKS[0])
    return path


def test_all_of_it_is_there_and_nothing_else(made):
    assert names(made.path.parents[1]) == {
        ".gitignore",
        "inventory/qa/.vault-password",
        "inventory/qa/hosts.yml",
        "inventory/qa/group_vars/all/main.yml",
        "inventory/qa/group_vars/all/services.yml",
        "inventory/qa/group_vars/all/vault.yml",
        "inventory/qa/group_vars/cache.yml",
        "inventory/qa/group_vars/database.yml",
    }
    assert (made.path.parents[1] / "services").is_dir()
    assert (made.path.parents[1] / ".gitignore").read_text().split() == [".terrace/", ".vault-password"]


def test_its_secrets_are_fresh_encrypted_and_never_printed(made):
    found = secrets(made.path, made.password)
    assert re.fullmatch(r"[A-Za-z0-9]{48}", found["vault_key"])
    assert found["vault_services"] == {}
    assert (made.path / "group_vars/all/vault.yml").read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    for secret in (found["vault_key"], made.password):
        assert secret not in made.printed
        everywhere = [path for root in (made.home, made.path.parents[1]) for path in root.rglob("*") if path.is_file()]
        holders = {path.resolve() for path in everywhere if secret in path.read_text(errors="replace")}
        assert holders == ({made.home / ".config/terrace/ops-qa"} if secret == made.password else set())


def test_its_password_is_kept_closed_and_outside(made):
    kept = made.home / ".config/terrace/ops-qa"
    assert (made.path / ".vault-password").readlink() == kept
    assert (mode(kept), mode(kept.parent)) == (0o600, 0o700)
    assert mode(made.path / "group_vars/all/vault.yml") == 0o600
    assert f"The vault's password is in {kept}." in " ".join(made.printed.replace("''", "'").split())


def test_one_that_is_there_is_refused(made):
    before = {path: path.read_bytes() for path in made.path.rglob("*.yml")}
    refused = message(make(made.path.parents[1], "qa", made.home))
    assert f"{made.path} is there already; choose another NAME, or move it away" in refused
    assert {path: path.read_bytes() for path in made.path.rglob("*.yml")} == before


def test_a_name_that_is_none_is_refused(tmp_path):
    refused = message(make(tmp_path, "../up", tmp_path))
    assert "NAME is '../up'; use a-z, 0-9 and -, and begin with a letter" in refused.replace("''", "'")
    assert not (tmp_path / "inventory").exists()


def make_secrets(environment: Path, home: Path, **variables: str) -> subprocess.CompletedProcess:
    """Make the secrets of an environment as the Makefile does."""
    extra = f'{{"secrets_inventory": "{environment}", "secrets_name": "ops-{environment.name}"}}'
    return ansible("--inventory=localhost,", "playbooks/secrets.yml", f"--extra-vars={extra}", home=home, **variables)


@pytest.fixture
def example(tmp_path) -> Path:
    """A copy of the example that needs two machines."""
    return Path(shutil.copytree(ROOT / "inventory/staging", tmp_path / "ops/inventory/staging"))


def test_a_password_that_is_not_there_is_refused(tmp_path, example):
    refused = message(make_secrets(example, tmp_path, VAULT_PASSWORD=str(tmp_path / "none")))
    assert f"There is no file {tmp_path}/none. VAULT_PASSWORD is a file with the vault's password" in (
        refused.replace("''", "'")
    )
    assert not (example / "group_vars/all/vault.yml").exists()


def test_a_password_that_cannot_be_had_leaves_no_environment(tmp_path):
    script = shutil.which("false")
    failed = message(make(tmp_path, "qa", tmp_path, VAULT_PASSWORD=script))
    assert f"ansible-vault cannot encrypt with the password from {script}" in failed
    assert not (tmp_path / "inventory/qa").exists()


def test_a_script_gives_the_password(tmp_path, example):
    script = tmp_path / "password"
    script.write_text("#!/bin/sh\necho from-a-script\n")
    script.chmod(0o700)
    done = make_secrets(example, tmp_path, ANSIBLE_VAULT_PASSWORD_FILE=str(script))
    assert done.returncode == 0, done.stdout
    assert len(secrets(example, "from-a-script")["vault_key"]) == 48
    assert (example / ".vault-password").readlink() == script
    assert not (tmp_path / ".config").exists()


def test_what_is_to_be_filled_in_is_named(made):
    assert problems(made.path, made.password, vault_key=None, vault_services=None) == [
        f"{made.path}/hosts.yml: the host 'server1' has no address; fill in its ansible_host"
    ]


def test_filled_in_it_is_a_whole_landscape(made, filled):
    found = Landscape(filled, vault=made.password, vault_key=None, vault_services=None)
    assert problems(filled, made.password, vault_key=None, vault_services=None) == []
    assert found.value("server1", "vault_key") == secrets(filled, made.password)["vault_key"]
    members = found.value("server1", "topology_members")
    assert set(found.value("server1", "group_names")) == {group for group, hosts in members.items() if hosts}
    roles = {file.role for file in found.files}
    assert {"haproxy", "pgbouncer", "patroni", "etcd", "redis", "redis_sentinel", "python_service"} <= roles
    outside = filled.parents[1]
    assert Path(found.value("server1", "releases_directory")) == outside / ".terrace/releases"
    assert Path(found.value("server1", "releases_source_directory")) == outside
    assert Path(found.value("server1", "topology_services_directory")) == outside / "services"
    assert Path(found.value("server1", "pki_authority_directory")) == filled / ".pki"
    assert found.value("server1", "pki_authority_name") == "Terrace qa"


def test_every_key_that_the_page_shows_is_right(made, filled):
    """All of its blocks put together are one service, and the override of an environment."""
    shown = [yaml.safe_load(block) for block in BLOCKS]
    [override] = [block["services"] for block in shown if "services" in block]
    whole = {key: value for block in shown if "services" not in block for key, value in block.items()}
    assert set(whole) >= {"source", "health", "database", "cache", "environment", "needs", "processes", "schedule"}
    services = filled.parents[1] / "services"
    (services / "shop.yml").write_text(yaml.safe_dump(whole))
    (services / "users.yml").write_text(yaml.safe_dump(shown[0] | {"port": 8011, "routes": [{"path": "/users"}]}))
    given = {"vault_services": {"shop": dict.fromkeys(whole["secrets"], "f0e1d2c3b4a5")}}
    found = Landscape(filled, vault=made.password, vault_key=None, services=override | {"users": {}}, **given)
    assert problems(filled, made.password, vault_key=None, services=override | {"users": {}}, **given) == []
    shop = found.value("server1", "topology_services")[0]
    assert (shop["workers"], shop["environment"]) == (8, {"LOG_LEVEL": "warning", "FEATURE_X": True})


def test_without_services_it_renders_too(made, tmp_path):
    """As it is before the first service: every daemon's configuration is still one."""
    path = tmp_path / "ops/inventory/qa"
    shutil.copytree(made.path.parents[1], tmp_path / "ops", symlinks=True)
    hosts = path / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("ansible_host:\n", "ansible_host: 198.51.100.7\n", 1))
    empty = Landscape(path, vault=made.password, vault_key=None, vault_services=None)
    assert problems(path, made.password, vault_key=None, vault_services=None) == []
    assert len(empty.files) > 20


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_ansible_itself_takes_it_from_outside(made, filled, place):
    inventory = {"absolute": filled, "relative": os.path.relpath(filled, ROOT)}[place]
    password = f"--vault-password-file={filled / '.vault-password'}"
    done = ansible(
        f"--inventory={inventory}", password, "playbooks/validate.yml", "-e", "validate_sources=false", home=made.home
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"server1 +: ok=\d", done.stdout)


def test_the_password_is_no_host(made):
    """Ansible reads every file of an inventory's folder but those that begin with a dot."""
    fresh = Landscape(made.path, vault=made.password, vault_key=None, vault_services=None)
    assert fresh.hosts == ["server1"]


@pytest.mark.parametrize(("target", "words"), [("site", []), ("check", []), ("status", []), ("ssh", ["HOST=server1"])])
def test_make_passes_the_password_on(made, target, words):
    shown = subprocess.run(
        ["make", "--dry-run", target, f"ENV={made.path}", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"--inventory={made.path} --vault-password-file={made.path}/.vault-password " in shown.stdout


OPERATIONS = [
    (
        ("switchover", "WHAT=postgresql", "TO=db2", "FORCE=1"),
        {"switchover_what": "postgresql", "switchover_force": True},
    ),
    (("restart", "TIER=database", "PENDING=1"), {"restart_tier": "database", "restart_pending": True}),
    (("restart", "SERVICE=orders"), {"restart_service": "orders", "restart_force": False}),
    (("drain", "HOST=app2"), {"drain_host": "app2", "drain_state": "drained", "drain_service": "", "drain_wait": 30}),
    (("undrain", "HOST=app2", "SERVICE=orders", "FORCE=1"), {"drain_state": "serving", "drain_force": True}),
    (("logs", "SERVICE=orders", "LINES=5"), {"logs_service": "orders", "logs_lines": 5}),
    (("run", "SERVICE=orders", "CMD=true"), {"run_service": "orders"}),
    (("status", "FORMAT=json"), {"status_format": "json"}),
]


@pytest.mark.parametrize(("words", "expected"), OPERATIONS, ids=[words[0] for words, _ in OPERATIONS])
def test_make_says_what_an_operation_is_to_do(words, expected):
    shown = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    given = re.findall(r"--extra-vars='(.*?)'", shown, re.DOTALL) or re.findall(r"--extra-vars=(\S+?);", shown)
    said = {}
    for each in given:
        said |= yaml.safe_load(each) if each.startswith("{") else dict([each.split("=")])
    assert said | expected == said


SIGNED = [
    (
        ("deploy", "SERVICE=orders users", "BATCH=4", "WATCH=30"),
        {"deploy_kind": "deploy", "deploy_services": ["orders", "users"], "deploy_serial": [1, 4], "deploy_watch": 30},
    ),
    (("rollback", "SERVICE=orders", "RELEASE=3f1c"), {"deploy_kind": "rollback", "deploy_release": "3f1c"}),
    (
        ("rotate-secret", "NAME=authority", "PAUSE=1", "WATCH=3"),
        {"rotate_name": "authority", "rotate_pause": True, "rotate_check": False, "deploy_watch": 3, "deploy_wait": 0},
    ),
]


@pytest.mark.parametrize(("words", "expected"), SIGNED, ids=[words[0] for words, _ in SIGNED])
def test_make_says_who_does_it(words, expected):
    """The shell puts these together, so it is the shell that has to read them."""
    shown = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    said = re.search(r"--extra-vars=.*", shown, re.DOTALL)[0].rstrip()
    given = subprocess.run(["bash", "-c", f"printf %s {said}"], capture_output=True, text=True, check=True).stdout
    variables = yaml.safe_load(given.removeprefix("--extra-vars="))
    assert variables | expected == variables
    assert variables["deploy_who"]
    assert variables["deploy_origin"] == os.uname().nodename


def test_make_passes_no_password_where_there_is_none():
    shown = subprocess.run(["make", "--dry-run", "site"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--inventory=inventory/lab" in shown.stdout
    assert "vault" not in shown.stdout


def test_make_says_what_is_missing():
    refused = subprocess.run(
        ["make", "--old-file=setup", "environment"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "terrace: say which: make environment NAME=qa" in refused.stderr


def test_make_refuses_an_environment_that_is_not_there():
    """Ansible alone would warn, do nothing, and call that a success."""
    refused = subprocess.run(
        ["make", "--dry-run", "site", "ENV=inventory/prodution"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "terrace: there is no environment inventory/prodution; ENV is a folder such as" in refused.stderr


@pytest.mark.parametrize("name", ["production", "staging"])
def test_examples_hold_no_secret_and_only_addresses_of_documentation(name):
    folder = ROOT / "inventory" / name
    assert not (folder / "group_vars/all/vault.yml").exists()
    text = "".join(path.read_text() for path in folder.rglob("*.yml"))
    addresses = re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)
    assert addresses
    assert [address for address in addresses if not address.startswith(("192.0.2.", "198.51.100."))] == []
    assert [host for host in re.findall(r"\b[\w.]+\.(?:com|net|org)\b", text) if not host.endswith("example.com")] == []


def test_an_example_gets_its_secrets_by_the_same_command(tmp_path, made, example):
    done = make_secrets(example, tmp_path)
    assert done.returncode == 0, done.stdout
    password = (tmp_path / ".config/terrace/ops-staging").read_text().strip()
    key = secrets(example, password)["vault_key"]
    assert len(key) == 48
    assert key != secrets(made.path, made.password)["vault_key"]
    assert f"{example}/group_vars/all/vault.yml is there already" in message(make_secrets(example, tmp_path))


# Out of one machine, and into another


def export(made: Made, file: Path, password: Path) -> subprocess.CompletedProcess:
    extra = f'{{"export_file": "{file}", "export_password": "{password}"}}'
    words = (f"--inventory={made.path}", f"--vault-password-file={made.path}/.vault-password")
    return ansible(*words, "playbooks/environment_export.yml", f"--extra-vars={extra}", home=made.home)


def imported(file: Path, password: Path, root: Path, home: Path) -> subprocess.CompletedProcess:
    extra = f'{{"import_file": "{file}", "import_password": "{password}", "import_directory": "{root}"}}'
    words = ("--inventory=localhost,", "playbooks/environment_import.yml", f"--extra-vars={extra}")
    return ansible(*words, home=home)


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory) -> tuple[Path, Path]:
    """A file of `make environment-export`, and that with its password."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "password").write_text("of the export alone\n")
    authority = made.path / ".pki"
    authority.mkdir(mode=0o700)
    (authority / "ca.crt").write_text("a certificate\n")
    (authority / "ca.key").write_text("a key that is encrypted\n")
    (authority / "ca.key").chmod(0o600)
    (made.path.parents[1] / "services/shop.yml").write_text("# A service.\n")
    done = export(made, folder / "qa.export", folder / "password")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "qa.export", folder / "password"


def test_an_exported_environment_comes_back_as_it_was(made, exported, tmp_path):
    file, password = exported
    assert mode(file) == 0o600
    assert file.read_bytes().startswith(b"$ANSIBLE_VAULT;")
    home, root = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    done = imported(file, password, root, home)
    assert done.returncode == 0, done.stdout + done.stderr
    back = root / "inventory/qa"
    assert names(back) == names(made.path)
    for name in names(made.path) - {".vault-password"}:
        assert (back / name).read_bytes() == (made.path / name).read_bytes(), name
    assert mode(back / ".pki/ca.key") == 0o600
    assert mode(back / ".vault-password") == 0o600
    assert (back / ".vault-password").resolve().is_relative_to(home)
    assert secrets(back, (back / ".vault-password").read_text().strip()) == secrets(made.path, made.password)
    assert (root / "services/shop.yml").read_text() == "# A service.\n"
    assert (root / ".gitignore").read_text().split() == [".terrace/", ".vault-password"]
    assert "is there already" in message(imported(file, password, root, home))


def test_another_password_opens_no_export(exported, tmp_path):
    file, _ = exported
    (tmp_path / "other").write_text("another\n")
    done = imported(file, tmp_path / "other", tmp_path / "ops", tmp_path)
    assert "Decryption failed" in message(done)
    assert names(tmp_path) == {"other"}


def test_what_cannot_be_exported_is_said(made, exported, tmp_path):
    file, password = exported
    assert "is there already; choose another FILE" in message(export(made, file, password))
    assert "There is no file" in message(export(made, tmp_path / "x", tmp_path / "none"))
    own = (made.path / ".vault-password").resolve()
    assert "which would lie inside; use another one" in message(export(made, tmp_path / "x", own))
    assert names(tmp_path) == set()
