"""Runs on a host: prints all that a run of site.yml leaves there, as JSON. state.py compares two such states."""

import grp
import hashlib
import json
import os
import pwd
import re
import socket
import stat
import subprocess
from pathlib import Path

TREES = ["/etc", "/srv/terrace", "/usr/local", "/var/lib/terrace", "/var/spool/cron"]
# Made by chance or by the clock: keys and what is signed with them, the machine's own name for itself, copies, caches.
CHANCE = re.compile(
    r"/etc/(machine-id|\.pwd\.lock|\.updated|mtab|hosts|resolv\.conf|ld\.so\.cache"
    r"|passwd-|group-|shadow-?|gshadow-?|subuid-?|subgid-?|ssh/ssh_host_.*|ssl/private/.*|ssl/certs/.*|apt/sources.*|terrace/pki/host\.(key|crt))"
    # What backups and proofs noted when they were made.
    r"|/var/lib/terrace/(backup-(proof|history)\.json|redis-backup-[a-z]+\.json|restored(/.*)?)"
    r"|/srv/terrace/[^/]+/(blue|green|live|\.live|releases/[^/]+/\.installed)|.*/__pycache__(/.*)?"
)

# What runs now and then, and what login sessions bring along, says nothing.
NOW_AND_THEN = re.compile(
    r"(user|session|apt-|dpkg-|systemd-tmpfiles-clean|man-db|e2scrub|fstrim|logrotate|run-|terrace-release-gate\.service|terrace-(backup|marker|redis-backup|restored).*\.service|svc-.*report\.service)"
)
# Variables of a process that systemd, a shell or the slot's own path give it.
OF_A_START = (
    *("INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE"),
    *("PWD", "PATH", "PYTHONPATH", "VIRTUAL_ENV"),
)


def run(*words, user=None):
    return subprocess.run(words, capture_output=True, text=True, check=True, user=user).stdout


def slot(text):
    return re.sub(r"@(blue|green)\b", "@SLOT", text)


def files():
    found = {}
    for tree in TREES:
        for where, directories, names in os.walk(tree):
            for name in directories + names:
                path = os.path.join(where, name)
                info = os.lstat(path)
                entry = [oct(info.st_mode), pwd.getpwuid(info.st_uid).pw_name, grp.getgrgid(info.st_gid).gr_name]
                if path.startswith("/var/lib/terrace/units/"):
                    entry = []  # records are read below
                elif CHANCE.fullmatch(path):
                    if "/pki/" not in path:
                        continue
                elif path in ("/etc/passwd", "/etc/group"):
                    entry.append(sorted(line.split(":")[0] for line in Path(path).read_text().splitlines()))
                elif stat.S_ISLNK(info.st_mode):
                    entry.append(slot(os.readlink(path)))
                elif stat.S_ISREG(info.st_mode):
                    entry.append(hashlib.sha256(Path(path).read_bytes()).hexdigest())
                found[slot(path)] = entry
    return found


def releases():
    found = {}
    for home in Path("/srv/terrace").glob("*"):
        live = (home / "live").readlink().name
        found[home.name] = [(home / live).readlink().name, (home / ".live").read_text().split()[1] == live]
    return found


def units():
    found = {}
    for line in run("systemctl", "list-unit-files", "--no-legend", "--plain").splitlines():
        name, state, *_ = line.split()
        # A slot that is not live is a unit that nobody asked for.
        if not re.search(r"@(blue|green)\.service$", name):
            found[name] = state
    shown = run("systemctl", "list-units", "--all", "--no-legend", "--plain", "--type=service,socket,timer,target")
    for line in shown.splitlines():
        name, load, active, sub, *_ = line.split()
        if re.search(r"@(blue|green)\.service$", name) and active == "inactive":
            continue
        if NOW_AND_THEN.match(name):
            continue
        # A timer "runs" while what it starts does, which comes and goes.
        found[slot(name) + " now"] = [load, active, "waiting" if name.endswith(".timer") and sub == "running" else sub]
    return found


def record_problems(directory="/var/lib/terrace/units"):
    problems = []
    for file in sorted(Path(directory).iterdir()):
        if file.suffix != ".json":
            problems.append(f"{file} was left over")
            continue
        unit, known = file.name.removesuffix(".json"), json.loads(file.read_text())
        now = run("systemctl", "show", unit, "--property=InvocationID,ActiveState,NeedDaemonReload")
        now = dict(line.split("=", 1) for line in now.splitlines())
        if now["ActiveState"] != "active":
            continue
        if now["NeedDaemonReload"] != "no":
            problems.append(f"{unit} wants a daemon-reload")
        if known["invocation"] != now["InvocationID"]:
            problems.append(f"{unit} was started since, and nobody looked at its files")
        for path, digest in known["files"].items():
            if Path(path).is_file() and hashlib.sha256(Path(path).read_bytes()).hexdigest() != digest:
                problems.append(f"{unit} runs on an older {path}")
    return problems


def processes():
    """What running daemons were started with, and the variables that services have."""
    found = {}
    shown = run("systemctl", "list-units", "--no-legend", "--plain", "--type=service", "--state=running")
    for line in shown.splitlines():
        unit = line.split()[0]
        if re.match(r"(user@|session|ssh|systemd-|getty|dbus|run-)", unit):
            continue
        pid = run("systemctl", "show", unit, "--property=MainPID", "--value").strip()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        # HAProxy tells its master anew, after a reload, whom it takes over from.
        command = re.sub(r"/(blue|green)\b", "/SLOT", " ".join(words))
        found[slot(unit)] = re.split(r" -(?:sf|x) ", command)[0]
        if unit.startswith("svc-"):
            pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            kept = sorted(pair for pair in pairs if not pair.startswith(OF_A_START))
            found[slot(unit)] += " " + hashlib.sha256("\0".join(kept).encode()).hexdigest()
    return found


def daemons():
    """What running daemons say of their own settings, which is not always what their files say."""
    found = {}
    for path in Path("/run").glob("haproxy-*/admin.sock"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"show info;show backend\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        told = re.compile(r"(Maxconn|Nbthread): |[\w.-]+$")
        found[str(path)] = sorted(line for line in answer.splitlines() if told.match(line))
    for instance in ("cache", "queue"):
        if os.path.exists(f"/run/redis-{instance}.env"):
            words = run("redis-instance", "cli", instance, "CONFIG", "GET", "*").split("\n")
            settings = dict(zip(words[::2], words[1::2], strict=False))
            chance = ("masterauth", "requirepass", "replicaof", "slaveof")
            found[instance] = {name: value for name, value in settings.items() if name not in chance}
    return found


def ask(query, database="postgres"):
    """Return the lines that PostgreSQL answers to its administrator."""
    user = pwd.getpwnam("postgres")
    done = subprocess.run(
        ["psql", "--no-psqlrc", "-At", "--host=/run/postgresql", f"--dbname={database}", f"--command={query}"],
        capture_output=True,
        text=True,
        check=True,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
    )
    return sorted(line for line in done.stdout.splitlines() if line)


def postgresql():
    if not os.path.exists("/run/postgresql/.s.PGSQL.5432"):
        return {}
    whole = {
        "settings": "SELECT name || '=' || setting FROM pg_settings"
        " WHERE source NOT IN ('default', 'client', 'session') AND name NOT LIKE 'primary_%'",
        "pending": "SELECT name FROM pg_settings WHERE pending_restart",
        "roles": "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,"
        " rolconnlimit, rolconfig FROM pg_roles",
        "members": "SELECT roleid::regrole, member::regrole, admin_option FROM pg_auth_members",
        "databases": "SELECT datname, datdba::regrole, datacl FROM pg_database",
    }
    each = {
        "schemas": "SELECT nspname, nspowner::regrole, nspacl FROM pg_namespace WHERE nspname NOT LIKE 'pg_t%'",
        "defaults": "SELECT defaclrole::regrole, defaclobjtype, defaclacl FROM pg_default_acl",
        "tables": "SELECT schemaname, tablename, tableowner FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    }
    names = ask("SELECT datname FROM pg_database WHERE NOT datistemplate")
    return {key: ask(query) for key, query in whole.items()} | {
        key: {name: ask(query, name) for name in names} for key, query in each.items()
    }


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "files": files(),
                "releases": releases(),
                "units": units(),
                "problems": record_problems(),
                "processes": processes(),
                "daemons": daemons(),
                "postgresql": postgresql(),
                "packages": sorted(
                    run("dpkg-query", "--show", "--showformat=${Package} ${Version} ${Status}\n").splitlines()
                ),
            }
        )
    )
