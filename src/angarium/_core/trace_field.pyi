"""The trace field; documented in cext/trace_field.pyx. Nothing of it is for Python."""

__test__: dict[str, str]
