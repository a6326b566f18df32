"""Which command may come when; documented in cext/command_order.pyx. Nothing of it is for Python."""

__test__: dict[str, str]
