"""Part `runs`: what a first site.yml and one that changes nothing cost, beside the bare installation of its packages.

It destroys the lab and its data, and leaves a converged one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import results
import stack
from stack import lab

# Nothing but the packages: daemons are not started by their installation, and PostgreSQL makes no cluster.
INSTALL = r"""set -eu
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends {packages} >/dev/null"""


def packages() -> dict[str, list[str]]:
    """Return the packages that the roles install, by host of the lab.

    They are read from the roles' own apt tasks, by the hostless tests' means, in a process of its own: Ansible reads
    its configuration once.
    """
    done = subprocess.run([sys.executable, __file__], cwd=results.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: cannot tell which packages the roles install:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def bare_hosts() -> float:
    """Destroy the lab, create it anew, and return how many seconds the creation took."""
    results.say("destroying the lab, and creating bare hosts")
    stack.ansible("ansible-playbook", "molecule/lab/destroy.yml")
    taken, _ = stack.ansible("ansible-playbook", "molecule/lab/create.yml")
    stack.network()
    return taken


def floor(wanted: dict[str, list[str]]) -> dict:
    """Install the packages on all hosts at once, by a shell script each, and return the seconds of all and of each."""
    taken, failed = {}, []

    def install(name: str) -> None:
        start = time.monotonic()
        done = lab.Host(name).try_run(INSTALL.format(packages=" ".join(wanted[name])), timeout=900)
        taken[name] = time.monotonic() - start
        if done.returncode:
            failed.append(f"{name}: {done.stderr}")

    start = time.monotonic()
    threads = [threading.Thread(target=install, args=(name,)) for name in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit("bench: packages could not be installed:\n" + "\n".join(failed))
    return {"seconds": time.monotonic() - start, "hosts": taken, "packages": wanted}


def site(**environment: str) -> dict:
    """Run site.yml on the lab, and return its seconds, and what the callback plugin host_tasks counted.

    Parameters:
        environment: further environment variables.
    """
    with tempfile.TemporaryDirectory(prefix="terrace-bench-") as folder:
        counted = Path(folder) / "host-tasks.json"
        taken, shown = stack.ansible(
            "ansible-playbook", "site.yml",
            environment={"TERRACE_HOST_TASKS": str(counted), **environment},
        )  # fmt: skip
        if not counted.exists():
            sys.exit("bench: the callback plugin host_tasks wrote nothing; see plugins/callback/host_tasks.py")
        found = json.loads(counted.read_text())
    slowest = sorted(found["tasks"], key=lambda task: -task["seconds"])[:10]
    changes = stack.changed(shown)
    return {"seconds": taken, "hosts": found["hosts"], "slowest": slowest, "changed": sum(changes.values())}


def measure() -> dict:
    """Return the floor, a first run and one that changes nothing, and both by Mitogen, each beginning on bare hosts."""
    wanted = packages()
    built = (results.ROOT / ".terrace/releases").exists()
    bare_hosts()
    results.say("installing the packages of all hosts by parallel scripts")
    bottom = floor(wanted)
    results.say(f"the packages alone: {bottom['seconds']:.1f} s")
    creation = bare_hosts()
    found = {"floor": bottom, "create_seconds": creation, "releases_built_before": built}
    for prefix, environment in (("", {}), ("mitogen_", {"ANSIBLE_STRATEGY": "mitogen_linear"})):
        if prefix:
            bare_hosts()
        for name in ("first", "again"):
            run = found[prefix + name] = site(**environment)
            results.say(
                f"{prefix}{name}: {run['seconds']:.1f} s, {max(run['hosts'].values())} host-tasks at most,"
                f" {run['changed']} changed"
            )
    return found


def main() -> None:
    """Print the packages of the lab's hosts as JSON; `packages` calls this."""
    os.environ["ANSIBLE_CONFIG"] = str(results.ROOT / "ansible.cfg")
    sys.path[:0] = [str(results.ROOT / "tests/hostless"), str(results.ROOT / "plugins")]
    import landscape

    # The lab's hosts are containers, which have the machine's clock.
    landscape.FACTS_ALL["virtualization_tech_guest"] = ["container"]
    found = landscape.Landscape(results.ROOT / "inventory/lab")
    print(json.dumps({host: sorted(found.packages_of(host)) for host in found.hosts}))


if __name__ == "__main__":
    main()
