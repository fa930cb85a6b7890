"""What hosts answered to an operation's questions, put together for those that go on with it."""

from __future__ import annotations

from collections.abc import Mapping

NOTHING = {
    "id": "",
    "leader": "",
    "conductor": "",
    "steps": [],
    "problems": [],
    "pending": {},
    "due": False,
    "said": "",
}


def operation_plan(members: list[Mapping], hostvars: Mapping) -> dict:
    """Return the plan of an operation on PostgreSQL, as the leader's host made it, else the first that could.

    Parameters:
        members: the database hosts, each with its name.
        hostvars: their variables; `postgresql_plan` is what the module of this name returned.
    Returns:
        What it returned, with the `conductor` (the host that carries it out), whether anything is `due`, and a line on
        it (`said`). Without any answer there is nothing to do.
    """
    answers = {member["name"]: hostvars[member["name"]].get("postgresql_plan") or {} for member in members}
    plans = {name: answer for name, answer in answers.items() if "steps" in answer}
    if not plans:
        return NOTHING
    first = next(iter(plans))
    leader = plans[first]["leader"]
    conductor = leader if leader in plans else first
    plan = plans[conductor]
    steps = [step["text"] for step in plan["steps"]]
    return NOTHING | {
        **{key: plan[key] for key in ("id", "leader", "steps", "problems", "pending")},
        "conductor": conductor,
        "due": bool(plan["steps"]) and not plan["problems"],
        "said": f"PostgreSQL: {leader} leads"
        + (f"; to do: {', '.join(steps)}" if steps else " already; there is nothing to do"),
    }


def operation_poolers(members: list[Mapping], hostvars: Mapping) -> list[str]:
    """Return the app nodes whose poolers wait for an operation; those that were not reached are not among them.

    Parameters:
        members: the app nodes, each with its name.
        hostvars: their variables; `pooler_hold` is what starting the module of this name returned.
    """
    names = [member["name"] for member in members]
    return [name for name in names if (hostvars[name].get("pooler_hold") or {}).get("ansible_job_id")]


def operation_reached(members: list[Mapping], hostvars: Mapping) -> str:
    """Return the first host that answered to a ping of an operation (`operation_ping`); empty where none did.

    Parameters:
        members: the hosts, each with its name.
        hostvars: their variables.
    """
    answers = {member["name"]: hostvars[member["name"]].get("operation_ping") or {} for member in members}
    return next((name for name, answer in answers.items() if answer.get("ping") == "pong"), "")


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {function.__name__: function for function in (operation_plan, operation_poolers, operation_reached)}
