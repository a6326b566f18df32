"""A 421 behind which a host may go on; documented in cext/farewell.pyx. Nothing of it is for Python."""

from typing_extensions import disjoint_base

@disjoint_base
class Farewell:
    """Of one transaction."""

__test__: dict[str, str]
