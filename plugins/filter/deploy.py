"""What a deploy says and decides: the plan in words, why something failed, what lived before, and its hooks."""

from __future__ import annotations

from collections.abc import Mapping

PHASES = (
    "before_prepare",
    "after_prepare",
    "before_migrate",
    "after_migrate",
    "before_switch",
    "after_switch",
    "after_deploy",
    "after_failure",
)
PLACES = ("controller", "nodes")
KEYS = {"at", "run", "on", "services"}


def deploy_hooks_refused(hooks: list) -> str:
    """Return what is wrong with declared hooks, in one line; nothing where they are sound.

    Parameters:
        hooks: `deploy_hooks`.
    """
    wrong = []
    for number, hook in enumerate(hooks if isinstance(hooks, list) else [hooks]):
        place = f"deploy_hooks[{number}]"
        if not isinstance(hook, Mapping) or not {"at", "run"} <= set(hook) <= KEYS:
            wrong.append(f"{place} needs `at` and `run`, and may have `on` and `services`")
        elif hook["at"] not in PHASES:
            wrong.append(f"{place}.at is {hook['at']}; choose one of {', '.join(PHASES)}")
        elif hook.get("on", "controller") not in PLACES:
            wrong.append(f"{place}.on is {hook['on']}; choose one of {', '.join(PLACES)}")
    return "; ".join(wrong)


def deploy_hooks_at(hooks: list[Mapping], phase: str, place: str, services: list[str]) -> list[Mapping]:
    """Return the hooks to run.

    Parameters:
        hooks: `deploy_hooks`.
        phase: one of PHASES.
        place: one of PLACES.
        services: what is deployed there; a hook may be that of some services only.
    """
    return [
        hook
        for hook in hooks
        if hook["at"] == phase
        and hook.get("on", "controller") == place
        and services
        and set(hook.get("services", services)) & set(services)
    ]


def deploy_releases(plan: Mapping[str, Mapping]) -> str:
    """Return what is to live, as hooks are told it: `orders=3f1c9a5be0d2 users=0a1b2c3d4e5f`.

    Parameters:
        plan: what is to live.
    """
    return " ".join(f"{name}={release['id']}" for name, release in plan.items())


def deploy_reason(result: Mapping) -> str:
    """Return why a task failed: what it says itself, and what its items or its command say.

    Parameters:
        result: `ansible_failed_result`.
    """
    items = [item for item in result.get("results", []) if item.get("failed")]
    return "; ".join(_reason(each) for each in items or [result])


def _reason(result: Mapping) -> str:
    said = str(result.get("msg", "")).strip()
    if "cmd" not in result:
        return said or "a task failed; see above"
    output = str(result.get("stderr") or result.get("stdout") or "").strip().splitlines()
    return "\n".join([f"a command ended with {result.get('rc')}:", *output[-15:]])


def deploy_back(plan: Mapping[str, Mapping], before: Mapping[str, Mapping]) -> dict[str, dict]:
    """Return what a node goes back to, as a plan: what lived there of each service before.

    Parameters:
        plan: what was to live.
        before: what `release_facts` said of this node's services.
    """
    back = {}
    for name, release in plan.items():
        facts = before.get(name, {})
        known = facts.get("releases", {}).get(facts.get("live", ""), {})
        back[name] = {"id": facts.get("live", ""), "new": False, "node": ""}
        back[name] |= {key: known.get(key) or release[key] for key in ("server", "interface")}
    return back


def deploy_told(
    kind: str,
    plan: Mapping[str, Mapping],
    services: list[Mapping],
    nodes: Mapping[str, list[str]],
    facts: list[Mapping],
    left: list[str],
    hooks: list[Mapping],
) -> list[str]:
    """Return what is about to happen, in lines.

    Parameters:
        kind: deploy or rollback.
        plan: what is to live.
        services: the services that are deployed, as declared.
        nodes: by service, the nodes that were reached.
        facts: the results of `release_facts`, looped over the nodes.
        left: the nodes that could not be reached.
        hooks: the hooks to name, or none.
    """
    answers = {answer["item"]: answer["services"] for answer in facts if "services" in answer}
    lines = []
    for service in services:
        name = service["name"]
        wanted = plan[name]["id"]
        live = {node: answers[node][name]["live"] for node in sorted(nodes[name]) if node in answers}
        lines.append(
            f"{kind} of {name}: release {wanted}{_version(wanted, name, answers, service)} on {', '.join(live)}"
        )
        lines += [f"  {node} runs {release or 'nothing'}" for node, release in live.items() if release != wanted]
        lines += [f"  {node} runs it already" for node, release in live.items() if release == wanted]
        database = service.get("database") or {}
        if kind == "deploy" and database.get("migrate"):
            lines.append(f"  before the first node: {database['migrate']}")
        lines.append(f"  {next(iter(live), 'no node')} alone first, the others after it")
        if kind == "deploy" and database.get("migrate_after"):
            lines.append(f"  after the last node: {database['migrate_after']}")
        begun = {answers[node][name]["under_way"].get("id") for node in live if answers[node][name].get("under_way")}
        lines += [f"  finishes {number}, which was never ended" for number in sorted(begun)]
    lines += [
        f"  {hook['at'].replace('_', ' ')}, on the {hook.get('on', 'controller')}: {hook['run']}" for hook in hooks
    ]
    if left:
        lines.append(
            f"{', '.join(left)} cannot be reached, and will be shut on return until site.yml or a deploy ran there"
        )
    return lines


def _version(release: str, name: str, answers: Mapping, service: Mapping) -> str:
    known = [answer[name]["releases"][release] for answer in answers.values() if release in answer[name]["releases"]]
    version = (known[0].get("version") if known else service.get("version")) or ""
    return f" ({version})" if version else ""


def deploy_outcome(nodes: list[str], hostvars: Mapping, errors: list[str]) -> str:
    """Return what failed, where, and how the nodes were left.

    Parameters:
        nodes: those that took part.
        hostvars: their variables.
        errors: what went wrong, as `deploy_errors` has it.
    """
    its = {node: hostvars[node] for node in nodes}
    unfinished = [f"{node}: {own['deploy_unfinished']}" for node, own in its.items() if "deploy_unfinished" in own]
    if unfinished:
        return f"All nodes run the new release, but what comes after that failed. {'; '.join(unfinished)}"
    if not any("deploy_prepared" in own for own in its.values()):
        return f"{'; '.join(errors)}\nNothing that lives was touched."
    stuck = [f"{node}: {own['deploy_stuck']}" for node, own in its.items() if "deploy_stuck" in own]
    back = [node for node, own in its.items() if "deploy_reverted" in own]
    lost = [node for node, own in its.items() if "deploy_stuck" not in own and "deploy_reverted" not in own]
    lines = ["; ".join(errors)]
    lines.append(f"{', '.join(back) or 'No node'} went back to what lived before, and so do all others that serve.")
    if stuck:
        lines.append(f"These could not go back; see `make releases`, and deploy again: {'; '.join(stuck)}")
    touched = [node for node in lost if "deploy_begun" in its[node]]
    if touched:
        lines.append(f"{', '.join(touched)} could not be reached any more; shut on return until site.yml ran there.")
    return "\n".join(lines)


def deploy_batched(nodes: list[str], sizes: list[int | str]) -> list[list[str]]:
    """Return nodes in batches, by the rules of Ansible's `serial`.

    Parameters:
        nodes: their names, in the order in which they are to be switched.
        sizes: of each batch the number of its nodes, or the share of all (`30%`, rounded down, one node at least); the
            last size is that of all others.
    Errors:
        ValueError where there is no size, or one that is no number above 0.
    """
    if not sizes:
        raise ValueError("deploy_serial has to have the size of one batch at least, such as [1, 2]")
    batches, left = [], list(nodes)
    for number in range(len(nodes)):
        if not left:
            break
        size = _size(sizes[min(number, len(sizes) - 1)], len(nodes))
        batches.append(left[:size])
        left = left[size:]
    return batches


def _size(size: int | str, of: int) -> int:
    text = str(size)
    number = text.removesuffix("%")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"deploy_serial: {size} is no number of nodes and no share of them, such as 2 or 30%")
    return max(1, of * int(number) // 100) if text != number else int(number)


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        functions = (
            deploy_hooks_refused,
            deploy_hooks_at,
            deploy_reason,
            deploy_releases,
            deploy_back,
            deploy_batched,
            deploy_told,
            deploy_outcome,
        )
        return {function.__name__: function for function in functions}
