"""MAIL and RCPT; documented in cext/envelope.pyx. Nothing of it is for Python."""

__pyx_capi__: dict[str, object]  # the C functions of envelope.pxd
__test__: dict[str, str]
