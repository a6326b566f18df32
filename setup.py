"""Build of the compiled core: every cext/NAME.pyx becomes angarium._core.NAME.

ANGARIUM_TRACE=1 builds with line tracing for coverage. There is no pure-Python fallback.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

Options.warning_errors = True

TRACE = os.environ.get("ANGARIUM_TRACE") == "1"
MACROS: list[tuple[str, str | None]] = [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")] if TRACE else []

GENERATED = Path("build/cython/cext")
for source in Path("cext").glob("*.pyx"):
    # Cython does not see that a module's own declarations, which stand elsewhere, have changed
    declarations, made = Path("src/angarium/_core", f"{source.stem}.pxd"), GENERATED / f"{source.stem}.c"
    if declarations.exists() and made.exists() and declarations.stat().st_mtime > made.stat().st_mtime:
        made.unlink()

extensions = [
    Extension(
        f"angarium._core.{source.stem}",
        [str(source)],
        depends=[str(p) for p in sorted(Path("src/angarium/_core").glob("*.pxd"))]
        + [str(p) for p in sorted(Path("cext").glob("*.h"))],
        include_dirs=["cext"],
        extra_compile_args=["-O3", "-g1", "-Wno-unreachable-code-fallthrough"],
        extra_link_args=["-pthread"],
        define_macros=MACROS,
    )
    for source in sorted(Path("cext").glob("*.pyx"))
]

setup(
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=cythonize(
        extensions,
        include_path=["src"],
        build_dir=None if TRACE else "build/cython",
        nthreads=0,
        compiler_directives={
            "language_level": 3,
            "embedsignature": False,
            "boundscheck": True,
            "wraparound": False,
            "cdivision": True,
            "binding": False,
            "linetrace": TRACE,
        },
    ),
)
