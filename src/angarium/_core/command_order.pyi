"""Which command may come when; documented in cext/command_order.pyx. Nothing of it is for Python."""

__pyx_capi__: dict[str, object]  # the C functions of command_order.pxd
__test__: dict[str, str]
