"""Which procedures' undos have passed a drill, as the agents of this station wrote it down when they began."""

from collections.abc import Mapping

from chassis.atomic import read_json
from chassis.layout import Layout


class Drills:
    """By agent, domain and procedure; what nobody wrote down has passed none."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __call__(self, owner: str, domain: str, procedure: str) -> bool:
        try:
            found = read_json(self._layout.drilled(owner))
        except (OSError, ValueError):
            return False
        name = f"{domain}/{procedure}"
        return isinstance(found, Mapping) and name in found and found[name] is None
