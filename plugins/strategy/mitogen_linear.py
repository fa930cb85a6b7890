"""Mitogen's own way of running tasks, for `MITOGEN=1`: it keeps one Python on each host instead of starting one a task.

It is a switch and not the default, because ansible-core is going to drop strategies that are not its own.
"""

from __future__ import annotations

import ansible_mitogen.loaders
import ansible_mitogen.strategy

# Mitogen's plugin in its package does the same; from here Ansible finds it whatever Python the environment has.
Linear = ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, Linear):
    """Ansible's linear strategy over Mitogen's connections."""
