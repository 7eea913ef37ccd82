"""Places of a labgrid coordinator, benches that several people share: `labgrid:PLACE` is taken
for as long as it is needed, and given back however that ends.

Who may have a place is the coordinator's to decide. labgrid is asked in short sessions, before
and after: a place stays taken between them, and no connection is kept open meanwhile.
"""

from qedge.toolkit.lab.place import (
    environment_coordinator,
    environment_port,
    is_place,
    missing,
    real_port,
)

__all__ = ["environment_coordinator", "environment_port", "is_place", "missing", "real_port"]
