"""The nodes of a Ray cluster: what each has, and which of them have announced their end."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

_CONNECT_TIMEOUT_S = 2.0
_MARKET_TYPE = "ray.io/market-type"


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    address: str
    cpus: int
    gpus: int
    spot: bool = False
    """Whether its label `ray.io/market-type` is `spot`: it may be taken away at any time."""

    @property
    def text(self) -> str:
        """What it has, for display."""
        gpus = f" and {_count(self.gpus, 'GPU')}" if self.gpus else ""
        return _count(self.cpus, "CPU") + gpus


def alive_nodes() -> list[Node]:
    """Return the cluster's nodes that are alive."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [_node(each) for each in found if each["Alive"]]


def _node(each: dict[str, Any]) -> Node:
    has = each["Resources"]
    spot = each.get("Labels", {}).get(_MARKET_TYPE) == "spot"
    return Node(
        each["NodeID"], each["NodeManagerAddress"], int(has.get("CPU", 0)), int(has.get("GPU", 0)), spot
    )


def ending_nodes() -> set[str]:
    """Return the ids of the nodes that have announced their end: drained, or reclaimed by their provider.

    Ray offers this to its own libraries only; where a version lacks it, no node is known to be ending.
    """
    state = getattr(getattr(ray, "_private", None), "state", None)
    draining = getattr(getattr(state, "state", None), "get_draining_nodes", None)
    return set(draining()) if draining else set()


def lasting_nodes() -> list[Node]:
    """Return the nodes that are alive and have not announced their end."""
    ending = ending_nodes()
    return [node for node in alive_nodes() if node.id not in ending]


def head_answers() -> bool:
    """Whether the cluster's head accepts a connection; while it does not, Ray's own calls may block."""
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def own_node() -> str:
    """Return the id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def describe(nodes: Sequence[Node]) -> str:
    """Return what the nodes have, equal ones together: `10.0.0.1 and 10.0.0.2: 4 CPUs; 10.0.0.3: 1 CPU`."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        groups.setdefault(node.text, []).append(node.address)
    return "; ".join(f"{_names(addresses)}: {text}" for text, addresses in groups.items()) or "no nodes"


def _names(addresses: list[str]) -> str:
    if len(addresses) > 3:
        return f"{addresses[0]}, {addresses[1]} and {len(addresses) - 2} more"
    return " and ".join(addresses)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
