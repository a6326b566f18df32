"""The trace field; documented in cext/trace_field.pyx. Nothing of it is for Python."""

__pyx_capi__: dict[str, object]  # the C functions of trace_field.pxd
__test__: dict[str, str]
