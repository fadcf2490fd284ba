"""Builds the training kernels where there is a C++ compiler; without one the package works all the same, in torch.

The same source is compiled once for every instruction set, and the best is chosen when it is loaded: a package built
on one machine runs on another.
"""

import platform
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = "pretrain/native"
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
AVX2 = ["-mavx2", "-mfma", "-DWIDTH=8", "-DISA=avx2"]
AVX512 = ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-DWIDTH=16"]
X86 = [AVX2, [*AVX512, "-DISA=avx512"], [*AVX512, "-mavx512bf16", "-DHALF", "-DISA=avx512_bf16"]]


class BuildKernels(build_ext):
    """Compile ``contrast.cpp`` for every instruction set and link all of them with ``dispatch.cpp``."""

    def build_extension(self, extension: Extension) -> None:
        """Build the one extension there is."""
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        objects = []
        for number, flags in enumerate([["-DISA=generic"], *(X86 if x86 else [])]):
            objects += self.compiler.compile(
                [f"{SOURCES}/contrast.cpp"],
                output_dir=f"{self.build_temp}/{number}",
                extra_postargs=[*FLAGS, *flags],
                depends=extension.depends,
            )
        objects += self.compiler.compile(
            [f"{SOURCES}/dispatch.cpp"],
            output_dir=self.build_temp,
            extra_postargs=[*FLAGS, "-pthread", *(["-DWITH_X86"] if x86 else [])],
            depends=extension.depends,
        )
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(extension.name), extra_postargs=["-pthread"], target_lang="c++"
        )


setup(
    ext_modules=[
        Extension(
            "pretrain.native._kernels",
            [f"{SOURCES}/contrast.cpp", f"{SOURCES}/dispatch.cpp"],
            depends=[f"{SOURCES}/kernels.hpp"],
            language="c++",
            optional=True,  # no compiler, or one that does not know the flags: torch does the work
        )
    ]
    if sys.platform != "win32"
    else [],
    cmdclass={"build_ext": BuildKernels},
)
