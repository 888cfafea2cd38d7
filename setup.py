"""What pyproject.toml cannot say yet: the compiled part of the codec `transform`.

It is optional: where there is no C compiler, setuptools warns, installs the rest, and numpy does the work.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension("slicer.core.codecs.transform._compiled", ["slicer/core/codecs/transform/_compiled.c"], optional=True)
    ]
)
