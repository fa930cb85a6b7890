"""All that a run of site.yml leaves on a host, so that two runs can be compared file by file and unit by unit.

What differs between two hosts that are right (keys, salts, times, which of two slots is live) is left out or named alike.
"""

from __future__ import annotations

import json

from lab import Host

# Runs on the host: it has Python, and one call is quicker than hundreds.
COLLECT = r'''
import grp, hashlib, json, os, pwd, re, socket, stat, subprocess
from pathlib import Path

TREES = ["/etc", "/srv/terrace", "/usr/local", "/var/lib/terrace", "/var/spool/cron"]
# Made by chance or by the clock: keys and what is signed with them, the machine's own name for itself, back-up copies, caches.
CHANCE = re.compile(
    r"/etc/(machine-id|\.pwd\.lock|\.updated|mtab|hosts|resolv\.conf|ld\.so\.cache|passwd-|group-|shadow-?|gshadow-?|subuid-?|subgid-?"
    r"|ssh/ssh_host_.*|ssl/private/.*|ssl/certs/.*|apt/sources.*|terrace/pki/host\.(key|crt))"
    r"|/srv/terrace/[^/]+/(blue|green|live|\.live)|.*/__pycache__(/.*)?"
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
        # What runs now and then, and what login sessions bring along, says nothing.
        if re.match(r"(user|session|apt-|dpkg-|systemd-tmpfiles-clean|man-db|e2scrub|fstrim|logrotate|run-|svc-.*report\.service)", name):
            continue
        found[slot(name) + " now"] = [load, active, sub]
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
        found[slot(unit)] = re.sub(r"/(blue|green)\b", "/SLOT", " ".join(words)).partition(" -sf ")[0].partition(" -x ")[0]
        if unit.startswith("svc-"):
            pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            chance = ("INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "PWD", "PYTHONPATH", "VIRTUAL_ENV", "PATH", "MEMORY_PRESSURE")
            kept = sorted(pair for pair in pairs if not pair.startswith(chance))
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
        found[str(path)] = sorted(line for line in answer.splitlines() if re.match(r"(Maxconn|Ulimit-n|Nbthread): |[\w.-]+$", line))
    for instance in ("cache", "queue"):
        if os.path.exists(f"/run/redis-{instance}.env"):
            words = run("redis-instance", "cli", instance, "CONFIG", "GET", "*").split("\n")
            settings = dict(zip(words[::2], words[1::2]))
            chance = ("masterauth", "requirepass", "replicaof", "slaveof")
            found[instance] = {name: value for name, value in settings.items() if name not in chance}
    return found

def postgresql():
    if not os.path.exists("/run/postgresql/.s.PGSQL.5432"):
        return {}
    def ask(query, database="postgres"):
        uid = pwd.getpwnam("postgres")
        words = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--host=/run/postgresql", f"--dbname={database}", f"--command={query}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, user=uid.pw_uid, group=uid.pw_gid, extra_groups=[])
        return sorted(line for line in done.stdout.splitlines() if line)
    databases = ask("SELECT datname FROM pg_database WHERE NOT datistemplate")
    return {
        "settings": ask("SELECT name || '=' || setting FROM pg_settings WHERE source NOT IN ('default', 'client', 'session') AND name NOT LIKE 'primary_%'"),
        "pending": ask("SELECT name FROM pg_settings WHERE pending_restart"),
        "roles": ask("SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolconnlimit, rolconfig FROM pg_roles"),
        "members": ask("SELECT roleid::regrole, member::regrole, admin_option FROM pg_auth_members"),
        "databases": ask("SELECT datname, datdba::regrole, datacl FROM pg_database"),
        "schemas": {d: ask("SELECT nspname, nspowner::regrole, nspacl FROM pg_namespace WHERE nspname NOT LIKE 'pg_t%'", d) for d in databases},
        "defaults": {d: ask("SELECT defaclrole::regrole, defaclobjtype, defaclacl FROM pg_default_acl", d) for d in databases},
        "tables": {d: ask("SELECT schemaname, tablename, tableowner FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')", d) for d in databases},
    }

print(json.dumps({
    "files": files(),
    "releases": releases(),
    "units": units(),
    "problems": record_problems(),
    "processes": processes(),
    "daemons": daemons(),
    "postgresql": postgresql(),
    "packages": sorted(run("dpkg-query", "--show", "--showformat=${Package} ${Version} ${Status}\n").splitlines()),
}))
'''


def collect(host: Host) -> dict:
    """Return the state of a host: its files, releases, units, processes, packages, roles and databases.

    `problems` are daemons that do not run on the files beside them; a right host has none.
    """
    return json.loads(host.run("python3 -", stdin=COLLECT, timeout=180))


def differences(one: object, other: object, where: str = "") -> list[str]:
    """Return what differs between two states, a line each with its place."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted(one.keys() | other.keys()):
            place = f"{where} {key}".strip()
            if key not in one or key not in other:
                found.append(f"{place}: only in the {'second' if key not in one else 'first'}")
            else:
                found += differences(one[key], other[key], place)
        return found
    if isinstance(one, list) and isinstance(other, list) and where in ("packages", "postgresql settings"):
        return [f"{where}: {line}" for line in sorted(set(map(str, one)) ^ set(map(str, other)))]
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]
